"""The Swin UNet has the published topology, and computes the same in every layout and precision."""

import pytest
import torch
import torch.nn.functional as F

from resdiff.models.swin_unet import Downsample, ResBlock, Stage, SwinUNet, sinusoidal_embedding

TINY = {
    "image_size": 16,
    "model_channels": 32,
    "num_res_blocks": (1, 1),
    "attention_resolutions": (16, 8),
    "channel_mult": (1, 2),
    "num_head_channels": 16,
    "swin_embed_dim": 32,
    "window_size": 4,
    "mlp_ratio": 2.0,
    "lq_size": 16,
}


def tiny(**options):
    """A small network in which every parameter matters (zero-initialised ones included)."""
    net = SwinUNet(**TINY | options)
    torch.manual_seed(1)
    for name, p in net.named_parameters():
        if "norm" in name or p.ndim == 1:
            torch.nn.init.normal_(p, mean=float(name.endswith("weight")), std=0.2)
        else:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
    return net.eval()


def inputs(batch=2, height=16, width=24, channels=3, lq_factor=1):
    torch.manual_seed(2)
    lq = torch.randn(batch, 3, int(height * lq_factor), int(width * lq_factor))
    return torch.randn(batch, channels, height, width), torch.arange(batch) * 5 + 1, lq


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ({"lq_size": 64}, 118_593_583),
        ({"in_channels": 6, "lq_size": None}, 118_593_583),  # SinSR
        ({"lq_size": 256, "cond_mask": True}, 118_714_399),  # inpainting
        ({"in_channels": 8, "out_channels": 8, "lq_size": 512}, 118_931_604),  # faceir
    ],
)
def test_published_networks_have_the_published_sizes(config, parameters):
    with torch.device("meta"):
        net = SwinUNet(**config)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.input_blocks) == len(net.output_blocks) == 12
    assert net.size_multiple == 64
    shapes = {name: tuple(p.shape) for name, p in net.state_dict().items()}
    with_swin = [i for i in range(12) if f"input_blocks.{i}.1.patch_embed.proj.weight" in shapes]
    with_swin_up = [i for i in range(12) if f"output_blocks.{i}.1.patch_embed.proj.weight" in shapes]
    assert (with_swin, with_swin_up) == ([1, 4, 7, 10], [0, 3, 6, 9])
    assert [i for i in range(12) if f"input_blocks.{i}.0.op.weight" in shapes] == [3, 6, 9]
    upsamples = [name for name in shapes if name.endswith(".conv.weight")]
    assert upsamples == [f"output_blocks.{i}.1.conv.weight" for i in (2, 5, 8)]
    assert shapes["middle_block.1.blocks.1.attn.relative_position_bias_table"] == (225, 6)
    assert shapes["output_blocks.0.0.in_layers.2.weight"] == (640, 1280, 3, 3)


@pytest.mark.parametrize("lq_size", [32, 64, 128])
def test_a_larger_condition_gets_one_strided_stage_per_halving(lq_size):
    net = tiny(lq_size=lq_size)
    factor = lq_size // 16
    assert net.lq_factor == factor
    assert net.input_blocks[0][0].in_channels == 3 + 16 * factor
    x, t, lq = inputs(lq_factor=factor)
    assert net(x, t, lq).shape == x.shape


