"""Decoding with features of the encoder: F_d + w C(F_e, F_d) where a level ends, untiled and in bands."""

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload, add_hook_to_module

from resdiff.models.strips import Strips
from resdiff.models.vae_bands import decode_in_bands
from resdiff.models.vae_features import (
    decode_fused,
    decode_fused_in_bands,
    encoder_features,
    encoder_features_in_bands,
)

from .test_vae_bands import peak_bytes
from .tiny_cfw import CPU, relative_error, tiny_cfw, tiny_pair, tiny_vae

W = torch.tensor([0.3, 0.8])


def inputs(batch=2, height=3, width=5, factor=8, seed=0):
    """An image and latents of its size."""
    torch.manual_seed(seed)
    return torch.rand(batch, 3, height * factor, width * factor) * 2 - 1, torch.randn(batch, 4, height, width)


@torch.no_grad()
def untiled(vae, cfw, image, z, w=W):
    return decode_fused(vae, cfw, z, encoder_features(vae, image, cfw.levels), w)


def in_bands(vae, cfw, image, z, w=W, rows=None, **options):
    features = encoder_features_in_bands(vae, image, cfw.levels, rows, **options)
    return decode_fused_in_bands(vae, cfw, z, features, w, rows, **options)


def record(layer, into, name):
    """Keep input and output of a layer's calls under a name."""
    layer.register_forward_hook(lambda _, given, out: into.setdefault(name, []).append((given, out)))


# --- features ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_features_are_what_comes_into_the_down_samplers():
    vae, (image, _) = tiny_vae(), inputs()
    seen = {}
    for level in (0, 1, 2):
        record(vae.encoder.down_blocks[level].resnets[-1], seen, level)
    vae.encoder(image)
    features = encoder_features(vae, image, [2, 0, 1])
    assert features.keys() == {0, 1, 2}
    for level, x in features.items():
        assert torch.equal(x, seen[level][0][1])
        assert x.shape == (2, (16, 32, 64)[level], 24 // 2**level, 40 // 2**level)


@torch.no_grad()
def test_in_bands_what_no_feature_needs_is_not_computed():
    vae, (image, _) = tiny_vae(), inputs()
    seen = {}
    record(vae.encoder.down_blocks[1].downsamplers[0], seen, "behind")
    record(vae.encoder.down_blocks[2].resnets[0].conv1, seen, "behind")
    record(vae.encoder.mid_block.resnets[0].conv1, seen, "behind")
    assert encoder_features_in_bands(vae, image, (1,)).keys() == {1}
    assert not seen
    assert encoder_features_in_bands(vae, image, ()) == encoder_features(vae, image, ()) == {}


# --- fusion ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_the_up_samplers_are_given_the_decoders_activation_and_w_times_the_block():
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    features, seen = encoder_features(vae, image, cfw.levels), {}
    blocks = dict(zip((3, 2, 1, 0), vae.decoder.up_blocks, strict=True))
    for level in cfw.levels:
        record(blocks[level].resnets[-1], seen, f"d{level}")
        record(blocks[level].upsamplers[0], seen, f"f{level}")
    record(cfw, seen, "c")
    decode_fused(vae, cfw, z, features, W)
    w = W[:, None, None, None]
    for level, call in zip((2, 1), seen["c"], strict=True):  # the lower resolution first
        (e, h, at), c = call
        (_, d), (fused, _) = seen[f"d{level}"][0], seen[f"f{level}"][0]
        assert at == level
        assert torch.equal(e, features[level])
        assert torch.equal(h, d)  # of level 1: behind what became of the fused activation of level 2
        assert torch.equal(fused[0], d + w * c)
        assert c.abs().mean() > 0.1 * d.abs().mean()
    assert torch.equal(vae.decoder.up_blocks[1].upsamplers[0](seen["f2"][0][0][0]), seen["f2"][0][1])


@torch.no_grad()
def test_the_second_fusion_sees_what_the_first_one_did():
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    given = []
    cfw.fusion_layer(1).register_forward_pre_hook(lambda _, arguments: given.append(arguments))
    features = encoder_features(vae, image, cfw.levels)
    for strength in (0.0, 1.0):
        decode_fused(vae, cfw, z, features, torch.full((2,), strength))
    (e, d), (again, changed) = given
    assert torch.equal(e, again)
    assert relative_error(changed, d) > 0.01


@torch.no_grad()
def test_the_first_fusion_is_linear_in_w():
    (vae, cfw), (image, z) = tiny_pair(), inputs(batch=1)
    seen = {}
    record(vae.decoder.up_blocks[1].upsamplers[0], seen, "f")
    for w in (0.0, 0.25, 1.0):
        untiled(vae, cfw, image, z, torch.tensor([w]))
    zero, quarter, one = (given[0] for given, _ in seen["f"])
    torch.testing.assert_close(quarter, zero + 0.25 * (one - zero), rtol=0, atol=1e-6)
    assert relative_error(one, zero) > 0.01


@pytest.mark.parametrize("decode", [untiled, in_bands])
def test_every_image_has_its_own_w(decode):
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    both = decode(vae, cfw, image, z, W)
    for i in range(2):
        alone = decode(vae, cfw, image[i : i + 1], z[i : i + 1], W[i : i + 1])
        torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=1e-5)
    assert relative_error(decode(vae, cfw, image, z, W.flip(0)), both) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("quant", [True, False])
