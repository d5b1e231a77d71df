"""AutoencoderKL on canvases larger than memory allows: layer by layer over the whole canvas, each layer in bands.

Nothing is approximated up to `ATTENDED` latents: a band is convolved together with the rows that its kernel reaches,
and GroupNorm (1803.08494) has the statistics of the whole canvas, gathered when an activation is written. Normalising
and SiLU happen inside a band, just before the convolution. What lives at full size is one activation and, inside a
residual block, a second one; each is freed from the top as the next one grows.

Weights are used by calling their layers, as every kind of offloading but one expects (`check_offloading`).
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.vae import Decoder, Encoder
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.attention import attention
from resdiff.models.cfw import ResidualDenseBlock
from resdiff.models.strips import Activation, Bands, Strips
from resdiff.models.vae_layers import (
    check_image,
    check_offloading,
    decoder_layers,
    encoder_layers,
    execution_device,
    scale_and_shift,
)

ATTENDED = 256 * 256  # latents that each one attends to: all of a canvas of 2048 x 2048 pixels
QUERY_SIDE = 32  # queries of this many rows and columns attend at once


# --- layers ------------------------------------------------------------------------------------------------------


def normalisation(norm: nn.GroupNorm, x: Activation, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return GroupNorm with the statistics of all of `x`, as a function of a window of it; computed in float32."""
    scale, shift = scale_and_shift(norm, *x.statistics(norm.num_groups), device)
    return lambda window: torch.addcmul(shift, window.float(), scale).to(window.dtype)


