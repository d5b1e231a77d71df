"""Pictures out: finished samples of 8 or 16 bits, to PIL images and to files that are whole or not there at all.

PNG and TIFF keep 16 bits; other formats get them rounded to 8. What a format cannot hold beside the pixels is left out
rather than losing the image. The caller is expected to have asked `resdiff.files.formats.check_size`, `check_transparency`
and `check_encoder` before the work was done; they are asked again here.
"""

import contextlib
import io
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from resdiff.files.formats import check_size, check_transparency, format_of, printable, temporary_beside
from resdiff.files.lossless import write_png, write_tiff
from resdiff.files.reading import DAMAGE
from resdiff.images import samples_of

STREAMED = 2**28  # bytes; larger PNGs are not copied into a PIL image first
ROUNDED_AT_ONCE = 2**22  # samples
DEEP_FORMATS = {"PNG", "TIFF"}
METADATA = {"exif": "EXIF", "icc_profile": "ICC profile", "dpi": "resolution"}
# BMP has nothing but a resolution; that WebP and AVIF have none is not worth a warning, as every photo names one
WITHOUT = {"BMP": {"exif", "icc_profile"}, "WEBP": {"dpi"}, "AVIF": {"dpi"}}


@dataclass(frozen=True, eq=False)
class Picture:
    """One finished image: samples as they will be stored."""

    values: np.ndarray  # (H, W, C) uint8 or uint16, possibly memory-mapped; C = 1 grey, 2 grey+alpha, 3 RGB, 4 RGBA
    metadata: dict[str, Any] = field(default_factory=dict)  # exif (bytes), icc_profile (bytes), dpi (x, y)

    def __post_init__(self) -> None:
        shape, dtype = self.values.shape, self.values.dtype
        if len(shape) != 3 or shape[2] not in (1, 2, 3, 4) or min(shape) < 1 or dtype not in (np.uint8, np.uint16):
            raise ValueError(f"values are {dtype} of shape {shape}; pass uint8 or uint16 (H, W, 1 to 4)")

    @property
    def height(self) -> int:
        """Rows of pixels."""
        return int(self.values.shape[0])

    @property
    def width(self) -> int:
        """Pixels of a row."""
        return int(self.values.shape[1])

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is transparency."""
        return self.values.shape[2] in (2, 4)

    def to_pil(self) -> Image.Image:
        """Return an image of mode L, LA, RGB or RGBA, with the metadata in its `info`; 16 bits are rounded to 8."""
        if self.values.dtype == np.uint16:
            # constant text and place: Python shows it once, not once per image
            warnings.warn(
                "16-bit samples are rounded to 8 bits; PNG and TIFF files, np and pt keep them",
                UserWarning,
                stacklevel=1,
            )
        image = Image.fromarray(_without_single_channel(_rounded_to_8_bits(self.values)))
        image.info.update(self.metadata)
        return image


def _rounded_to_8_bits(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    rounded = np.empty(values.shape, np.uint8)
    rows = max(1, ROUNDED_AT_ONCE // values[0].size)
    for top in range(0, len(values), rows):
        rounded[top : top + rows] = (values[top : top + rows].astype(np.uint32) + 128) // 257  # 65535 = 255 * 257
    return rounded


def _without_single_channel(values: np.ndarray) -> np.ndarray:
    return values[..., 0] if values.shape[2] == 1 else values


def save_picture(
    picture: Picture | Image.Image,
    path: str | os.PathLike[str],
    *,
    quality: int = 95,
    compress_level: int = 1,
    strip_metadata: bool = False,
) -> None:
    """Write `picture` whole or not at all: to a temporary name beside `path`, which is then renamed.

    EXIF, ICC profile and DPI are written as far as the format has a place for them: all in PNG, JPEG and TIFF (there
    the EXIF tags that speak of the photo), no DPI in WebP and AVIF, only DPI in BMP. A warning names what else is
    left out. 16 bits are kept by PNG and TIFF; for the others they are rounded to 8, with a warning.

    Args:
        picture: or a PIL image of any mode but F; its metadata is in `info`.
        path: its suffix names the format, see `resdiff.files.formats.FORMATS`.
        quality: 1 to 100, of JPEG, WebP and AVIF.
        compress_level: 0 to 9, of PNG. 1 is four times faster than zlib's default, and the files are little larger.
        strip_metadata: write the pixels only.

    Raises:
        ValueError: unknown suffix, a format without encoder, a size or transparency that the format cannot hold.
        OSError: the folder does not exist, is full or not writable.
    """
    path = Path(path)
    if isinstance(picture, Image.Image):
        picture = _from_pil(picture)
    check_encoder(path)
    check_transparency(path, picture.has_alpha)
    check_size(path, picture.height, picture.width)
    format_name = format_of(path)
    metadata = {} if strip_metadata else _writable_metadata(picture, format_name)
    temporary = temporary_beside(path)
    try:
        with temporary.open("xb") as file:
            _encode(file, Picture(picture.values, metadata), format_name, quality, compress_level)
        os.replace(temporary, path)
    except BaseException:  # KeyboardInterrupt too must leave nothing behind
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise


def check_encoder(path: Path) -> None:
    """Raise ValueError when the format of `path` is unknown, or one that this Pillow was built without."""
    name = format_of(path)
    if name not in Image.SAVE:
        Image.init()
    if name not in Image.SAVE:
        raise ValueError(f"{printable(path)}: this Pillow was built without {name}; choose png or jpg")


def _from_pil(image: Image.Image) -> Picture:
    values = samples_of(image)
    if values.dtype == np.float32:
        raise ValueError(f"picture is of mode {image.mode}; convert it to one of integers, such as L")
    return Picture(values, {key: image.info[key] for key in METADATA if image.info.get(key)})


def _writable_metadata(picture: Picture, format_name: str) -> dict[str, Any]:
    """Return what an encoder takes of the metadata, found out with one pixel; warn of what is left out."""
    dtype = picture.values.dtype if format_name in DEEP_FORMATS else np.uint8
    pixel = np.zeros((1, 1, picture.values.shape[2]), dtype)
    kept, lost = {}, []
    for key, value in picture.metadata.items():
        if key in WITHOUT.get(format_name, set()):
            lost += [key] if key != "dpi" else []
            continue
        try:
            _encode(io.BytesIO(), Picture(pixel, {key: value}), format_name, quality=95, compress_level=1)
            kept[key] = value
        except DAMAGE:  # JPEG holds 64 KiB of EXIF, for one
            lost.append(key)
    if lost:
        names = " and ".join(METADATA[key] for key in lost)
        warnings.warn(f"{format_name} cannot hold the {names} of an image; left out", UserWarning, stacklevel=1)
    return kept


def _encode(file: BinaryIO, picture: Picture, format_name: str, quality: int, compress_level: int) -> None:
    values = picture.values
    if format_name == "TIFF":
        write_tiff(file, values, picture.metadata)
    elif format_name == "PNG" and (values.dtype == np.uint16 or values.nbytes > STREAMED):
        write_png(file, values, picture.metadata, compress_level)
    else:
        options = dict(picture.metadata)
        if format_name == "PNG":
            options["compress_level"] = compress_level
        elif format_name != "BMP":
            options["quality"] = quality
        if format_name == "JPEG":
            options["subsampling"] = "4:4:4"  # anything else halves the colour resolution just gained
        picture.to_pil().save(file, format=format_name, **options)