@pytest.mark.parametrize("decode", [untiled, in_bands])
def test_without_fidelity_the_features_do_nothing(decode, quant):
    (vae, cfw), (image, z) = tiny_pair(use_post_quant_conv=quant), inputs()
    plain = vae.decode(z).sample
    torch.testing.assert_close(decode(vae, cfw, image, z, torch.zeros(2)), plain, rtol=0, atol=1e-5)
    assert relative_error(decode(vae, cfw, image, z), plain) > 0.01


def test_gradients_reach_the_fuse_blocks_alone():
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    vae.requires_grad_(False)
    features = encoder_features(vae, image, cfw.levels)
    assert not any(x.requires_grad for x in features.values())
    decode_fused(vae, cfw, z, features, torch.ones(2)).square().mean().backward()
    for name, x in cfw.named_parameters():
        assert x.grad is not None and bool(x.grad.isfinite().all()), name
    for level in cfw.levels:
        assert float(cfw.fusion_layer(level).encode_enc_1.conv1.weight.grad.abs().max()) > 0
    assert all(x.grad is None for x in vae.parameters())


# --- in bands ----------------------------------------------------------------------------------------------------

VARIANTS = {
    "two_layers_two_rrdbs": {"layers": 2, "num_fuse_block": 2},
    "three_levels": {"widths": (16, 64, 32)},
    "five_levels": {"widths": (8, 32, 32, 64, 32)},
    "no_attention": {"mid_block_add_attention": False},
}


@pytest.mark.parametrize("rows", [None, 1, 6])
@pytest.mark.parametrize("variant", VARIANTS)
def test_bands_give_the_untiled_result(variant, rows):
    vae, cfw = tiny_pair(**VARIANTS[variant])
    image, z = inputs(factor=2 ** (len(vae.config.block_out_channels) - 1))
    whole = untiled(vae, cfw, image, z)
    assert relative_error(in_bands(vae, cfw, image, z, rows=rows), whole) < 2e-5


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 2), (5, 5)])
@pytest.mark.parametrize("rows", [3, 7])
def test_any_size_in_bands_gives_the_untiled_result(height, width, rows):
    (vae, cfw), (image, z) = tiny_pair(), inputs(1, height, width)
    whole = untiled(vae, cfw, image, z, W[:1])
    assert relative_error(in_bands(vae, cfw, image, z, W[:1], rows), whole) < 2e-5


def test_features_may_be_of_other_bands_than_the_decoder_and_are_used_up():
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    features = encoder_features_in_bands(vae, image, cfw.levels, rows=3)
    ours = decode_fused_in_bands(vae, cfw, z, features, W, rows=5)
    assert relative_error(ours, untiled(vae, cfw, image, z)) < 2e-5
    assert features == {}
    with pytest.raises(ValueError, match=r"features of level 1 are missing; compute them for levels \[1, 2\]"):
        decode_fused_in_bands(vae, cfw, z, features, W)


def test_an_image_one_pixel_larger_has_the_features_of_its_latents():
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    larger = torch.cat([image, image[:, :, :, -1:]], dim=3)
    whole = untiled(vae, cfw, larger, z)
    assert relative_error(in_bands(vae, cfw, larger, z, rows=4), whole) < 2e-5


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_float32_as_untiled(dtype):
    (vae, cfw), (image, z) = tiny_pair(), inputs(1)
    image, z, w = image.to(dtype), z.to(dtype), W[:1]
    exact = untiled(vae, cfw, image.float(), z.float(), w)
    vae.to(dtype), cfw.to(dtype)
    plain, ours = untiled(vae, cfw, image, z, w), in_bands(vae, cfw, image, z, w, 7)
    assert plain.dtype == ours.dtype == dtype
    assert relative_error(plain, exact) < 20 * torch.finfo(dtype).eps
    assert (ours - exact).square().mean() < 1.3 * (plain - exact).square().mean()


