"""Controllable feature wrapping in a stock AutoencoderKL: features of its encoder, and decoding with them.

StableSR (2305.07015): behind the last residual block of a level of the decoder and in front of its up-sampling,
h + w C(features, h); the features are the encoder's, behind the last residual block of the same level and in front of
its down-sampling. Level 0 is the full resolution, level k is 2^k times as small.

Both functions exist twice: untiled, by hooks around the VAE's own encoder and decoder, with gradients of the fuse blocks;
and in bands (`vae_bands`), which agrees with it. CUDA graphs of the VAE would not run the hooks.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping
from contextlib import ExitStack
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.downsampling import Downsample2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.cfw_bands import fuse_in_bands
from resdiff.models.strips import Strips
from resdiff.models.vae_bands import apply, bands_for, convolve, head
from resdiff.models.vae_layers import (
    check_image,
    check_offloading,
    decode_with,
    decoder_layers,
    encode_with,
    encoder_layers,
    execution_device,
    vae_factor,
)

Apply = Callable[[nn.Module, Strips], Strips]  # a layer, and its input


# --- where a level ends ------------------------------------------------------------------------------------------


def down_samplers(encoder: Encoder, levels: Collection[int]) -> dict[nn.Module, int]:
    """Return what ends given levels of an encoder; raises ValueError for a level that has no such layer."""
    found = {level: block.downsamplers[0] for level, block in enumerate(encoder.down_blocks) if block.downsamplers}
    if missing := [level for level in levels if level not in found]:
        raise ValueError(f"the encoder has no features of level {missing[0]}, only of levels {list(found)}")
    return {found[level]: level for level in levels}


def up_samplers(decoder: Decoder, levels: Collection[int]) -> dict[nn.Module, int]:
    """Return what ends given levels of a decoder, none of them the last."""
    return {decoder.up_blocks[-1 - level].upsamplers[0]: level for level in levels}


def check_fusion(
    vae: AutoencoderKL,
    cfw: ControllableFeatureWrapping,
    z: Tensor,
    features: Mapping[int, Tensor] | Mapping[int, Strips],
    fidelity: Tensor,
) -> None:
    """Raise ValueError where the parts do not fit each other."""
    widths = tuple(vae.config.block_out_channels)
    if tuple(cfw.config.channels) != widths[1:-1]:
        raise ValueError(
            f"cfw fuses {list(cfw.config.channels)} channels, but the VAE's inner levels have {list(widths[1:-1])}; "
            "use the VAE that it was trained with"
        )
    batch, _, height, width = z.shape
    if fidelity.shape != (batch,):
        raise ValueError(
            f"fidelity has shape {tuple(fidelity.shape)}; it must be {(batch,)}, one number for each image"
        )
    for level in cfw.levels:
        if level not in features:
            raise ValueError(f"features of level {level} are missing; compute them for levels {list(cfw.levels)}")
        scale = 2 ** (len(widths) - 1 - level)
        needed = (batch, widths[level], height * scale, width * scale)
        if tuple(features[level].shape) != needed:
            raise ValueError(
                f"features of level {level} are {tuple(features[level].shape)}, but these latents need {needed}: those "
                f"of an image with {vae_factor(vae)} times their sides"
            )


def per_image(fidelity: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return w as (B, 1, 1, 1)."""
    return fidelity.to(device, dtype)[:, None, None, None]


# --- untiled -----------------------------------------------------------------------------------------------------


def encoder_features(vae: AutoencoderKL, image: Tensor, levels: Collection[int]) -> dict[int, Tensor]:
    """Compute the features that `decode_fused` takes.

    Args:
        vae: Stable Diffusion's kind of AutoencoderKL.
        image: (B, 3, H, W) in [-1, 1], in the dtype of the VAE.
        levels: Levels that are wanted, `cfw.levels`.

    Returns:
        Level -> (B, C, H / 2^level, W / 2^level), sides rounded down, on the device that the VAE computes on.

    Raises:
        ValueError: a side is shorter than the VAE's factor or there is no such level.
    """
    check_image(vae, image)
    features: dict[int, Tensor] = {}

    def keep(level: int) -> Any:
        return lambda _layer, given: features.update({level: given[0]})

    with ExitStack() as hooks:
        for layer, level in down_samplers(vae.encoder, levels).items():
            hooks.enter_context(layer.register_forward_pre_hook(keep(level)))
        encode_with(vae, image, lambda vae, image: vae.encoder(image.to(execution_device(vae))))
    return features


