"""Images that pass from top to bottom in bands of full width, so that a whole canvas is never in memory as floats.

A band is a tensor (B, C, rows, W); a stream of bands is an iterator of consecutive ones.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from resdiff.resize import bicubic_rows, row_support

BAND_PIXELS = 2**20  # of one band that is worked on at once


class Rows:
    """Any rows of a stream, as long as the questions move downwards: what lies above the last one is forgotten."""

    def __init__(self, bands: Iterator[Tensor]):
        self._bands = bands
        self._held: Tensor | None = None
        self._top = 0

    def window(self, start: int, stop: int) -> Tensor:
        """Return rows `start` to `stop` (exclusive); raises ValueError for rows already forgotten or never coming."""
        if start < self._top:
            raise ValueError(f"row {start} has passed; the window is at row {self._top}")
        parts = [] if self._held is None else [self._held]
        end = self._top + sum(part.shape[-2] for part in parts)
        while end < stop:
            band = next(self._bands, None)
            if band is None:
                raise ValueError(f"row {stop - 1} is asked for, but the image ends at row {end}")
            parts.append(band)
            end += band.shape[-2]
        held = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)
        self._held, self._top = held[..., start - self._top :, :], start
        return self._held[..., : stop - start, :]


def spans(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of consecutive bands of about `BAND_PIXELS` that cover `height` rows of `width` pixels."""
    rows = math.ceil(BAND_PIXELS / width)
    yield from ((start, min(start + rows, height)) for start in range(0, height, rows))


def resized(bands: Iterator[Tensor], height: int, size: tuple[int, int]) -> Iterator[Tensor]:
    """Resample a stream of `height` rows to `size` = (H, W) with Pillow's bicubic kernel, exactly as the whole image."""
    rows = Rows(bands)
    for start, stop in spans(*size):
        first, last = row_support(height, size[0], start, stop)
        yield bicubic_rows(rows.window(first, last), size, start, stop, first, height)


def with_halo(
    bands: Iterator[Tensor],
    size: tuple[int, int],  # (H, W) of the stream
    halo: int,
    fn: Callable[[Tensor, int, int], Tensor],  # (rows, their start, their stop) -> as many rows
) -> Iterator[Tensor]:
    """Apply `fn`, whose result at a row depends on `halo` rows around it, to a stream; exactly as to the whole image."""
    rows = Rows(bands)
    for start, stop in spans(*size):
        top, bottom = max(0, start - halo), min(size[0], stop + halo)
        yield fn(rows.window(top, bottom), top, bottom)[..., start - top : stop - top, :]
