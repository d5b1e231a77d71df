"""The VQ autoencoder has the published topology and an exact, straight-through quantiser."""

import pytest
import torch

from resdiff.attention import attention_backend
from resdiff.models import vq
from resdiff.models.vq import VectorQuantizer, VQAutoencoder, nearest_codes

TINY = {"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "n_embed": 64, "resolution": 16}


def tiny(**options):
    torch.manual_seed(0)
    net = VQAutoencoder(**TINY | options)
    torch.nn.init.normal_(net.quantize.embedding.weight)
    return net.eval()


@pytest.mark.parametrize(
    ("config", "parameters", "factor"),
    [
        ({}, 55_322_782, 4),
        (
            {"ch": 64, "ch_mult": (1, 2, 4, 8), "num_res_blocks": (1, 2, 3, 4), "resolution": 512}
            | {"z_channels": 8, "embed_dim": 8, "n_embed": 4096},
            77_009_115,
            8,
        ),
    ],
)
def test_published_autoencoders_have_the_published_sizes(config, parameters, factor):
    with torch.device("meta"):
        net = VQAutoencoder(**config)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert net.factor == factor
    shapes = {name: tuple(p.shape) for name, p in net.state_dict().items()}
    assert shapes["encoder.mid.attn_1.q.weight"] == (512, 512, 1, 1)
    assert shapes["quantize.embedding.weight"] == (config.get("n_embed", 8192), config.get("embed_dim", 3))
    top = len(net.config.ch_mult) - 1
    assert f"decoder.up.{top}.upsample.conv.weight" in shapes and "decoder.up.0.upsample.conv.weight" not in shapes
    assert "encoder.down.0.downsample.conv.weight" in shapes
    assert f"encoder.down.{top}.downsample.conv.weight" not in shapes


VARIANTS = {
    "plain": {},
    "blocks_per_level": {"num_res_blocks": (2, 1)},
    "attention_at_level_1": {"attn_resolutions": (8,)},
    "latent_wider_than_z": {"z_channels": 4, "embed_dim": 6},
    "wider_first_level": {"ch_mult": (2, 1)},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_saving_and_loading_gives_the_same_network(variant, tmp_path):
    net = tiny(**VARIANTS[variant])
    net.save_pretrained(tmp_path)
    again = VQAutoencoder.from_pretrained(tmp_path, dtype=torch.float32)
    x = torch.randn(1, 3, 12, 20)
    with torch.no_grad():
        assert net.encode(x).shape == (1, net.config.embed_dim, 6, 10)
        assert net(x).shape == x.shape
        torch.testing.assert_close(again.encode(x), net.encode(x), rtol=0, atol=1e-5)
        z = net.encode(x)
        torch.testing.assert_close(again.decode(z), net.decode(z), rtol=0, atol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_attention_stands_at_the_listed_resolutions_only():
    names = tiny(attn_resolutions=(8,)).state_dict()
    levels = {name.rsplit(".attn.", 1)[0] for name in names if ".attn." in name}
    assert levels == {"encoder.down.1", "decoder.up.1"}
    assert "decoder.up.1.attn.1.proj_out.weight" in names  # the decoder has one more block, and attention after each


@pytest.mark.parametrize(
    ("side", "attending"),
    [
        (25, {"encoder.down.1"}),
        (24, {"decoder.up.1"}),
        (12, {"encoder.down.2", "decoder.up.2"}),
        (48, {"decoder.up.0"}),
    ],
)
def test_the_decoder_counts_resolutions_up_from_the_lowest(side, attending):
    names = tiny(ch_mult=(1, 1, 1), resolution=50, attn_resolutions=(side,)).state_dict()  # 50, 25, 12; 12, 24, 48
    assert {name.rsplit(".attn.", 1)[0] for name in names if ".attn." in name} == attending


def test_a_batch_of_two_equals_two_batches_of_one():
    net = tiny(attn_resolutions=(8,))
    x = torch.randn(2, 3, 16, 12)
    with torch.no_grad():
        z = net.encode(x)
        torch.testing.assert_close(z, torch.cat([net.encode(x[:1]), net.encode(x[1:])]), rtol=0, atol=1e-5)
        image = net.decode(z)
        torch.testing.assert_close(image, torch.cat([net.decode(z[:1]), net.decode(z[1:])]), rtol=0, atol=1e-5)


def test_channels_last_and_eager_attention_change_nothing():
    net = tiny()
    x = torch.randn(1, 3, 16, 12)
    with torch.no_grad():
        z = net.encode(x)
        with attention_backend("eager"):
            torch.testing.assert_close(net.encode(x), z, rtol=0, atol=1e-5)
        net = net.to(memory_format=torch.channels_last)
        last = net.encode(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, z, rtol=0, atol=1e-5)


def test_the_downsampling_pads_right_and_bottom():
    down = vq.Downsample(32)
    x = torch.randn(1, 32, 6, 6)
    h = down(x)
    patch = x[0, :, 0:3, 2:5]  # the window of output (0, 1) starts at pixel (0, 2)
    expected = torch.einsum("oikl,ikl->o", down.conv.weight, patch) + down.conv.bias
    assert h.shape == (1, 32, 3, 3)
    torch.testing.assert_close(h[0, :, 0, 1], expected, rtol=0, atol=1e-5)


def test_codes_are_the_nearest_whatever_the_chunks(monkeypatch):
    z, codebook = torch.randn(1000, 3), torch.randn(50, 3)
    nearest = (z[:, None].double() - codebook.double()).square().sum(-1).argmin(1)
    assert torch.equal(nearest_codes(z, codebook), nearest)
    monkeypatch.setattr(vq, "DISTANCES_AT_ONCE", 50 * 7)  # 7 positions at a time, the last chunk is shorter
    assert torch.equal(nearest_codes(z, codebook), nearest)
    monkeypatch.setattr(vq, "DISTANCES_AT_ONCE", 1)
    assert torch.equal(nearest_codes(z[:20], codebook), nearest[:20])


def test_distances_are_never_held_for_all_positions(monkeypatch):
    monkeypatch.setattr(vq, "DISTANCES_AT_ONCE", 64 * 10)
    sizes, addmm = [], torch.addmm
    monkeypatch.setattr(torch, "addmm", lambda *args, **kw: sizes.append(addmm(*args, **kw)) or sizes[-1])
    nearest_codes(torch.randn(95, 3), torch.randn(64, 3))
    assert [tuple(d.shape) for d in sizes] == [(10, 64)] * 9 + [(5, 64)]


def quantizer():
    torch.manual_seed(0)
    net = VectorQuantizer(16, 3)
    torch.nn.init.normal_(net.embedding.weight)
    return net


def test_quantised_vectors_are_codes_at_their_indices():
    net, z = quantizer(), torch.randn(2, 3, 4, 5)
    z_q, loss, indices = net(z)
    assert indices.shape == (2, 4, 5) and indices.dtype == torch.int64
    torch.testing.assert_close(z_q, net.embedding.weight[indices].permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    torch.testing.assert_close(loss, 1.25 * (z_q - z).square().mean())


def test_gradients_pass_straight_through_the_quantiser():
    net, z = quantizer(), torch.randn(2, 3, 4, 5, requires_grad=True)
    cotangent = torch.randn(2, 3, 4, 5)
    (net(z)[0] * cotangent).sum().backward()
    assert torch.equal(z.grad, cotangent)
    assert net.embedding.weight.grad is None or not net.embedding.weight.grad.any()


def test_the_loss_pulls_latents_to_codes_and_codes_a_quarter_as_much_to_latents():
    net, z = quantizer(), torch.randn(1, 3, 1, 1, requires_grad=True)
    _, loss, indices = net(z)
    loss.backward()
    difference = z.detach().flatten() - net.embedding.weight[indices.item()].detach()
    torch.testing.assert_close(z.grad.flatten(), 2 / 3 * difference)
    torch.testing.assert_close(net.embedding.weight.grad[indices.item()], -0.25 * 2 / 3 * difference)


@pytest.mark.parametrize("autocast", [False, True])
def test_code_distances_are_float32_under_half_precision(autocast):
    net = VectorQuantizer(512, 3)
    torch.nn.init.normal_(net.embedding.weight, std=0.05)
    net.embedding.weight.data += 3  # close codes far from zero: bfloat16 distances could not tell them apart
    z = (3 + 0.05 * torch.randn(1, 3, 32, 32)).bfloat16()
    vectors, codes = z.double().permute(0, 2, 3, 1).reshape(-1, 1, 3), net.embedding.weight.double()
    distances = (vectors - codes).square().sum(-1)  # (1024, 512)
    gap = distances.topk(2, largest=False).values.diff().flatten() > 1e-5  # nearer pairs are ties in float32
    expected = distances.argmin(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        z_q, loss, indices = net(z)
    assert gap.float().mean() > 0.8
    assert torch.equal(indices.flatten()[gap], expected[gap])
    assert z_q.dtype == torch.bfloat16 and loss.dtype == torch.float32


def test_a_model_loaded_in_bfloat16_keeps_exact_codes_and_stays_near_float32(tmp_path):
    net = tiny()
    net.save_pretrained(tmp_path)
    half = VQAutoencoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.encoder.conv_in.weight.dtype == torch.bfloat16
    assert torch.equal(half.quantize.embedding.weight, net.quantize.embedding.weight)
    z = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        exact, rounded = net.decode(z, True), half.decode(z.bfloat16(), True)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - exact).abs().mean() < 0.03 * exact.abs().mean()


@pytest.mark.parametrize(
    "cast", [lambda net: net.to(torch.bfloat16), lambda net: net.half(), lambda net: net.bfloat16()]
)
def test_codes_stay_float32_when_the_network_is_cast(cast):
    net = tiny()
    codes = net.quantize.embedding.weight.clone()
    cast(net)
    assert net.dtype == net.quant_conv.weight.dtype != torch.float32
    assert net.quantize.embedding.weight.dtype == torch.float32
    assert torch.equal(net.quantize.embedding.weight, codes)
    assert cast(net).to("meta").quantize.embedding.weight.device.type == "meta"


def test_a_float32_latent_is_quantised_before_it_is_rounded_to_the_networks_dtype():
    net = tiny()
    z = net.quantize.embedding.weight.detach()[:2].mean(0)  # a point between codes ...
    to_first = net.quantize.embedding.weight.detach()[0] - z
    latent = (z + 1e-4 * to_first).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    seen = []
    net.bfloat16().quantize.register_forward_hook(lambda module, args, output: seen.append((args[0], output[2])))
    with torch.no_grad():
        image = net.decode(latent)
    (given, indices), expected = seen[0], nearest_codes(latent[0, :, 0, :1].T, net.quantize.embedding.weight.detach())
    assert given.dtype == torch.float32 and image.dtype == torch.bfloat16
    assert torch.equal(indices.unique(), expected)


def test_layers_stored_in_float8_leave_the_codes_alone():
    net, z = tiny(), torch.randn(1, 3, 8, 8)
    codes = net.quantize.embedding.weight.clone()
    with torch.no_grad():
        exact, picked = net.decode(z, True), net.quantize(z)[2]
        net.enable_layerwise_casting(torch.float8_e4m3fn, torch.bfloat16)
        stored = net.decode(z, True)
        assert torch.equal(net.quantize(z)[2], picked)
    assert net.decoder.mid.block_1.conv1.weight.dtype == torch.float8_e4m3fn and stored.dtype == torch.bfloat16
    assert torch.equal(net.quantize.embedding.weight, codes)
    assert 0 < (stored.float() - exact).abs().mean() < 0.3 * exact.abs().mean()


def test_decoding_quantises_unless_told_not_to():
    net = tiny()
    z = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(net.decode(z), net.decode(net.quantize(z)[0], force_not_quantize=True))
        assert (net.decode(z) - net.decode(z, force_not_quantize=True)).abs().max() > 1e-3


def test_wrong_sizes_and_settings_are_refused():
    with pytest.raises(ValueError, match="x is 16x15; pad both sides to multiples of 2"):
        tiny().encode(torch.randn(1, 3, 16, 15))
    with pytest.raises(ValueError, match=r"num_res_blocks is \[1\] but ch_mult has 2 levels"):
        tiny(num_res_blocks=[1])
    with pytest.raises(ValueError, match="multiple of 32"):
        tiny(ch=24)
