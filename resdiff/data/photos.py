"""The photos of a training folder: their names, their upright sizes by the header alone, their pixels as uint8.

`resdiff.images` reads one photo for restoration and keeps all that has to reach the output. Training needs none of
that, but thousands of photos: 8-bit files are decoded straight to uint8 RGB, in a third of the time, and transparency,
ICC profiles and metadata are dropped. The published training data were reduced by OpenCV's INTER_AREA (ResShift,
rescale_gt in basicsr/data/realesrgan_dataset.py); `reduce_area` computes the same area means without OpenCV.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from resdiff.files.formats import FORMATS, is_image_name
from resdiff.files.reading import DAMAGE
from resdiff.images import read_photos, to_uint8

LYING = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


@dataclass(frozen=True)
class Skipped:
    """A file that is not trained on, and why."""

    path: Path
    reason: str


class UnreadablePhoto(ValueError):
    """A file without usable pixels: `path` and `reason`, its message is both."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


def photo_paths(folder: str | Path) -> list[Path]:
    """Return every image file below `folder`, sorted by its relative path, the same on every machine.

    Names that begin with a dot are passed over (thumbnails, the shadow files of macOS), as are links to folders.
    Raises ValueError when the folder does not exist or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; pass a folder of photos")
    names = {p.relative_to(folder): p for p in folder.rglob("*") if is_image_name(p) and not p.is_dir()}
    shown = {name.as_posix(): p for name, p in names.items() if not any(part.startswith(".") for part in name.parts)}
    if not shown:
        raise ValueError(f"{folder} holds no image ({', '.join(FORMATS)})")
    return [shown[name] for name in sorted(shown)]


def photo_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of the upright photo, read from the header; no pixel is decoded.

    Raises UnreadablePhoto when the file is empty, no image, damaged in its header, or above Pillow's limit of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the same limit is checked below
            with Image.open(path) as image:
                width, height = image.size
                lying = image.format != "TIFF" and _orientation(image) in LYING  # Pillow gives TIFF sizes upright
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UnreadablePhoto(path, _reason(path, error)) from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise UnreadablePhoto(
            path,
            f"is {width}x{height}, above the limit of {limit} pixels; to trust it, raise PIL.Image.MAX_IMAGE_PIXELS",
        )
    return (width, height) if lying else (height, width)


def read_pixels(path: Path) -> Tensor:
    """Return the upright photo as uint8 RGB (3, H, W); more than 8 bits are rounded.

    Raises UnreadablePhoto when it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):  # 16 and 32 bits, which Pillow's convert("RGB") would clip
                return to_uint8(read_photos(image, "the file")[0].pixels)
            values = np.array(_upright(image).convert("RGB"))
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise UnreadablePhoto(path, _reason(path, error)) from error
    return torch.from_numpy(values).permute(2, 0, 1).contiguous()


def covering(height: int, width: int, cover: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size of the same shape that still covers `cover` (h, w); never more than height, width.

    For a square cover the shorter side becomes the cover's side.
    """
    ratio = max(cover[0] / height, cover[1] / width)
    if ratio >= 1:
        return height, width
    return max(cover[0], round(height * ratio)), max(cover[1], round(width * ratio))


def reduce_area(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Reduce uint8 (C, H, W) to `size` (h, w): each value is the mean over the rectangle it covers, rounded once.

    Pixels cut by a border of the rectangle count by their share, as in OpenCV's INTER_AREA.
    """
    height, width = pixels.shape[-2:]
    if (height, width) == tuple(size):
        return pixels
    if size[0] > height or size[1] > width:
        raise ValueError(f"size {size} is larger than the photo's {(height, width)}; reduce_area only reduces")
    return _means(_means(pixels, -2, size[0]), -1, size[1]).round().to(torch.uint8)


def _means(x: Tensor, dim: int, length: int) -> Tensor:
    """Return float64 means of `x` over `length` equal stretches along `dim`: differences of its running integral."""
    total = x.shape[dim]
    edges = torch.arange(length + 1, dtype=torch.float64) * total / length
    whole = edges.floor().clamp(max=total)
    shape = [-1 if d == dim % x.ndim else 1 for d in range(x.ndim)]
    sums = x.cumsum(dim, dtype=torch.int32 if x.dtype == torch.uint8 else torch.float64)
    before = sums.index_select(dim, (whole.long() - 1).clamp(min=0)) * (whole > 0).reshape(shape)
    begun = x.index_select(dim, whole.long().clamp(max=total - 1)) * (edges - whole).reshape(shape)
    return (before + begun).diff(dim=dim) * length / total


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE:
        image.load()  # when the pixels are damaged, this says so; damaged EXIF alone turns nothing
        return image


def _orientation(image: Image.Image) -> int:
    try:
        # not image.getexif(): that of PNG decodes the pixels to look for a block behind them
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except DAMAGE:
        return 1


def _reason(path: Path, error: BaseException) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"{error}; to trust it, raise PIL.Image.MAX_IMAGE_PIXELS"
    if isinstance(error, Image.UnidentifiedImageError):
        return "is empty" if path.stat().st_size == 0 else "is not an image that can be read"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"cannot be read: {(said.splitlines() or [type(error).__name__])[0]}"