def decode_fused(
    vae: AutoencoderKL,
    cfw: ControllableFeatureWrapping,
    z: Tensor,
    features: Mapping[int, Tensor],
    fidelity: Tensor,
) -> Tensor:
    """Decode with features of an image, as `vae.decode(z).sample` does without; differentiable.

    Args:
        vae: Stable Diffusion's kind of AutoencoderKL.
        cfw: Fuse blocks of its sizes, on its device.
        z: Latents behind the scaling, what `vae.decode` takes, (B, latent channels, h, w).
        features: Of an image of the size that is decoded, from `encoder_features`.
        fidelity: w of each image, (B,): from 0, the features do nothing, to 1, as they do in training.

    Returns:
        Image in about [-1, 1], (B, 3, h * factor, w * factor).

    Raises:
        ValueError: the parts do not fit each other.
    """
    check_fusion(vae, cfw, z, features, fidelity)

    def fuse(level: int) -> Any:
        def fused(_block: nn.Module, _given: Any, h: Tensor) -> Tensor:
            c = cfw(features[level].to(h.device, cfw.dtype), h.to(cfw.dtype), level).to(h.dtype)
            return h + per_image(fidelity, h.device, h.dtype) * c

        return fused

    with ExitStack() as hooks:
        for level in cfw.levels:
            block = vae.decoder.up_blocks[-1 - level].resnets[-1]
            hooks.enter_context(block.register_forward_hook(fuse(level)))
        return decode_with(vae, z, lambda vae, z: vae.decoder(z.to(execution_device(vae)))).to(z.device)


# --- in bands ----------------------------------------------------------------------------------------------------


def collect(layers: Iterable[nn.Module], h: Strips, at: Mapping[nn.Module, int], apply: Apply) -> dict[int, Strips]:
    """Return what comes into the layers `at`, by level; what lies behind the last of them is not computed."""
    features: dict[int, Strips] = {}
    for layer in layers:
        if layer in at:
            features[at[layer]] = h
        if len(features) == len(at):
            break
        h = apply(layer, h)
    return features


def run_fused(
    layers: Iterable[nn.Module],
    h: Strips,
    at: Mapping[nn.Module, int],
    apply: Apply,
    fuse: Callable[[Strips, int], Strips],
) -> Strips:
    """Apply layers, and in front of the layers `at` what is to be done at the end of their level."""
    for layer in layers:
        if layer in at:
            h = fuse(h, at[layer])
        h = apply(layer, h)
    return h


@apply_forward_hook
@torch.no_grad()
def encoder_features_in_bands(
    vae: AutoencoderKL,
    image: Tensor,
    levels: Collection[int],
    rows: int | None = None,  # of an activation computed at once, at every resolution; None: by the width
    hold: torch.device | None = None,  # where activations lie between layers; None: where the image does
) -> dict[int, Strips]:
    """Compute `encoder_features(vae, image, levels)` with at most two activations at full size in memory.

    Arguments and errors are those of `encoder_features`; also a ValueError where `rows` is below 1. The image may be on
    any device. What is returned is for one call of `decode_fused_in_bands`.
    """
    check_image(vae, image)
    bands = bands_for(vae, image, rows, hold)

    def apply_keeping(layer: nn.Module, h: Strips) -> Strips:
        return convolve(layer, h, bands, keep=True) if isinstance(layer, Downsample2D) else apply(layer, h, bands)

    h = convolve(vae.encoder.conv_in, Strips(image), bands)
    return collect(encoder_layers(vae.encoder), h, down_samplers(vae.encoder, levels), apply_keeping)


@torch.no_grad()
def decode_fused_in_bands(
    vae: AutoencoderKL,
    cfw: ControllableFeatureWrapping,
    z: Tensor,
    features: MutableMapping[int, Strips],
    fidelity: Tensor,
    rows: int | None = None,  # of an activation computed at once, at every resolution; None: by the width
    hold: torch.device | None = None,  # where activations lie between layers; None: where z does
) -> Tensor:
    """Compute `decode_fused(vae, cfw, z, features, fidelity)` with a few activations at full size in memory.

    Arguments and errors are those of `decode_fused`; also a ValueError where `rows` is below 1 or `cfw` is offloaded by
    blocks. z may be on any device, the result lies there. `features` are from `encoder_features_in_bands`, of any rows;
    they are taken out of the mapping and freed as they are used. Attention is that of `decode_in_bands`.
    """
    check_fusion(vae, cfw, z, features, fidelity)
    check_offloading(cfw)
    bands = bands_for(vae, z, rows, hold)
    w = per_image(fidelity, bands.device, z.dtype)

    def fuse(h: Strips, level: int) -> Strips:
        return fuse_in_bands(cfw, features.pop(level), h, level, w, bands)

    def decoder(vae: AutoencoderKL, z: Tensor) -> Tensor:
        net = vae.decoder
        h = convolve(net.conv_in, Strips(z), bands)
        layers, at = decoder_layers(net), up_samplers(net, cfw.levels)
        h = run_fused(layers, h, at, lambda layer, h: apply(layer, h, bands), fuse)
        return head(net, h, bands, z.device)

    return decode_with(vae, z, decoder)
