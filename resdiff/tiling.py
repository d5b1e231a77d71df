"""Tiles: a function on images becomes a function on images of any size.

`Chop` is the published inference of ResShift (utils/util_image.py `ImageSpliterTh`): plain averaging. `Smooth` weights
tiles so that no seam shows: nothing within `halo` of an inner edge, then a linear ramp; where the halo covers a
network's receptive field the result is exactly the untiled one. `Gaussian` weights them as StableSR and SeeSR do the
latents in each step.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest

import numpy as np
import torch
from torch import Tensor

from resdiff.canvas import new_canvas

PUBLISHED_STRIDES = {512: 448, 256: 224, 64: 48}
GAUSSIAN_VARIANCE = 0.01  # in units of the tile's squared side
MAPPED_SUMS = 2**28  # numbers (1 GiB) from which the sums of a row of tiles are not held in memory
BAND_ROWS = 128  # output rows that `tiled_bands` hands over at once


@dataclass(frozen=True)
class Box:
    """A rectangle of the low-resolution canvas, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def within(self, outer: "Box") -> "Box":
        """Return this rectangle, given relative to `outer`, relative to what `outer` is relative to."""
        return replace(self, top=self.top + outer.top, left=self.left + outer.left)

    def crop(self, x: Tensor, scale: int = 1) -> Tensor:
        """Return this rectangle of x (..., H, W), a canvas `scale` times as large."""
        rows = slice(self.top * scale, (self.top + self.height) * scale)
        return x[..., rows, self.left * scale : (self.left + self.width) * scale]


