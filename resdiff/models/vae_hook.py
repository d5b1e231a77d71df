"""AutoencoderKL in tiles as SeeSR (2311.16518) publishes it: every tile is the whole network's, GroupNorm is shared.

Reference: VAEHook of cswry/SeeSR utils/vaehook.py, from "Tiled VAE" of multidiffusion-upscaler. For parity with
published results: tiles attend only to themselves and the variance between tiles is left out, so the output differs
from the untiled one. `vae_bands` has neither difference.
"""

import math
from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.resnet import ResnetBlock2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.attention import attention
from resdiff.models.vae_layers import check_offloading, decoder_layers, encoder_layers, scale_and_shift, vae_factor

ENCODER_PAD = 32  # pixels around a tile
DECODER_PAD = 11  # latents around a tile

Box = tuple[int, int, int, int]  # x1, x2, y1, y2; the order of the reference
Moments = tuple[Tensor, Tensor]  # mean and biased variance of the groups, each (B, groups) float32
Statistics = Callable[[nn.GroupNorm, list[Tensor]], Moments]  # of a layer, from all tiles of its input


# --- layout ------------------------------------------------------------------------------------------------------


class Tile(NamedTuple):
    """What a tile reads, what its output covers, and the part of that which is used."""

    source: Box  # of the input
    covered: Box  # of the output
    target: Box  # of the output


