"""What both tiled VAEs stand on: the list of layers, weights under offloading, and the whole VAE around them."""

from functools import partial

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload, add_hook_to_module
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from resdiff.models.vae_bands import decode_in_bands, encode_in_bands
from resdiff.models.vae_hook import decode_hooked, encode_hooked
from resdiff.models.vae_layers import (
    decode_with,
    decoder_layers,
    encode_with,
    encoder_layers,
    execution_device,
    scale_and_shift,
)

CPU = torch.device("cpu")
ENCODERS = {"bands": partial(encode_in_bands, rows=5), "hook": partial(encode_hooked, tile=8)}
DECODERS = {"bands": partial(decode_in_bands, rows=5), "hook": partial(decode_hooked, tile=8)}


def tiny(**options):
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8, **blocks, **options).eval()


def test_the_layers_in_order_are_the_network():
    vae = tiny()
    kinds = [type(layer) for layer in encoder_layers(vae.encoder)]
    assert kinds == [ResnetBlock2D, Downsample2D, ResnetBlock2D, ResnetBlock2D, Attention, ResnetBlock2D]
    layers = decoder_layers(vae.decoder)
    assert [type(x) for x in layers] == [
        ResnetBlock2D,
        Attention,
        *[ResnetBlock2D] * 3,
        Upsample2D,
        *[ResnetBlock2D] * 2,
    ]
    h = torch.randn(1, 32, 5, 4)
    with torch.no_grad():
        theirs = vae.decoder.up_blocks[1](vae.decoder.up_blocks[0](vae.decoder.mid_block(h)))
        for layer in layers:
            h = layer(h, None) if isinstance(layer, ResnetBlock2D) else layer(h)
    torch.testing.assert_close(h, theirs)


def test_scale_and_shift_are_group_norm():
    norm = nn.GroupNorm(3, 12, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 12, 5, 6) * 2 + 3
    groups = x.double().unflatten(1, (3, 4)).flatten(2)
    scale, shift = scale_and_shift(norm, groups.mean(2), groups.var(2, correction=0), CPU)
    torch.testing.assert_close(x * scale + shift, norm(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("quant", [True, False])
@pytest.mark.parametrize("mode", ENCODERS)
def test_the_whole_vae_is_around_the_parts(mode, quant):
    vae = tiny(use_quant_conv=quant, use_post_quant_conv=quant)
    image, z = torch.randn(1, 3, 26, 18), torch.randn(1, 4, 13, 9)  # small: the hook computes them untiled
    with torch.no_grad():
        theirs = vae.encode(image).latent_dist
        ours = encode_with(vae, image, ENCODERS[mode])
        torch.testing.assert_close(ours.parameters, theirs.parameters, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            ours.sample(torch.Generator().manual_seed(1)), theirs.sample(torch.Generator().manual_seed(1))
        )
        torch.testing.assert_close(decode_with(vae, z, DECODERS[mode]), vae.decode(z).sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ENCODERS)
def test_weights_that_come_in_layer_by_layer_are_found_and_leave_again(mode):
    image, z = torch.randn(1, 3, 90, 20), torch.randn(1, 4, 36, 9)
    vae = tiny()
    plain = encode_with(vae, image, ENCODERS[mode]).mean, decode_with(vae, z, DECODERS[mode])
    cpu_offload(vae, CPU)  # what enable_sequential_cpu_offload does
    assert {x.device.type for x in vae.parameters()} == {"meta"}
    assert execution_device(vae) == CPU
    assert torch.equal(encode_with(vae, image, ENCODERS[mode]).mean, plain[0])
    assert torch.equal(decode_with(vae, z, DECODERS[mode]), plain[1])
    assert {x.device.type for x in vae.parameters()} == {"meta"}


@pytest.mark.parametrize("code", ["encode", "decode"])
@pytest.mark.parametrize("mode", ENCODERS)
def test_every_function_asks_for_an_offloaded_vae(mode, code):
    calls = []

    class Hook(CpuOffload):
        def pre_forward(self, module, *args, **kwargs):
            calls.append(module)
            return super().pre_forward(module, *args, **kwargs)

    vae = tiny()
    add_hook_to_module(vae, Hook(CPU))  # what enable_model_cpu_offload does
    if code == "encode":
        ENCODERS[mode](vae, torch.randn(1, 3, 16, 16))
        encode_with(vae, torch.randn(1, 3, 16, 16), ENCODERS[mode])
    else:
        DECODERS[mode](vae, torch.randn(1, 4, 8, 8))
        decode_with(vae, torch.randn(1, 4, 8, 8), DECODERS[mode])
    assert calls == [vae] * 3


@pytest.mark.parametrize("mode", ENCODERS)
def test_groups_of_weights_may_be_layers_but_not_blocks(mode):
    z = torch.randn(1, 4, 36, 9)
    plain = decode_with(tiny(), z, DECODERS[mode])
    vae = tiny()
    vae.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
    assert torch.equal(decode_with(vae, z, DECODERS[mode]), plain)
    vae = tiny()
    vae.enable_group_offload(onload_device=CPU, offload_type="block_level", num_blocks_per_group=1)
    with pytest.raises(ValueError, match="offload_type='leaf_level'"):
        decode_with(vae, z, DECODERS[mode])