def test_memory_is_that_of_decoding_in_bands_without_features():
    vae, cfw = tiny_pair((32, 64, 32), mid_block_add_attention=False)
    image, z = inputs(1, 48, 24, factor=4)
    plain = peak_bytes(lambda: decode_in_bands(vae, z, 8))
    assert peak_bytes(lambda: in_bands(vae, cfw, image, z, W[:1], rows=8)) < 1.1 * plain
    assert peak_bytes(lambda: untiled(vae, cfw, image, z, W[:1])) > 2 * plain


def test_activations_are_held_where_asked_and_the_result_lies_with_the_latents(monkeypatch):
    places = []
    append = Strips.append
    monkeypatch.setattr(Strips, "append", lambda self, strip, hold: (places.append(hold), append(self, strip, hold)))
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    elsewhere = torch.device("cpu", 0)  # not equal to torch.device("cpu")
    in_bands(vae, cfw, image, z, rows=24, hold=elsewhere)
    assert places[-1] == CPU
    assert set(places[:-1]) == {elsewhere}


# --- offloading --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("decode", [untiled, in_bands])
def test_weights_that_come_in_layer_by_layer_are_found(decode):
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    plain = decode(vae, cfw, image, z)
    for network in (vae, cfw):
        cpu_offload(network, CPU)  # what enable_sequential_cpu_offload does
    assert torch.equal(decode(vae, cfw, image, z), plain)
    assert {x.device.type for network in (vae, cfw) for x in network.parameters()} == {"meta"}


@torch.no_grad()
@pytest.mark.parametrize("decode", [untiled, in_bands])
def test_offloaded_networks_are_asked_for(decode):
    calls = []

    class Hook(CpuOffload):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return super().pre_forward(module, *args, **kwargs)

    (vae, cfw), (image, z) = tiny_pair(), inputs()
    for network in (vae, cfw):
        add_hook_to_module(network, Hook(CPU))  # what enable_model_cpu_offload does
    decode(vae, cfw, image, z)
    assert calls == [vae, vae, cfw, cfw]


@torch.no_grad()
@pytest.mark.parametrize("decode", [untiled, in_bands])
def test_groups_of_weights_may_be_layers_and_untiled_blocks(decode):
    image, z = inputs()
    plain = decode(*tiny_pair(), image, z)
    vae, cfw = tiny_pair()
    for network in (vae, cfw):
        network.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
    assert torch.equal(decode(vae, cfw, image, z), plain)
    vae, cfw = tiny_pair()
    vae.enable_group_offload(onload_device=CPU, offload_type="block_level", num_blocks_per_group=1)
    if decode is untiled:
        assert torch.equal(decode(vae, cfw, image, z), plain)
        return
    with pytest.raises(ValueError, match="AutoencoderKL is offloaded by blocks"):
        decode(vae, cfw, image, z)


@torch.no_grad()
def test_groups_of_the_fuse_blocks_may_be_blocks_untiled_only():
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    plain = untiled(vae, cfw, image, z)
    cfw.enable_group_offload(onload_device=CPU, offload_type="block_level", num_blocks_per_group=1)
    assert torch.equal(untiled(vae, cfw, image, z), plain)
    with pytest.raises(ValueError, match="ControllableFeatureWrapping is offloaded by blocks"):
        in_bands(vae, cfw, image, z)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", [untiled, in_bands])
def test_parts_that_do_not_fit_are_refused_in_one_line(decode):
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    with pytest.raises(
        ValueError, match=r"^cfw fuses \[32, 32\] channels, but the VAE's inner levels have \[32, 64\]; "
    ):
        decode(vae, tiny_cfw((32, 32)), image, z)
    with pytest.raises(ValueError, match=r"^features of level 1 are \(2, 32, 12, 16\), but .* need \(2, 32, 12, 20\)"):
        decode(vae, cfw, image[..., :32], z)
    with pytest.raises(ValueError, match=r"^features of level 1 are \(1, 32, 12, 20\)"):
        decode(vae, cfw, image[:1], z)
    with pytest.raises(ValueError, match=r"fidelity has shape \(1,\); it must be \(2,\)"):
        decode(vae, cfw, image, z, W[:1])
    with pytest.raises(ValueError, match="image is 4x40; both sides must be at least 8"):
        decode(vae, cfw, image[:, :, :4], z)


def test_levels_and_rows_that_do_not_exist_are_refused():
    (vae, cfw), (image, z) = tiny_pair(), inputs()
    with pytest.raises(ValueError, match=r"no features of level 3, only of levels \[0, 1, 2\]"):
        encoder_features(vae, image, (1, 3))
    with pytest.raises(ValueError, match="rows is 0"):
        encoder_features_in_bands(vae, image, (1,), rows=0)
    with pytest.raises(ValueError, match="rows is 0"):
        in_bands(vae, cfw, image, z, rows=0)
