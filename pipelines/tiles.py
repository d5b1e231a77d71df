"""One canvas through a model, whole or tile by tile, within the memory there is."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from resdiff.memory import free_memory, give_back, is_out_of_memory
from resdiff.tiling import Box, Chop, Smooth, tiled, tiled_bands

logger = logging.getLogger(__name__)

FREE_SHARE = 0.5  # of the free memory that tiles chosen by us may take
Restore = Callable[[Tensor, list[Box]], Tensor]  # tiles (tile-major) and their places -> images, `scale` times as large


def side_that_fits(device: torch.device, bytes_per_pixel: int, images: int) -> int:
    """Return the side of the largest square, in LR pixels, that `images` at once may have in the free memory."""
    return math.isqrt(int(FREE_SHARE * free_memory(device)) // (bytes_per_pixel * images))


@dataclass
class Halving:
    """`restore`, where tiles that turn out too large for the memory are cut in two along both sides, for good."""

    restore: Restore
    scale: int
    tiling_of: Callable[[int], Smooth]  # the model's tiles of about a side
    limit: int  # largest side that is tried
    give_back: Callable[[], None] = give_back  # frees what it can

    def __call__(self, x: Tensor, boxes: list[Box]) -> Tensor:
        """Restore tiles of one size. Raises RuntimeError in one line when the smallest tile does not fit either."""
        side = max(boxes[0].height, boxes[0].width)
        if side <= self.limit:
            try:
                return self.restore(x, boxes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # here, not in the handler: a traceback that is being handled holds what filled the memory
            self.give_back()
            self.limit = self.tiling_of(side // 2).size
            if self.limit >= side:
                raise RuntimeError(f"out of memory with tiles of {side} px, the smallest; close other programs")
            logger.warning("out of memory with tiles of %d px; going on with %d px", side, self.limit)
        return torch.cat([self.cut(part, box) for part, box in zip(x.chunk(len(boxes)), boxes, strict=True)])

    def cut(self, x: Tensor, outer: Box) -> Tensor:
        """Restore one tile by smaller ones."""
        return tiled(
            lambda parts, inner: self(parts, [box.within(outer) for box in inner]),
            x,
            self.tiling_of(self.limit),
            self.scale,
        )


def turned(restore: Restore) -> Restore:
    """Return `restore` for a canvas whose rows and columns are exchanged."""

    def run(x: Tensor, boxes: list[Box]) -> Tensor:
        return restore(x.mT.contiguous(), [Box(b.left, b.top, b.width, b.height) for b in boxes]).mT

    return run


def restored_bands(
    restore: Restore | Halving,
    canvas: Tensor,  # (B, C, h, w)
    tiling: Chop | Smooth | None,  # None: whole
    scale: int,
    tile_batch: int,
) -> Iterator[Tensor]:
    """Yield the restored canvas from top to bottom, (B, 3, rows, w scale). Raises RuntimeError when memory runs out."""
    height, width = canvas.shape[-2:]
    try:
        if tiling is None or max(height, width) <= tiling.size:
            yield restore(canvas, [Box(0, 0, height, width)])
        else:
            yield from tiled_bands(restore, canvas, tiling, scale, tile_batch)
    except (RuntimeError, MemoryError) as error:
        if isinstance(restore, Halving) or not is_out_of_memory(error):
            raise
        raise RuntimeError(
            f"out of memory for an image of {width}x{height}; use smaller tiles, or tile='auto'"
        ) from error


def used_tile(tiling: Chop | Smooth | None, restore: Restore | Halving, height: int, width: int) -> int | None:
    """Return the side of the tiles that an image was cut into, None for the whole image."""
    side = max(height, width)
    size = side if tiling is None else tiling.size
    size = min(size, restore.limit) if isinstance(restore, Halving) else size
    return size if size < side else None
