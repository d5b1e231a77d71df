"""From restored bands to results: asked size, colours, channels, samples; no step needs the whole image as floats."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from resdiff.bands import resized, spans, with_halo
from resdiff.canvas import new_canvas, release, to_samples
from resdiff.color import WAVELET_HALO, ColorFix, Moments, color_fix, luma
from resdiff.images import Photo, to_tensor
from resdiff.pictures import Picture
from resdiff.resize import bicubic_rows, row_support

Size = tuple[int, int]
ImageOutput = Literal["pil", "np", "pt", "picture"]


@dataclass(frozen=True)
class Stream:
    """Results of one size on their way, from top to bottom."""

    bands: Iterator[Tensor]  # (B, 3, rows, W) in [-1, 1]
    size: tuple[int, int]  # (H, W) of all bands together
    tile_side: Callable[[], int | None]  # in LR pixels, None: untiled; known when the bands are through
    is_turned: bool = False  # rows and columns are exchanged


@dataclass
class SRPipelineOutput(BaseOutput):
    """What a call returns.

    images: as `output_type` says. tile_sizes: per result the side of its tiles in LR pixels, None if not tiled.
    prompts: per result the text that was used, "" where none was.
    """

    images: Any
    tile_sizes: list[int | None]
    prompts: list[str]


def upsampled_rows(x: Tensor, size: Size, start: int, stop: int) -> Tensor:
    """Return rows `start` to `stop` of x (B, C, h, w) resampled to `size` with Pillow's bicubic kernel."""
    first, last = row_support(x.shape[-2], size[0], start, stop)
    return bicubic_rows(x[..., first:last, :], size, start, stop, first, x.shape[-2])


def known_pixels_kept(bands: Iterator[Tensor], lq: Tensor, mask: Tensor) -> Iterator[Tensor]:
    """Put the input back where the mask (B, 1, h, w) says that it is known (0); scale 1."""
    top = 0
    for band in bands:
        rows = slice(top, top + band.shape[-2])
        top = rows.stop
        yield band * mask[..., rows, :] + lq[..., rows, :] * (1 - mask[..., rows, :])


def finished(
    bands: Iterator[Tensor],  # (B, 3, rows, native width), in [-1, 1]
    native: Size,
    size: Size,  # that was asked for
    lq: Tensor,  # (B, 3, h, w)
    fix: ColorFix,
    strength: float = 1.0,  # of the correction, 0 to 1
) -> Iterator[Tensor]:
    """Bring the bands to the asked size and correct their colours against the upsampled input; clamped."""
    if size != native:
        bands = resized(bands, native[0], size)
    if strength == 0:
        fix = "none"
    if fix == "adain":
        bands = adain_bands(bands, lq, size, strength)
    elif fix != "none":

        def corrected(content: Tensor, start: int, stop: int) -> Tensor:
            return content.lerp(color_fix(content, upsampled_rows(lq, size, start, stop), fix), strength)

        bands = with_halo(bands, size, WAVELET_HALO if fix == "wavelet" else 0, corrected)
    return (band.clamp(-1, 1) for band in bands)


def adain_bands(bands: Iterator[Tensor], lq: Tensor, size: Size, strength: float = 1.0) -> Iterator[Tensor]:
    """`resdiff.color.adain` of a stream: the image waits outside the memory until its statistics are known."""
    content, style, device = Moments(), Moments(), lq.device
    waiting = new_canvas((*lq.shape[:2], *size), np.float32)
    top = 0
    for band in bands:
        stop = top + band.shape[-2]
        waiting[..., top:stop, :] = content.add(band).float().cpu().numpy()
        for start, end in spans(stop - top, size[1]):
            style.add(upsampled_rows(lq, size, top + start, top + end))
        release(waiting)
        top = stop
    mean_x, std_x, mean_y, std_y = (x.to(device) for x in (*content.mean_std(), *style.mean_std()))
    for start, stop in spans(*size):
        x = torch.from_numpy(waiting[..., start:stop, :]).to(device)
        yield x.lerp((x - mean_x) / std_x * std_y + mean_y, strength)
        release(waiting)


def whole(bands: Iterator[Tensor], count: int, size: Size) -> Tensor:
    """Return the image of a stream, (count, 3, H, W) in [0, 1]. Raises RuntimeError when there is no memory for it."""
    first = next(bands)
    try:
        out = first.new_empty(count, 3, *size, dtype=torch.float32)
    except RuntimeError as error:
        raise RuntimeError(
            f"no memory for a result of {size[1]}x{size[0]} floats; use output_type='picture'"
        ) from error
    top = 0
    for band in chain([first], bands):
        out[..., top : top + band.shape[-2], :] = to_tensor(band)
        top += band.shape[-2]
    return out


def collected(
    bands: Iterator[Tensor],
    photos: Sequence[Photo],
    size: Size,  # of the stream
    output_type: ImageOutput,
    turn: bool = False,  # the stream is the image with rows and columns exchanged
) -> list[Any]:
    """Write the bands of a batch into one result per photo, as `output_type` says.

    "pt": (3, H, W) on the bands' device; "np": (H, W, 3), floats in [0, 1]; "pil" and "picture" have the photo's
    channels, alpha enlarged by bicubic, and "picture" its bits.
    """
    if output_type == "pt":
        out = whole(bands, len(photos), size)
        return list(out.mT if turn else out)
    plain = output_type == "np"
    dtypes = [np.float32 if plain else np.uint16 if photo.bits == 16 else np.uint8 for photo in photos]
    channels = [3 if plain else (1 if photo.grey else 3) + (photo.alpha is not None) for photo in photos]
    upright = size[::-1] if turn else size
    canvases = [new_canvas((*upright, c), dtype) for c, dtype in zip(channels, dtypes, strict=True)]
    top = 0
    for band in bands:
        rows = slice(top, top + band.shape[-2])
        top = rows.stop
        for image, photo, canvas, dtype in zip(band, photos, canvases, dtypes, strict=True):
            planes = [luma(image.float()) if photo.grey and not plain else image]
            if photo.alpha is not None and not plain:
                alpha = photo.alpha[None].mT if turn else photo.alpha[None]
                planes.append(upsampled_rows(alpha, size, rows.start, rows.stop)[0].to(image) * 2 - 1)
            streamed = canvas.swapaxes(0, 1) if turn else canvas
            streamed[rows] = to_samples(torch.cat(planes), dtype)
    if plain:
        return canvases
    pictures = [Picture(canvas, photo.metadata) for canvas, photo in zip(canvases, photos, strict=True)]
    return pictures if output_type == "picture" else [picture.to_pil() for picture in pictures]


def cropped(bands: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the first rows and columns of a stream, `size` in all."""
    left = size[0]
    for band in bands:
        if left > 0:
            yield band[..., :left, : size[1]]
        left -= band.shape[-2]


def collate(results: list[Any], output_type: ImageOutput | Literal["latent"]) -> Any:
    """Stack results of one size for "np", "pt" and "latent"; a list otherwise."""
    if output_type in ("pil", "picture") or len({tuple(r.shape) for r in results}) > 1:
        return results
    if len(results) == 1:  # it may be large: no copy
        return results[0][None]
    return np.stack(results) if output_type == "np" else torch.stack(results)