def tile_length(length: int, tile: int, pad: int) -> int:
    """Return the length of the tiles' cores along an axis.

    As few cores of at most `tile` as cover the axis without its first and last `pad`, of equal length, which is then
    raised to a multiple of 32 if that does not exceed `tile`, else of 16, 8, 4 or 2.
    """
    inner = length - 2 * pad
    even = math.ceil(inner / max(1, math.ceil(inner / tile)))
    raised = (-(-even // divisor) * divisor for divisor in (32, 16, 8, 4, 2))
    return next((candidate for candidate in raised if candidate == even or candidate <= tile), even)


def tile_spans(length: int, tile: int, pad: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return for each tile along an axis the (start, stop) that it reads and the part of it that it is there for."""
    core = tile_length(length, tile, pad)
    spans = []
    for k in range(max(1, math.ceil((length - 2 * pad) / tile))):
        start, stop = pad + k * core, min(pad + (k + 1) * core, length)
        read = max(0, start - pad), min(length, stop + pad)
        spans.append((read, (start if start > pad else 0, stop if stop < length - pad else length)))
    return spans


def tile_layout(height: int, width: int, tile: int, pad: int, *, up: int = 1, down: int = 1) -> list[Tile]:
    """Return the tiles of an input of `height` x `width`, whose output is `up` times or 1 / `down` as large.

    Rows of tiles from the top, each from the left.
    """

    def scaled(box: Box) -> Box:
        x1, x2, y1, y2 = (edge * up // down for edge in box)
        return x1, x2, y1, y2

    return [
        Tile((*x, *y), scaled((*x, *y)), scaled((*x_part, *y_part)))
        for (y, y_part), (x, x_part) in product(tile_spans(height, tile, pad), tile_spans(width, tile, pad))
    ]


# --- the network on a list of tiles ------------------------------------------------------------------------------


def shared_statistics(norm: nn.GroupNorm, tiles: list[Tensor]) -> Moments:
    """Average mean and variance over the tiles by their number of pixels; as in the reference, changes numbers."""
    counts = [tile.shape[2] * tile.shape[3] for tile in tiles]
    mean = var = torch.zeros((), device=tiles[0].device)
    for tile, count in zip(tiles, counts, strict=True):
        groups = tile.float().unflatten(1, (norm.num_groups, -1))
        tile_var, tile_mean = torch.var_mean(groups, dim=(2, 3, 4), correction=0)
        mean, var = mean + tile_mean * (count / sum(counts)), var + tile_var * (count / sum(counts))
    return mean, var


def normalised(norm: nn.GroupNorm, tiles: list[Tensor], statistics: Statistics) -> list[Tensor]:
    """Apply GroupNorm with given statistics to every tile."""
    scale, shift = scale_and_shift(norm, *statistics(norm, tiles), tiles[0].device)
    return [torch.addcmul(shift, tile.float(), scale).to(tile.dtype) for tile in tiles]


def residual_block(block: ResnetBlock2D, tiles: list[Tensor], statistics: Statistics) -> list[Tensor]:
    """GroupNorm, SiLU and convolution, twice, added to the input or to its 1x1 convolution."""
    h = [block.conv1(block.nonlinearity(tile)) for tile in normalised(block.norm1, tiles, statistics)]
    h = [block.conv2(block.nonlinearity(tile)) for tile in normalised(block.norm2, h, statistics)]
    if block.conv_shortcut is not None:
        tiles = [block.conv_shortcut(tile) for tile in tiles]
    return [(tile + residual) / block.output_scale_factor for tile, residual in zip(tiles, h, strict=True)]


def attend(attn: Attention, tiles: list[Tensor], statistics: Statistics) -> list[Tensor]:
    """Self-attention inside each tile, added to it."""
    found = []
    for tile, h in zip(tiles, normalised(attn.group_norm, tiles, statistics), strict=True):
        tokens = h.flatten(2).transpose(1, 2)  # (B, N, C)
        q, k, v = (
            layer(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2) for layer in (attn.to_q, attn.to_k, attn.to_v)
        )  # (B, heads, N, C / heads)
        y = attn.to_out[0](attention(q, k, v).transpose(1, 2).flatten(2)).transpose(1, 2).view_as(tile)
        found.append((y + tile if attn.residual_connection else y) / attn.rescale_output_factor)
    return found


def run(
    net: Encoder | Decoder,
    layers: Iterable[nn.Module],
    tiles: list[Tensor],
    statistics: Statistics,
) -> list[Tensor]:
    """Apply a network to all tiles, layer by layer."""
    h = [net.conv_in(tile) for tile in tiles]
    for layer in layers:
        match layer:
            case ResnetBlock2D():
                h = residual_block(layer, h, statistics)
            case Attention():
                h = attend(layer, h, statistics)
            case _:
                h = [layer(tile) for tile in h]
    return [net.conv_out(net.conv_act(tile)) for tile in normalised(net.conv_norm_out, h, statistics)]


# --- fast mode ---------------------------------------------------------------------------------------------------


def thumbnail(x: Tensor, tile: int, least: int) -> Tensor:
    """Shrink (B, C, H, W) to `tile` on the long side, with mean and std of its channels and within its range.

    Raises ValueError where the short side becomes shorter than `least`.
    """
    height, width = x.shape[-2:]
    scale = tile / max(height, width)
    if math.floor(min(height, width) * scale) < least:
        raise ValueError(f"{height}x{width} is too long for the fast mode with tiles of {tile}; switch it off")
    small = F.interpolate(x, scale_factor=scale, mode="nearest-exact")
    std, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True)
    small_std, small_mean = torch.std_mean(small, dim=(0, 2, 3), keepdim=True)
    return ((small - small_mean) / small_std * std + mean).clamp(x.min(), x.max())


def fast_statistics(
    net: Encoder | Decoder, layers: Iterable[nn.Module], small: Tensor
) -> dict[nn.GroupNorm, Moments] | None:
    """Return the statistics that the network's layers have on a thumbnail.

    None where it has none because a channel is constant: the exact mode is then what the published one falls back to.
    """
    found: dict[nn.GroupNorm, Moments] = {}

    def record(norm: nn.GroupNorm, tiles: list[Tensor]) -> Moments:
        found[norm] = shared_statistics(norm, tiles)
        return found[norm]

    run(net, layers, [small], record)
    finite = all(bool(moment.isfinite().all()) for moments in found.values() for moment in moments)
    return found if finite else None


# --- the public functions ----------------------------------------------------------------------------------------


def run_tiled(
    net: Encoder | Decoder, layers: list[nn.Module], x: Tensor, layout: list[Tile], small: Tensor | None
) -> Tensor:
    """Apply a network to the tiles of a layout and put their results together; in fast mode with a thumbnail."""
    parts = [x[:, :, y1:y2, x1:x2] for (x1, x2, y1, y2), _, _ in layout]
    known = None if small is None else fast_statistics(net, layers, small)
    if known is None:
        parts = run(net, layers, parts, shared_statistics)
    else:  # the tiles no longer need each other
        parts = [run(net, layers, [part], lambda norm, _: known[norm])[0] for part in parts]
    _, width, _, height = layout[-1].target
    out = parts[0].new_empty(*parts[0].shape[:2], height, width)
    for part, (_, (left, right, top, bottom), (x1, x2, y1, y2)) in zip(parts, layout, strict=True):
        if part.shape[2:] != (bottom - top, right - left):
            raise ValueError("the tiles do not fit the VAE's factor; give a multiple of it as tile")
        out[:, :, y1:y2, x1:x2] = part[:, :, y1 - top : y2 - top, x1 - left : x2 - left]
    return out


def hooked(
    vae: AutoencoderKL,
    net: Encoder | Decoder,
    layers_of: Callable[[Any], list[nn.Module]],
    x: Tensor,
    tile: int,
    pad: int,
    fast: bool,
    *,
    up: int = 1,  # output side over input side, or
    down: int = 1,  # input side over output side
) -> Tensor:
    """Apply a half of the VAE to `x`, in tiles where it is longer than one with its padding; see below for errors."""
    if tile < 1:
        raise ValueError(f"tile is {tile}; give 1 or more")
    height, width = x.shape[-2:]
    if max(height, width) <= tile + 2 * pad:
        return net(x)
    check_offloading(vae)
    small = thumbnail(x, tile, least=down) if fast else None
    return run_tiled(net, layers_of(net), x, tile_layout(height, width, tile, pad, up=up, down=down), small)


@apply_forward_hook
@torch.no_grad()
def encode_hooked(
    vae: AutoencoderKL,
    image: Tensor,
    tile: int,  # pixels of a tile's core; SeeSR has 1024
    fast: bool = False,  # take statistics from a thumbnail of the image, so that tiles are computed one by one
) -> Tensor:
    """Compute `vae.encoder(image)` as SeeSR's encoder hook does; `vae` itself is not changed.

    Images of at most `tile` + 64 pixels are encoded untiled.

    Args:
        image: (B, 3, H, W) in [-1, 1], on the device and in the dtype of the VAE; statistics are each sample's own.

    Returns:
        Moments before `quant_conv`, (B, 2 latent channels, H / factor, W / factor) rounded down.

    Raises:
        ValueError: `tile` is below 1 or, where it matters, no multiple of the VAE's factor; the image is too long for
            the fast mode; the VAE has a layer of another kind or is offloaded by blocks.
    """
    return hooked(vae, vae.encoder, encoder_layers, image, tile, ENCODER_PAD, fast, down=vae_factor(vae))


@apply_forward_hook
@torch.no_grad()
def decode_hooked(
    vae: AutoencoderKL,
    z: Tensor,
    tile: int,  # latents of a tile's core; SeeSR has 224
    fast: bool = False,  # take statistics from a thumbnail of the latents, so that tiles are computed one by one
) -> Tensor:
    """Compute `vae.decoder(z)` as SeeSR's decoder hook does; `vae` itself is not changed.

    Canvases of at most `tile` + 22 latents are decoded untiled.

    Args:
        z: Latents behind `post_quant_conv`, (B, latent channels, h, w), on the device and in the dtype of the VAE.

    Returns:
        Image in about [-1, 1], (B, 3, h * factor, w * factor).

    Raises:
        ValueError: `tile` is below 1, the canvas is too long for the fast mode, the VAE has a layer of another kind or
            is offloaded by blocks.
    """
    return hooked(vae, vae.decoder, decoder_layers, z, tile, DECODER_PAD, fast, up=vae_factor(vae))