@dataclass(frozen=True)
class Chop:
    """Published tiling: `size` and `stride` in LR pixels of a x4 model (scaled by 4 // scale for others), averaged."""

    size: int = 512
    stride: int | None = None  # None: the published one for this size, else 7/8 of it

    def __post_init__(self) -> None:
        if self.size < 1 or not 1 <= self.step <= self.size:
            raise ValueError(f"tile size {self.size} and stride {self.stride}: need 1 <= stride <= size")

    @property
    def step(self) -> int:
        """Distance of two tiles."""
        return self.stride if self.stride is not None else PUBLISHED_STRIDES.get(self.size, max(1, self.size * 7 // 8))

    def weights(self, length: int, before: bool, after: bool, scale: int, rows: bool) -> Tensor:
        """Return the weight of each of `length` output pixels along one side of a tile; here all count alike."""
        return torch.ones(length)

    def at_scale(self, scale: int) -> "Chop":
        """Return the tiling for a model of another scale, as the published script does it."""
        factor = max(1, 4 // scale)
        return Chop(self.size * factor, self.step * factor)


@dataclass(frozen=True)
class Smooth:
    """Overlapping weighted tiles of `size` LR pixels; `halo` pixels at inner edges are computed and thrown away."""

    size: int
    overlap: int
    halo: int = 0

    def __post_init__(self) -> None:
        if not (0 <= 2 * self.halo <= self.overlap < self.size):
            raise ValueError(
                f"tile size {self.size} is too small for an overlap of {self.overlap} with a halo of {self.halo}; "
                f"use at least {max(self.overlap, 2 * self.halo) + 1}"
            )

    @property
    def step(self) -> int:
        """Distance of two tiles."""
        return self.size - self.overlap

    def weights(self, length: int, before: bool, after: bool, scale: int, rows: bool) -> Tensor:
        """Return the weight of each of `length` output pixels along one side of a tile, see `ramp`."""
        return ramp(length, before, after, self, scale)


@dataclass(frozen=True)
class Gaussian:
    """Overlapping tiles of `size` canvas pixels whose weights fall off as a Gaussian from their middle.

    published: as in SeeSR's pipeline (pipelines/pipeline_seesr.py `_gaussian_weights`): tiles are square, and along the
    rows the middle lies half a pixel too far down; both change numbers.
    """

    size: int
    overlap: int
    published: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.size:
            raise ValueError(f"tile size {self.size} and overlap {self.overlap}: need 0 <= overlap < size")

    @property
    def step(self) -> int:
        """Distance of two tiles."""
        return self.size - self.overlap

    def cuts(self, height: int, width: int) -> bool:
        """Whether a canvas is cut into tiles: one longer than a tile; published, one of more pixels than a tile."""
        return height * width > self.size**2 if self.published else max(height, width) > self.size

    def on(self, height: int, width: int) -> "Gaussian":
        """Return the tiling of a canvas of this size: square tiles become as small as its shorter side."""
        size = min(self.size, height, width) if self.published else self.size
        return replace(self, size=size, overlap=min(self.overlap, size - 1))

    def weights(self, length: int, before: bool, after: bool, scale: int, rows: bool) -> Tensor:
        """Return the weight of each of `length` output pixels along one side of a tile, float64."""
        middle = length / 2 if rows and self.published else (length - 1) / 2
        position = (torch.arange(length, dtype=torch.float64) - middle) / length
        return torch.exp(-position.square() / (2 * GAUSSIAN_VARIANCE)) / math.sqrt(2 * math.pi * GAUSSIAN_VARIANCE)


Tiling = Chop | Smooth | Gaussian


def parse_chop(text: str) -> Chop | None:
    """Return the published tiling that "reference", "reference:256" or "reference:256:224" names; None for other text."""
    name, *numbers = text.split(":")
    if name != "reference" or len(numbers) > 2 or not all(n.isdecimal() for n in numbers):
        return None
    return Chop(*map(int, numbers))


def starts(length: int, size: int, stride: int) -> list[int]:
    """Return where tiles begin along one side: every `stride`, the last ones moved back inside, each once."""
    if length <= size:
        return [0]
    return list(dict.fromkeys(min(start, length - size) for start in range(0, length, stride)))


def boxes(height: int, width: int, size: int, stride: int) -> list[Box]:
    """Return the tiles of a canvas in raster order; a side shorter than `size` is spanned whole."""
    rows, columns = starts(height, size, stride), starts(width, size, stride)
    return [Box(top, left, min(size, height), min(size, width)) for top in rows for left in columns]


def tiled(
    fn: Callable[[Tensor, list[Box]], Tensor],
    x: Tensor,  # (B, C, H, W)
    tiling: Tiling,
    scale: int = 1,  # output pixels per pixel of x
    tile_batch: int = 1,  # tiles per call of fn, stacked along the batch (tile-major)
) -> Tensor:
    """Apply `fn(tiles, their boxes)` to the tiles of x and join the results, (B, C', H scale, W scale).

    `fn` gets `len(boxes) * B` images and returns as many, each side `scale` times as long.
    """
    return torch.cat(list(tiled_bands(fn, x, tiling, scale, tile_batch)), dim=-2)


def tiled_bands(
    fn: Callable[[Tensor, list[Box]], Tensor], x: Tensor, tiling: Tiling, scale: int = 1, tile_batch: int = 1
) -> Iterator[Tensor]:
    """As `tiled`, but yield the result from top to bottom in bands of full width, as soon as each is finished.

    Of the result, no more is held at a time than the rows that one call of `fn` touches. Raises ValueError when x has no pixel.
    """
    height, width = x.shape[-2:]
    if min(height, width) < 1:
        raise ValueError(f"x of shape {tuple(x.shape)} has no pixel to tile")
    across, down = shares(width, tiling, scale), shares(height, tiling, scale, rows=True)
    groups = list(grouped(boxes(height, width, tiling.size, tiling.step), tile_batch))
    reach = max(group[-1].top + group[-1].height - group[0].top for group in groups)  # rows that one group may touch
    sums: Tensor | None = None  # of these rows, from `top` on; made when the first result tells its channels
    for group, following in zip_longest(groups, groups[1:]):
        top, bottom = group[0].top, following[0].top if following else height  # what lies between is then finished
        results = fn(torch.cat([box.crop(x) for box in group]), group)
        if sums is None:
            sums = spacious_zeros(results, (len(x), results.shape[1], reach * scale, width * scale))
        for box, result in zip(group, results.split(len(x)), strict=True):
            weight = down[box.top].to(result)[:, None] * across[box.left].to(result)
            replace(box, top=box.top - top).crop(sums, scale).add_(result * weight)
        finished = (bottom - top) * scale
        for start in range(0, finished, BAND_ROWS):
            yield sums[..., start : min(start + BAND_ROWS, finished), :].clone()
        if finished:
            begun = sums.shape[-2] - finished
            for start in range(0, begun, BAND_ROWS):  # in parts: no second copy of it all
                part = slice(start, min(start + BAND_ROWS, begun))
                sums[..., part, :] = sums[..., finished + part.start : finished + part.stop, :].clone()
            sums[..., begun:, :] = 0


def spacious_zeros(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return zeros on the device of `x`; on a CPU in a temporary file where they are very many."""
    if x.device.type != "cpu" or math.prod(shape) < MAPPED_SUMS:
        return x.new_zeros(shape, dtype=torch.float32)
    return torch.from_numpy(new_canvas(shape, np.float32)).zero_()


def grouped(items: list[Box], size: int) -> Iterator[list[Box]]:
    """Yield consecutive groups of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def shares(length: int, tiling: Tiling, scale: int, rows: bool = False) -> dict[int, Tensor]:
    """Return, for the start of each tile along one side, the share of each of its output pixels in the result.

    float32 (tile scale,); the shares of all tiles that cover a pixel sum to 1. The weight of a tile's pixel is the
    product of its shares along both sides.
    """
    size = min(tiling.size, length)
    weights = {
        start: tiling.weights(size * scale, start > 0, start + size < length, scale, rows)
        for start in starts(length, tiling.size, tiling.step)
    }
    total = torch.zeros(length * scale, dtype=torch.float64)
    for start, weight in weights.items():
        total[start * scale : (start + size) * scale] += weight
    return {
        start: (weight / total[start * scale : (start + size) * scale]).float() for start, weight in weights.items()
    }


def ramp(length: int, before: bool, after: bool, tiling: Smooth, scale: int) -> Tensor:
    """Return weights along one side; `before` and `after` say whether a neighbour overlaps there."""
    position = torch.arange(length) + 0.5
    rise = max(1, (tiling.overlap - 2 * tiling.halo) * scale)
    weight = torch.ones(length)
    for present, distance in ((before, position), (after, length - position)):
        if present:
            weight = torch.minimum(weight, ((distance - tiling.halo * scale) / rise).clamp(0, 1))
    return weight
