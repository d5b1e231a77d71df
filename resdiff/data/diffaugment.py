"""DiffAugment (2006.10738), policy "translation, cutout": what a critic sees is shifted and has a hole.

mit-han-lab/data-efficient-gans, as AddSR uses it (2404.01717). Gradients pass; the draws are arguments, so that a test or
a second image can have the same ones. AddSR's critic also looks at random crops of large images.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TRANSLATION = 0.125  # of each side, at most, to either end
CUTOUT = 0.2  # of each side


@dataclass(frozen=True)
class Draws:
    """Random numbers for a batch; rows, then columns."""

    shifts: Tensor  # int64 (B, 2): where the pixel now at 0 was
    centers: Tensor  # int64 (B, 2): of the holes


def draw(shape: torch.Size, generator: torch.Generator | None = None) -> Draws:
    """Draw on the CPU for images of this shape, (B, C, H, W): uniform shifts and centers, each image has its own."""
    shifts, centers = [], []
    for side in shape[-2:]:
        most = _part(side, TRANSLATION)
        shifts.append(torch.randint(-most, most + 1, shape[:1], generator=generator))
        limit = side + 1 - _part(side, CUTOUT) % 2  # a hole of even side may be centred on the far edge
        centers.append(torch.randint(limit, shape[:1], generator=generator))
    return Draws(torch.stack(shifts, dim=1), torch.stack(centers, dim=1))


def diff_augment(images: Tensor, draws: Draws) -> Tensor:
    """Return images (B, C, H, W) shifted, then with a hole; what is not there is 0, grey where the range is [-1, 1]."""
    return cutout(translation(images, draws.shifts), draws.centers)


def translation(images: Tensor, shifts: Tensor) -> Tensor:
    """Return images (B, C, H, W) whose pixel (i, j) was at (i + row, j + column), 0 where that is outside.

    shifts: int64 (B, 2).
    """
    rows, columns = _places(images, shifts)
    height, width = images.shape[-2:]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    moved = images.movedim(1, -1)[batch, rows, columns].movedim(-1, 1)
    return moved * inside[:, None]


def cutout(images: Tensor, centers: Tensor) -> Tensor:
    """Return images (B, C, H, W) with a rectangle of zeros, a fifth of each side; at the edge less of it is inside.

    centers: int64 (B, 2).
    """
    sizes = [_part(side, CUTOUT) for side in images.shape[-2:]]
    starts = centers - torch.tensor([size // 2 for size in sizes], device=centers.device)
    rows, columns = ((p >= 0) & (p < size) for p, size in zip(_places(images, -starts), sizes, strict=True))
    return images * ~(rows[:, :, None] & columns[:, None])[:, None]


def random_crop(images: Tensor, size: int, p: float = 0.5, generator: torch.Generator | None = None) -> Tensor:
    """Return, with probability p, the same random crop (B, C, size, size) of all images where both sides hold more."""
    height, width = images.shape[-2:]
    if min(height, width) <= size or float(torch.rand((), generator=generator)) >= p:
        return images
    top, left = (int(torch.randint(side - size + 1, (), generator=generator)) for side in (height, width))
    return images[..., top : top + size, left : left + size]


def _part(side: int, ratio: float) -> int:
    return int(side * ratio + 0.5)


def _places(images: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (B, H) and columns (B, W) of the pixels, shifted."""
    shifts = shifts.to(images.device)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[-2:])
    return rows + shifts[:, :1], columns + shifts[:, 1:]
