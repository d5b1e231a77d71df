"""Image files opened with suspicion: no device, no bomb, nothing that changes meanwhile; one clear line otherwise.

Everything that can be known without decoding is checked here, before a decoder allocates anything.
"""

import contextlib
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from PIL import Image, features

from resdiff.files.formats import printable

# what decoders raise on damaged files
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    Image.DecompressionBombError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
EXIF_HEADER = b"Exif\0\0"
COPY_AGAIN = "copy it again, or save it as PNG or JPEG"
RAISE_LIMIT = "if the file is to be trusted, raise it: --max-pixels on the command line, PIL.Image.MAX_IMAGE_PIXELS"
PROGRAMS = {"EPS", "WMF"}  # not pixels but drawing commands, which an interpreter may follow for ever
ONE_PICTURE = {"MPO", "PSD"}  # their further frames are previews, gain maps or layers of the first
OPTIONAL_CODECS = {b"avif": "avif", b"avis": "avif", b"WEBP": "webp"}  # bytes 8 to 12 -> Pillow's feature


class RefusedImage(ValueError):
    """A file that is not decoded; the message names it and says why."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; leaving the block checks that it is still as it was.

    Raises:
        FileNotFoundError: `path` does not exist, or is a link to nothing.
        ValueError: it is a folder, pipe or device, may not be read, or changed its size or time meanwhile.
    """
    name = printable(path)
    try:
        # asked before opening: opening a pipe waits for somebody to write
        kind = path.stat().st_mode
        if stat.S_ISDIR(kind):
            raise ValueError(f"{name} is a folder; pass an image file")
        if not stat.S_ISREG(kind):
            raise ValueError(f"{name} is a pipe or device; pass an image file")
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{name} does not exist; check the name") from error
    except OSError as error:
        raise ValueError(f"{name} cannot be opened: {first_line(error)}; check its permissions") from error
    with file:
        before = _state(file)
        try:
            yield file
        except Exception as error:
            if _state(file) == before:
                raise
            raise ValueError(f"{name} changed while it was read; try again") from error  # the reason for `error`
        if _state(file) != before:
            raise ValueError(f"{name} changed while it was read; try again")


def _state(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def open_image(file: BinaryIO, name: str) -> Image.Image:
    """Let Pillow read the header; the pixels are decoded later. Raises RefusedImage: no image, damaged or too large."""
    try:
        file.seek(0)
        image = Image.open(file)
    except Image.UnidentifiedImageError as error:
        file.seek(0)
        head = file.read(12)
        if not head:
            raise RefusedImage(f"{name} is empty; {COPY_AGAIN}") from error
        codec = OPTIONAL_CODECS.get(head[8:])
        if codec is not None and not features.check(codec):
            raise RefusedImage(
                f"{name} is {codec.upper()}, and this Pillow was built without it; {COPY_AGAIN}"
            ) from error
        raise RefusedImage(f"{name} is not an image that can be read; {COPY_AGAIN}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RefusedImage(f"{name} is above the limit of {Image.MAX_IMAGE_PIXELS} pixels; {RAISE_LIMIT}") from error
    except DAMAGE as error:
        raise RefusedImage(f"{name} cannot be read: {first_line(error)}; {COPY_AGAIN}") from error
    if image.format in PROGRAMS:
        raise RefusedImage(f"{name} is a drawing ({image.format}), not pixels; save it as PNG")
    check_pixels(image.width, image.height, name)
    return image


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise RefusedImage when an image has no pixels, or more than PIL.Image.MAX_IMAGE_PIXELS."""
    if not (isinstance(width, int) and isinstance(height, int)):  # Pillow passes on what a damaged TIFF says
        raise RefusedImage(f"{name} cannot be read: its size is damaged; {COPY_AGAIN}")
    if min(width, height) < 1:
        raise RefusedImage(f"{name} is {width}x{height}: it has no pixels; pass at least 1x1")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and width * height > limit:
        raise RefusedImage(f"{name} is {width}x{height}, above the limit of {limit} pixels; {RAISE_LIMIT}")


def frame_count(image: Image.Image) -> int:
    """Return the number of frames or pages; 1 where the further ones belong to the same picture, or are damaged.

    Counting may move the image to another frame and back: decode before.
    """
    if image.format in ONE_PICTURE:
        return 1
    try:
        return getattr(image, "n_frames", 1)
    except DAMAGE:
        return 1


def warn_of_frames(count: int, name: str) -> None:
    """Say in one line that only the first of several frames is read."""
    if count > 1:
        warnings.warn(f"{name} has {count} frames; the first is used", UserWarning, stacklevel=2)


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable((said.splitlines() or [""])[0].strip()) or type(error).__name__