VARIANTS = {
    "published": {},
    "averaging": {"conv_resample": False},
    "resblock_updown": {"resblock_updown": True},
    "no_scale_shift": {"use_scale_shift_norm": False},
    "num_heads": {"num_head_channels": -1, "num_heads": 4},
    "fractional_width": {"channel_mult": (1, 1.5), "model_channels": 64},
    "clipped_window": {"window_size": 16},
    "deep_swin": {"swin_depth": 3},
    "patch_norm": {"patch_norm": True},
    "one_number_of_blocks": {"num_res_blocks": 2},
    "no_swin_but_in_the_middle": {"attention_resolutions": ()},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_of_two_equals_two_batches_of_one(variant):
    net = tiny(**VARIANTS[variant])
    x, t, lq = inputs(width=32)
    with torch.no_grad():
        both = net(x, t, lq)
        alone = torch.cat([net(x[i : i + 1], t[i : i + 1], lq[i : i + 1]) for i in range(2)])
    assert both.shape == x.shape and both.std() > 0.05
    torch.testing.assert_close(both, alone, rtol=0, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saving_and_loading_gives_the_same_network(variant, tmp_path):
    net = tiny(**VARIANTS[variant])
    net.save_pretrained(tmp_path)
    again = SwinUNet.from_pretrained(tmp_path, dtype=torch.float32)
    x, t, lq = inputs(1, width=32)
    with torch.no_grad():
        # not equal bit for bit: weights mapped from a file are aligned otherwise, and sums are then ordered otherwise
        torch.testing.assert_close(again(x, t, lq), net(x, t, lq), rtol=0, atol=2e-5)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_timestep_condition_and_mask_all_change_the_output():
    net = tiny(cond_mask=True)
    x, t, lq = inputs()
    mask = torch.randn(2, 1, 16, 24)
    with torch.no_grad():
        out = net(x, t, lq, mask)
        for changed in (net(x, t + 1, lq, mask), net(x, t, -lq, mask), net(x, t, lq, -mask)):
            assert (changed - out).abs().max() > 1e-3


def test_every_parameter_gets_a_gradient():
    net = tiny(lq_size=32, model_channels=64)
    net(*inputs(lq_factor=2)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_residual_branches_start_at_zero():
    net = SwinUNet(**TINY)
    ends = [p for name, p in net.named_parameters() if ".out_layers.3." in name]
    assert len(ends) == 2 * 8 and all(p.abs().max() == 0 for p in ends)


def test_an_unused_condition_still_widens_the_first_convolution():
    net = tiny(cond_lq=False, lq_size=32)
    assert net.input_blocks[0][0].in_channels == 3 + 32
    x, t, _ = inputs(channels=35)
    assert net(x, t).shape == (2, 3, 16, 24)


def test_sinsr_takes_the_condition_at_three_sizes():
    x, t, _ = inputs(height=16, width=32)
    with torch.no_grad():
        net = tiny(in_channels=6, lq_size=None)
        quarter = torch.randn(2, 3, 4, 8)
        enlarged = quarter.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
        assert torch.equal(net(x, t, quarter), net(x, t, enlarged))
        net = tiny(in_channels=15, lq_size=None)
        twice = torch.randn(2, 3, 32, 64)
        blocks = twice.reshape(2, 3, 16, 2, 32, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 12, 16, 32)
        assert torch.equal(net(x, t, twice), net(x, t, blocks))


def test_sinusoidal_embedding_has_cosines_first():
    emb = sinusoidal_embedding(torch.tensor([0, 3]), 5)
    frequencies = torch.tensor([1.0, 10000**-0.5])
    assert emb[0].tolist() == [1, 1, 0, 0, 0]
    expected = torch.cat([torch.cos(3 * frequencies), torch.sin(3 * frequencies), torch.zeros(1)])
    torch.testing.assert_close(emb[1], expected, rtol=0, atol=1e-6)


def resblock(use_scale_shift_norm, resize=None):
    torch.manual_seed(3)
    block = ResBlock(32, 64, 16, 0.0, use_scale_shift_norm, resize)
    for p in block.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return block, dict(block.named_parameters()), torch.randn(1, 32, 8, 8), torch.randn(1, 16)


@pytest.mark.parametrize("use_scale_shift_norm", [True, False])
def test_the_residual_block_scales_by_the_first_half_of_the_embedding_or_adds_it(use_scale_shift_norm):
    block, w, x, emb = resblock(use_scale_shift_norm)
    h = F.group_norm(x, 32, w["in_layers.0.weight"], w["in_layers.0.bias"], 1e-5)
    h = F.conv2d(F.silu(h), w["in_layers.2.weight"], w["in_layers.2.bias"], padding=1)
    e = F.linear(F.silu(emb), w["emb_layers.1.weight"], w["emb_layers.1.bias"])[..., None, None]
    if not use_scale_shift_norm:
        h = h + e
    h = F.group_norm(h, 32, w["out_layers.0.weight"], w["out_layers.0.bias"], 1e-5)
    if use_scale_shift_norm:
        h = h * (1 + e[:, :64]) + e[:, 64:]
    h = F.conv2d(F.silu(h), w["out_layers.3.weight"], w["out_layers.3.bias"], padding=1)
    expected = h + F.conv2d(x, w["skip_connection.weight"], w["skip_connection.bias"])
    torch.testing.assert_close(block(x, emb), expected, rtol=0, atol=1e-4)


def test_a_resampling_residual_block_resizes_both_branches_before_its_first_convolution():
    block, w, x, emb = resblock(True, Downsample(32, 32, learnt=False))
    torch.nn.init.zeros_(w["out_layers.3.weight"])
    torch.nn.init.zeros_(w["out_layers.3.bias"])
    shapes = []
    block.in_layers[2].register_forward_hook(lambda _, args, __: shapes.append(tuple(args[0].shape[2:])))
    expected = F.conv2d(F.avg_pool2d(x, 2), w["skip_connection.weight"], w["skip_connection.bias"])
    torch.testing.assert_close(block(x, emb), expected, rtol=0, atol=1e-5)
    assert shapes == [(4, 4)]


def test_the_skip_follows_the_features():
    h, skip = torch.zeros(1, 2, 4, 4), torch.ones(1, 3, 4, 4)
    out = Stage([torch.nn.Identity()])(h, torch.zeros(1, 8), skip)
    assert out[0, :, 0, 0].tolist() == [0, 0, 1, 1, 1]


def test_float_and_integer_timesteps_are_the_same():
    net = tiny()
    x, t, lq = inputs()
    with torch.no_grad():
        assert torch.equal(net(x, t, lq), net(x, t.float(), lq))


def test_channels_last_changes_nothing_and_is_kept():
    net = tiny()
    x, t, lq = inputs()
    with torch.no_grad():
        out = net(x, t, lq)
        net = net.to(memory_format=torch.channels_last)
        last = net(x.contiguous(memory_format=torch.channels_last), t, lq)
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, out, rtol=0, atol=2e-5)


def test_bfloat16_stays_near_float32():
    net = tiny()
    x, t, lq = inputs()
    with torch.no_grad():
        exact = net(x, t, lq)
        half = net.bfloat16()(x.bfloat16(), t, lq)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().mean() < 0.02 * exact.abs().mean() + 0.01


def test_layers_stored_in_float8_still_run():
    net = tiny()
    x, t, lq = inputs()
    with torch.no_grad():
        exact = net(x, t, lq)
        net.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        assert net.middle_block[0].in_layers[2].weight.dtype == torch.float8_e4m3fn
        assert net.time_embed[0].weight.dtype == torch.float32
        stored = net(x, t, lq)
    assert 0 < (stored - exact).abs().mean() < 0.3 * exact.abs().mean()


def test_gradient_checkpointing_is_used_and_keeps_the_gradients():
    net = tiny(dropout=0.0).train()
    x, t, lq = inputs()

    def gradients():
        net.zero_grad()
        net(x, t, lq).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters()])

    plain = gradients()
    net.enable_gradient_checkpointing()
    checkpoint, stages = net._gradient_checkpointing_func, []
    net._gradient_checkpointing_func = lambda stage, *args: stages.append(stage) or checkpoint(stage, *args)
    again = gradients()
    assert len(stages) == len(net.input_blocks) + 1 + len(net.output_blocks)
    torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-4 * plain.abs().max().item())


