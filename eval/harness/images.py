"""The images of a benchmark, 8 bits: as they are read, and as a protocol compares them."""

from pathlib import Path

import torch
from torch import Tensor

from resdiff.files.headers import peek_size
from resdiff.images import Photo, read_photos, to_uint8
from resdiff.metrics.measures import Images


def read_image(path: Path) -> Tensor:
    """Return the upright image as uint8 (C, H, W), C = 1 (grey) or 3; 16 bits are rounded, transparency is dropped.

    Raises ValueError or OSError, in one line that names the file, when it cannot be read.
    """
    photo = read_photos(path)[0]
    pixels = to_uint8(photo.pixels)
    return pixels[:1] if photo.grey else pixels


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) by the header, by the pixels where that says nothing; raises as `read_image`."""
    size = peek_size(path)
    if size is None:
        height, width = read_image(path).shape[-2:]
        return height, width
    return size


def as_images(sr: Tensor, hr: Tensor | None, lr: Photo, *, grey_is_luma: bool, device: torch.device) -> Images:
    """Return what metrics compare.

    Args:
        sr, hr: uint8 (1 or 3, H, W).
        grey_is_luma: where HR (without one, LR) is grey, a coloured image counts by the rounded mean of its channels;
            otherwise a grey image counts as a coloured one of equal channels.

    Raises ValueError when result and HR differ in size.
    """
    if hr is not None and hr.shape[-2:] != sr.shape[-2:]:
        raise ValueError(f"the result is {_size(sr)} and HR {_size(hr)}; they must have one size")
    is_grey = lr.grey if hr is None else hr.shape[0] == 1
    convert = _as_grey if grey_is_luma and is_grey else _as_colour
    given = (sr, hr, to_uint8(lr.pixels))
    return Images(*(None if x is None else convert(x)[None].to(device) for x in given))  # type: ignore[arg-type]


def _as_grey(x: Tensor) -> Tensor:
    return x if x.shape[0] == 1 else (x.double().mean(dim=0, keepdim=True) + 0.5).floor().to(torch.uint8)


def _as_colour(x: Tensor) -> Tensor:
    return x.expand(3, -1, -1)


def _size(x: Tensor) -> str:
    return f"{x.shape[-1]}x{x.shape[-2]}"
