"""Stable Diffusion's autoencoder on canvases of any size: untiled, in our bands, or in the published tiles."""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from resdiff.devices import is_hooked
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.vae_bands import decode_in_bands, encode_in_bands
from resdiff.models.vae_features import decode_fused, decode_fused_in_bands, encoder_features, encoder_features_in_bands
from resdiff.models.vae_hook import decode_hooked, encode_hooked
from resdiff.models.vae_layers import decode_with, encode_with, vae_factor
from resdiff.pipelines.precision import HALF, in_float32

logger = logging.getLogger(__name__)

UNTILED = 128 * 128  # latents up to which "auto" does not cut: 1024 x 1024 px


@dataclass(frozen=True)
class VaeTiles:
    """SeeSR's tiled VAE (utils/vaehook.py), which changes the image a little; the sizes of its test script."""

    encoder: int = 1024  # px
    decoder: int = 224  # latents
    fast: bool = False  # statistics of a thumbnail: less exact, and tiles need not be held together


@dataclass(frozen=True)
class Fusion:
    """What a decoder takes from the LR image: StableSR's controllable feature wrapping."""

    cfw: ControllableFeatureWrapping
    image: Tensor  # (B, 3, H, W) in [-1, 1], of the result's size
    fidelity: Tensor  # (B,) in [0, 1]


VaeTiling: TypeAlias = Literal["auto", "off", "bands"] | VaeTiles


def check_vae_tiling(tiling: object) -> None:
    """Raise ValueError unless `tiling` is a `VaeTiling`."""
    if tiling not in ("auto", "off", "bands") and not isinstance(tiling, VaeTiles):
        raise ValueError(f'vae_tiling={tiling!r} is unknown; use "auto", "bands", "off" or VaeTiles(...) as published')


def encode(vae: AutoencoderKL, image: Tensor, noise: Tensor, tiling: VaeTiling = "auto") -> Tensor:
    """Return a sample of the posterior of images (B, 3, H, W) in [-1, 1], times the scaling factor, float32.

    noise: standard normal, (B, C, h, w). tiling: "auto" cuts above 1024 x 1024 px, into bands, which agree with the
    untiled result.
    """
    image = image.to(vae.dtype)
    latents = image.shape[-2] * image.shape[-1] // vae_factor(vae) ** 2
    if isinstance(tiling, VaeTiles):
        posterior = encode_with(vae, image, partial(encode_hooked, tile=tiling.encoder, fast=tiling.fast))
    elif tiling == "bands" or (tiling == "auto" and latents > UNTILED):
        posterior = encode_with(vae, image, encode_in_bands)
    else:
        posterior = vae.encode(image).latent_dist
    sample = posterior.mean.float() + posterior.std.float() * noise
    return sample * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: Tensor, tiling: VaeTiling = "auto", fusion: Fusion | None = None) -> Tensor:
    """Return the images (B, 3, H, W) float32, about [-1, 1], of scaled latents; tiling as in `encode`, without VaeTiles
    where features are fused.

    What half precision makes NaN or Inf of, which this autoencoder is known for, is decoded again in float32.
    """
    image = _decoded(vae, latents, tiling, fusion)
    if vae.dtype in HALF and not is_hooked(vae) and not torch.isfinite(image).all() and torch.isfinite(latents).all():
        logger.warning("a decoded image is not finite in %s; decoding it in float32", vae.dtype)
        with in_float32([vae]):
            image = _decoded(vae, latents, tiling, fusion)
    return image


def _decoded(vae: AutoencoderKL, latents: Tensor, tiling: VaeTiling, fusion: Fusion | None) -> Tensor:
    z = (latents / vae.config.scaling_factor).to(vae.dtype)
    if fusion is not None:
        return _fused(vae, z, tiling == "bands" or (tiling == "auto" and z.shape[-2] * z.shape[-1] > UNTILED), fusion)
    if isinstance(tiling, VaeTiles):
        return decode_with(vae, z, partial(decode_hooked, tile=tiling.decoder, fast=tiling.fast)).float()
    if tiling == "bands" or (tiling == "auto" and z.shape[-2] * z.shape[-1] > UNTILED):
        return decode_with(vae, z, decode_in_bands).float()
    return vae.decode(z).sample.float()


def _fused(vae: AutoencoderKL, z: Tensor, in_bands: bool, fusion: Fusion) -> Tensor:
    image, levels = fusion.image.to(vae.dtype), fusion.cfw.levels
    if in_bands:
        strips = encoder_features_in_bands(vae, image, levels)
        return decode_fused_in_bands(vae, fusion.cfw, z, strips, fusion.fidelity).float()
    return decode_fused(vae, fusion.cfw, z, encoder_features(vae, image, levels), fusion.fidelity).float()
