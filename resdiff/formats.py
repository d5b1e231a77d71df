"""The image file formats that are read and written, by suffix. Imports nothing, so that the command line starts fast."""

from pathlib import PurePath

# suffix -> the name of Pillow's codec
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
WITHOUT_TRANSPARENCY = {"JPEG", "BMP"}


def is_image_name(path: PurePath) -> bool:
    """Whether the suffix of `path`, in any case, is one of `FORMATS`."""
    return path.suffix.lower() in FORMATS


def format_of(path: PurePath) -> str:
    """Return the format that the suffix of `path` asks for. Raises ValueError for a suffix not in `FORMATS`."""
    if not is_image_name(path):
        raise ValueError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; choose {', '.join(FORMATS)}")
    return FORMATS[path.suffix.lower()]


def check_transparency(path: PurePath, has_alpha: bool) -> None:
    """Raise ValueError when an image with transparency is to be written to a format that has none."""
    name = format_of(path)
    if has_alpha and name in WITHOUT_TRANSPARENCY:
        raise ValueError(f"{path}: {name} has no transparency and the image has; choose png or webp")