def test_size_multiple_follows_the_windows_of_the_deepest_level():
    assert tiny().size_multiple == 8
    assert tiny(attention_resolutions=(16,)).size_multiple == 8  # the middle block has windows as well
    assert tiny(window_size=8).size_multiple == 16
    assert tiny(window_size=16).size_multiple == 16  # clipped to 16 at the top and 8 below
    assert tiny(window_size=3, attention_resolutions=(16,)).size_multiple == 6


def test_sizes_that_do_not_fill_windows_are_refused_with_the_multiple():
    x, t, lq = inputs(width=20)
    with pytest.raises(ValueError, match="x is 16x20; pad both sides to multiples of 8"):
        tiny()(x, t, lq)


def test_wrong_conditions_are_refused():
    x, t, lq = inputs()
    mask = torch.zeros(2, 1, 16, 24)
    with pytest.raises(ValueError, match="lq is None but the network has cond_lq=True"):
        tiny()(x, t)
    with pytest.raises(ValueError, match="mask is given but the network has cond_mask=False"):
        tiny()(x, t, lq, mask)
    with pytest.raises(ValueError, match="mask is None but the network has cond_mask=True"):
        tiny(cond_mask=True)(x, t, lq)
    with pytest.raises(ValueError, match=r"lq is \(16, 24\) for a latent of \(16, 24\); its sides must be 2 times"):
        tiny(lq_size=32)(x, t, lq)
    with pytest.raises(ValueError, match="its sides must be 1, 2 or 1/4 times"):
        tiny(in_channels=6, lq_size=None)(x, t, torch.randn(2, 3, 8, 12))


def test_contradictory_settings_are_refused():
    with pytest.raises(ValueError, match=r"num_res_blocks is \[1, 1, 1\] but channel_mult has 2 levels"):
        tiny(num_res_blocks=(1, 1, 1))
    with pytest.raises(ValueError, match="lq_size is 24; it must be image_size"):
        tiny(lq_size=24)
    with pytest.raises(ValueError, match="image_size is 15; 2 levels need a multiple of 2"):
        tiny(image_size=15)
    with pytest.raises(ValueError, match="cond_mask is True"):
        tiny(cond_mask=True, lq_size=None)
    with pytest.raises(ValueError, match="no attention head"):
        tiny(num_head_channels=64)
    with pytest.raises(ValueError, match="multiple of 32"):
        tiny(model_channels=40)


@torch.no_grad()
def test_the_encoder_is_embedded_input_each_level_and_the_middle():
    net = tiny()
    seen, states = [], []
    for stage in (net.input_blocks[0], net.input_blocks[1], net.middle_block):  # [2] reduces
        stage.register_forward_hook(lambda _, __, output: states.append(output))
    seen = net.encode(*inputs())
    assert [tuple(f.shape) for f in seen] == [(2, 32, 16, 24), (2, 32, 16, 24), (2, 64, 8, 12)]
    assert tuple(f.shape[1] for f in seen) == net.encoder_dims
    assert all(torch.equal(ours, state) for ours, state in zip(seen, states, strict=True))
