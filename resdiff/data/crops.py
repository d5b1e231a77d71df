"""Random crops of photos, and of their LR partners, in random poses."""

from typing import Literal

import torch
from torch import Tensor

from resdiff.data.store import Pair

Augmentation = Literal["none", "flip", "poses"]
TRANSPOSED, UPSIDE_DOWN, MIRRORED = 4, 2, 1  # bits of a pose, applied in this order


def in_pose(x: Tensor, pose: int) -> Tensor:
    """Return a copy of (..., H, W) in one of the 8 poses of a rectangle: transposed, then upside down, then mirrored."""
    x = x.transpose(-2, -1) if pose & TRANSPOSED else x
    axes = [axis for axis, bit in ((-2, UPSIDE_DOWN), (-1, MIRRORED)) if pose & bit]
    return x.flip(axes).contiguous()  # flip copies even without axes: a worker must not send the whole photo


def cut(pair: Pair, crop: tuple[int, int], scale: int, augmentation: Augmentation, generator: torch.Generator) -> Pair:
    """Return a random crop (3, h, w) of a photo and the same region of its LR partner, in a random pose.

    Top and left are uniform, with an LR partner on its pixel grid. Of a crop that is not square, the poses that
    transpose are cut as (w, h); a photo that does not hold that is not transposed.
    """
    hr, lr = pair
    height, width = hr.shape[-2:]
    pose = {"none": 0, "flip": MIRRORED, "poses": 7}[augmentation] & _below(8, generator)
    if pose & TRANSPOSED and (height < crop[1] or width < crop[0]):
        pose -= TRANSPOSED
    h, w = crop[::-1] if pose & TRANSPOSED else crop
    grid = 1 if lr is None else scale
    top, left = _below((height - h) // grid + 1, generator), _below((width - w) // grid + 1, generator)
    cropped = hr[:, top * grid : top * grid + h, left * grid : left * grid + w]
    if lr is None:
        return in_pose(cropped, pose), None
    return in_pose(cropped, pose), in_pose(lr[:, top : top + h // grid, left : left + w // grid], pose)


def _below(limit: int, generator: torch.Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
