"""The image file formats that are read and written, by suffix, and what each cannot hold.

Imports nothing heavy, so that the command line starts fast and a wrong name is found before a model is loaded.
"""

import contextlib
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path, PurePath

# suffix -> the name of Pillow's codec: these are read and written
FORMATS = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}
READABLE = {*FORMATS, ".apng", ".gif", ".jfif", ".jp2", ".pbm", ".pgm", ".ppm", ".tga"}
WITHOUT_TRANSPARENCY = {"JPEG", "BMP"}
# pixels per side: libjpeg's JPEG_MAX_DIMENSION, 14 bits of VP8, and what libavif's decoders accept unless told otherwise
LONGEST_SIDE = {"JPEG": 65500, "WEBP": 16383, "AVIF": 32768}
MOST_PIXELS = {"AVIF": 2**28}

TEMPORARY_NAME = re.compile(r"\.resdiff-(?P<host>.+)-(?P<pid>\d{1,9})-[0-9a-f]{16}\.tmp")


def is_image_name(path: PurePath) -> bool:
    """Whether the suffix of `path`, in any case, is one of `READABLE`."""
    return path.suffix.lower() in READABLE


def format_of(path: PurePath) -> str:
    """Return the format that the suffix of `path` asks for. Raises ValueError for a suffix not in `FORMATS`."""
    name = FORMATS.get(path.suffix.lower())
    if name is None:
        raise ValueError(
            f"{printable(path)}: cannot write {printable(path.suffix) or 'a file without suffix'}; "
            f"choose {', '.join(FORMATS)}"
        )
    return name


def check_transparency(path: PurePath, has_alpha: bool) -> None:
    """Raise ValueError when an image with transparency is to be written to a format that has none."""
    name = format_of(path)
    if has_alpha and name in WITHOUT_TRANSPARENCY:
        raise ValueError(f"{printable(path)}: {name} has no transparency and the image has; choose png or webp")


def check_size(path: PurePath, height: int, width: int) -> None:
    """Raise ValueError when the format of `path` cannot hold an image of `height` x `width` pixels."""
    name = format_of(path)
    longest = LONGEST_SIDE.get(name)
    if longest is not None and max(height, width) > longest:
        raise ValueError(
            f"{printable(path)}: {name} holds at most {longest} pixels a side, the result has {width}x{height}; "
            "choose png or tif"
        )
    most = MOST_PIXELS.get(name)
    if most is not None and height * width > most:
        raise ValueError(
            f"{printable(path)}: {name} holds at most {most} pixels, the result has {width}x{height}; choose png or tif"
        )


def temporary_beside(path: PurePath) -> Path:
    """Return a new name in the folder of `path`, to write to before renaming.

    It names host and process (`TEMPORARY_NAME`), so that what a killed process left behind can be told from work in
    progress.
    """
    host = re.sub(r"[^\w.-]", "_", platform.node()) or "localhost"
    return Path(path).with_name(f".resdiff-{host}-{os.getpid()}-{os.urandom(8).hex()}.tmp")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `path` at the end, or is removed when anything goes wrong.

    Raises OSError, one line, when it cannot be written.
    """
    temporary = temporary_beside(path)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OSError(
            f"{printable(path)} cannot be written: {error.strerror or error}; choose another place"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def printable(path: PurePath | str) -> str:
    """Return the name for a message: one line of valid UTF-8, bytes and characters that are not as escapes."""
    name = str(path).encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)
