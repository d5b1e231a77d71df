"""What an image file says of itself before its pixels are decoded, and the size its enlargement will have."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from resdiff.files.formats import check_size, check_transparency, printable

LARGEST_ENLARGEMENT = 16  # output over the limit of input pixels: four times the sides of the largest input


@dataclass(frozen=True, kw_only=True)
class Header:
    """What Pillow tells of a file that was opened and not read."""

    width: int  # as displayed
    height: int
    format: str
    mode: str  # Pillow's
    bits: int  # per channel
    frames: int | None  # None: not counted
    orientation: int  # EXIF, 1 to 8; it is applied in `width` and `height`
    has_alpha: bool
    exif: int  # tags
    icc_profile: int  # bytes
    dpi: tuple[float, float] | None


def read_header(path: Path, *, frames: bool = False) -> Header:
    """Read the header of the image file `path`; count its `frames` too, which takes reading through some formats.

    Raises ValueError or OSError in one line, the same as the reader's, when it has no header.
    """
    from PIL import ExifTags, Image

    from resdiff.files.reading import DAMAGE, RefusedImage, check_pixels, first_line, frame_count, open_image, opened

    name = printable(path)
    with opened(path) as file:
        try:
            with open_image(file, name) as image:
                deep = image.mode.startswith("I;16") or ";16" in str([t.args for t in getattr(image, "tile", [])])
                tags = Image.Image.getexif(image)  # PNG's own would decode the pixels to look for tags behind them
                orientation = tags.get(ExifTags.Base.Orientation, 1)
                # Pillow itself turns TIFF, and says so in the size
                turned = image.format != "TIFF" and orientation in (5, 6, 7, 8)
                return Header(
                    width=image.height if turned else image.width,
                    height=image.width if turned else image.height,
                    format=image.format or "?",
                    mode=image.mode,
                    bits=16 if deep else {"I": 32, "F": 32, "1": 1}.get(image.mode, 8),
                    frames=frame_count(image) if frames else None,
                    orientation=orientation if orientation in range(1, 9) else 1,
                    has_alpha=image.has_transparency_data,
                    exif=len(tags),
                    icc_profile=len(image.info.get("icc_profile") or b""),
                    dpi=image.info.get("dpi"),
                )
        except RefusedImage:
            header = _tiff_header(file)
            if header is None:
                raise
            check_pixels(header.width, header.height, name)
            return header
        except DAMAGE as error:
            raise ValueError(f"{name} cannot be read: {first_line(error)}; copy it again") from error


def _tiff_header(file: BinaryIO) -> Header | None:
    """Return the header of a TIFF file that Pillow does not know and tifffile does; None of any other file."""
    import tifffile

    from resdiff.files.reading import DAMAGE

    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            tag = page.tags.get("Orientation")
            orientation = 1 if tag is None else int(tag.value)
            sides = page.imagewidth, page.imagelength
            width, height = sides[::-1] if orientation in (5, 6, 7, 8) else sides
            return Header(
                width=width,
                height=height,
                format="TIFF",
                mode=f"{page.samplesperpixel} channels",
                bits=page.bitspersample,
                frames=len(tiff.pages),
                orientation=orientation,
                has_alpha=bool(page.extrasamples),
                exif=0,
                icc_profile=len(page.iccprofile or b""),
                dpi=None,
            )
    except DAMAGE:
        return None


def peek_size(path: Path) -> tuple[int, int] | None:
    """Return (height, width) as displayed; None when the file has to speak for itself."""
    try:
        header = read_header(path)
    except (ValueError, OSError):  # the reader will say what is wrong with it
        return None
    return header.height, header.width


def check_result(target: Path, height: int, width: int, has_alpha: bool) -> None:
    """Raise ValueError unless an image of `height` x `width` can be made and written to `target`.

    The output is bounded by `LARGEST_ENLARGEMENT` times PIL.Image.MAX_IMAGE_PIXELS, which bounds the input.
    """
    from PIL import Image

    check_transparency(target, has_alpha)
    check_size(target, height, width)
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width > LARGEST_ENLARGEMENT * limit:
        raise ValueError(
            f"the result would have {width}x{height} pixels, above {LARGEST_ENLARGEMENT} times the input's limit of "
            f"{limit}; pass a smaller --scale or a larger --max-pixels"
        )