def activation(norm: nn.GroupNorm, act: nn.Module, x: Activation, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return GroupNorm and the nonlinearity behind it, as a function of a window of `x`."""
    normalise = normalisation(norm, x, device)
    return lambda window: act(normalise(window))


def reach(layer: nn.Module, start: int, stop: int) -> tuple[int, int, int]:
    """Return the rows (top, bottom) that rows `start` to `stop` of a layer's output depend on, and the output's row
    that its result on them begins with.

    A layer pads every window with zeros. That is right at the canvas border only, so that rows next to other cuts are
    computed but not used. The downsampler pads at the bottom only, and needs that only at the border.
    """
    match layer:
        case Downsample2D():
            return 2 * start, 2 * stop + 1, start
        case Upsample2D():
            top = max(0, start // 2 - 1)
            return top, (stop + 1) // 2 + 1, 2 * top
        case _:
            rows = len(layer.convs()) if isinstance(layer, ResidualDenseBlock) else 1
            top = max(0, start - rows)
            return top, stop + rows, top


def size_after(layer: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Height and width of a layer's output."""
    match layer:
        case Downsample2D():
            return height // 2, width // 2
        case Upsample2D():
            return 2 * height, 2 * width
        case _:
            return height, width


def convolve(
    layer: nn.Module,  # a 3x3 convolution, Downsample2D, Upsample2D or ResidualDenseBlock
    x: Activation,
    bands: Bands,
    prepare: Callable[[Tensor], Tensor] = lambda window: window,  # what stands before the layer, on a window of x
    finish: Callable[[Tensor, int, int], Tensor] = lambda y, start, stop: y,  # and behind it, on rows of the output
    keep: bool = False,  # x, which else is freed as it is used up
) -> Strips:
    """Apply a layer in bands."""
    out = Strips()
    for start, stop in bands.spans(*size_after(layer, x.height, x.width)):
        top, bottom, first = reach(layer, start, stop)
        y = layer(prepare(x.window(top, bottom, bands.device)))
        out.append(finish(y[:, :, start - first : stop - first], start, stop), bands.hold)
        if not keep:
            x.forget(reach(layer, stop, stop + 1)[0])
    return out


def residual_block(block: ResnetBlock2D, x: Activation, bands: Bands) -> Strips:
    """GroupNorm, SiLU and convolution, twice, added to `x` or to its 1x1 convolution."""

    def add(y: Tensor, start: int, stop: int) -> Tensor:
        shortcut = x.window(start, stop, bands.device)
        x.forget(stop)
        if block.conv_shortcut is not None:
            shortcut = block.conv_shortcut(shortcut)
        return y.add_(shortcut).div_(block.output_scale_factor)

    h = convolve(block.conv1, x, bands, activation(block.norm1, block.nonlinearity, x, bands.device), keep=True)
    return convolve(block.conv2, h, bands, activation(block.norm2, block.nonlinearity, h, bands.device), add)


def attended_window(height: int, width: int) -> tuple[int, int]:
    """Return the sides of the window that a query attends to: the canvas, or a part of about `ATTENDED` latents."""
    if height * width <= ATTENDED:
        return height, width
    tall = min(height, max(math.isqrt(ATTENDED), ATTENDED // width))
    return tall, min(width, ATTENDED // tall)


def around(start: int, length: int, side: int) -> slice:
    """Return `side` of `length` positions with the queries that begin at `start` in their middle, as far as possible."""
    first = min(max(0, start + (QUERY_SIDE - side) // 2), length - side)
    return slice(first, first + side)


def attend(attn: Attention, x: Strips, bands: Bands) -> Strips:
    """Self-attention over all positions, or for each block of queries over the window around it, added to `x`."""
    normalise = normalisation(attn.group_norm, x, bands.device)
    height, width = x.height, x.width
    tall, wide = attended_window(height, width)
    place = bands.device if (tall, wide) == (height, width) else bands.hold

    def project(layer: nn.Module, start: int, stop: int) -> Tensor:
        return layer(normalise(x.window(start, stop, bands.device)).movedim(1, 3))  # (B, rows, W, C)

    def heads(tokens: Tensor) -> Tensor:  # (B, rows, columns, C) -> (B, heads, rows * columns, C / heads)
        return tokens.to(bands.device).flatten(1, 2).unflatten(2, (attn.heads, -1)).transpose(1, 2)

    spans = list(bands.spans(height, width))
    keys, values = (
        torch.cat([project(layer, *span).to(place) for span in spans], dim=1) for layer in (attn.to_k, attn.to_v)
    )
    out = Strips()
    for start, stop in replace(bands, rows=QUERY_SIDE).spans(height, width):
        rows = around(start, height, tall)
        found = []
        for left, q in enumerate(project(attn.to_q, start, stop).split(QUERY_SIDE, dim=2)):
            columns = around(left * QUERY_SIDE, width, wide)
            y = attention(heads(q), heads(keys[:, rows, columns]), heads(values[:, rows, columns]))
            found.append(y.transpose(1, 2).reshape(q.shape))
        y = attn.to_out[0](torch.cat(found, dim=2)).movedim(3, 1)  # (B, C, rows, W)
        if attn.residual_connection:
            y = y + x.window(start, stop, bands.device)
        out.append(y / attn.rescale_output_factor, bands.hold)
        x.forget(stop)
    return out


def apply(layer: nn.Module, x: Strips, bands: Bands) -> Strips:
    """Apply a layer between a network's first and last."""
    match layer:
        case ResnetBlock2D():
            return residual_block(layer, x, bands)
        case Attention():
            return attend(layer, x, bands)
        case _:
            return convolve(layer, x, bands)


def head(net: Encoder | Decoder, x: Strips, bands: Bands, place: torch.device) -> Tensor:
    """Apply a network's last layers; the result lies on `place`."""
    prepare = activation(net.conv_norm_out, net.conv_act, x, bands.device)
    out = convolve(net.conv_out, x, replace(bands, hold=place), prepare)
    return out.window(0, out.height, place)


def run(net: Encoder | Decoder, layers: list[nn.Module], x: Tensor, bands: Bands) -> Tensor:
    """Apply a network to a canvas; the result lies where `x` does."""
    h = convolve(net.conv_in, Strips(x), bands)
    for layer in layers:
        h = apply(layer, h, bands)
    return head(net, h, bands, x.device)


# --- the public functions ----------------------------------------------------------------------------------------


def bands_for(vae: AutoencoderKL, x: Tensor, rows: int | None, hold: torch.device | None) -> Bands:
    """Check the arguments and say how to cut."""
    if rows is not None and rows < 1:
        raise ValueError(f"rows is {rows}; give 1 or more, or None")
    check_offloading(vae)
    return Bands(rows, execution_device(vae), x.device if hold is None else hold)


@apply_forward_hook
@torch.no_grad()
def encode_in_bands(
    vae: AutoencoderKL,
    image: Tensor,
    rows: int | None = None,  # of an activation computed at once, at every resolution; None: by the width
    hold: torch.device | None = None,  # where activations lie between layers; None: where the image does
) -> Tensor:
    """Compute `vae.encoder(image)` with at most two activations at full size in memory.

    Each query of the mid attention sees the canvas up to `ATTENDED` latents (2048 x 2048 pixels), beyond that the
    window of as many around its block of queries. The result is else the untiled one up to rounding.

    Args:
        vae: Stable Diffusion's kind of AutoencoderKL, on any device, offloaded or not.
        image: (B, 3, H, W) in [-1, 1], in the dtype of the VAE, on any device.

    Returns:
        Moments before `quant_conv`, (B, 2 latent channels, H / factor, W / factor) rounded down, on the image's device.

    Raises:
        ValueError: a side is shorter than the VAE's factor, `rows` is below 1, the VAE has a layer of another kind or
            is offloaded by blocks.
    """
    check_image(vae, image)
    return run(vae.encoder, encoder_layers(vae.encoder), image, bands_for(vae, image, rows, hold))


@apply_forward_hook
@torch.no_grad()
def decode_in_bands(
    vae: AutoencoderKL,
    z: Tensor,
    rows: int | None = None,  # of an activation computed at once, at every resolution; None: by the width
    hold: torch.device | None = None,  # where activations lie between layers; None: where z does
) -> Tensor:
    """Compute `vae.decoder(z)` as `encode_in_bands` computes the encoder.

    Args:
        vae: Stable Diffusion's kind of AutoencoderKL, on any device, offloaded or not.
        z: Latents behind `post_quant_conv`, (B, latent channels, h, w), in the dtype of the VAE, on any device.

    Returns:
        Image in about [-1, 1], (B, 3, h * factor, w * factor), on the latents' device.

    Raises:
        ValueError: `rows` is below 1, the VAE has a layer of another kind or is offloaded by blocks.
    """
    return run(vae.decoder, decoder_layers(vae.decoder), z, bands_for(vae, z, rows, hold))
