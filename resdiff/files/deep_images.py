"""Image files with more than 8 bits per channel, which Pillow reads only in grey: PNG, TIFF, AVIF, JPEG 2000, PPM.

PNG, AVIF and JPEG 2000 are decoded by imagecodecs, TIFF (any compression, byte order and layout) by tifffile. What a
file says beside its pixels comes from Pillow, which reads the header without decoding. 16-bit colours of what is left
(PSD, CMYK) are Pillow's, which rounds them to 8.
"""

import io
import logging
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from resdiff.files.reading import DAMAGE, check_pixels, frame_count, open_image

if TYPE_CHECKING:
    from tifffile import TiffPage

# their complaints are raised here in one line; without a handler, logging would print them as well
for library in ("PIL", "tifffile"):
    logging.getLogger(library).addHandler(logging.NullHandler())

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = {b"IHDR", b"tRNS", b"IDAT", b"IEND"}
JPEG_2000_SIGNATURES = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
TIFF_WHITE_IS_0, TIFF_BLACK_IS_0, TIFF_RGB = 0, 1, 2
TIFF_UNSIGNED, TIFF_FLOAT = 1, 3
TIFF_PREMULTIPLIED, TIFF_ALPHA = 1, 2
TIFF_PROFILE = 34675
INCHES, CENTIMETRES = 2, 3
UNITS_PER_INCH = {INCHES: 1.0, CENTIMETRES: 2.54}

# tags of a TIFF file that speak of the photo; the others describe how this file is laid out
PHOTO_TAGS = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Orientation,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.HostComputer,
    ExifTags.Base.Rating,
    ExifTags.Base.Copyright,
    ExifTags.Base.XPTitle,
    ExifTags.Base.XPComment,
    ExifTags.Base.XPAuthor,
    ExifTags.Base.XPKeywords,
    ExifTags.Base.XPSubject,
)
PHOTO_DIRECTORIES = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


@dataclass(frozen=True, eq=False)
class DeepImage:
    """The first frame of a file with more than 8 bits per channel, as stored: not yet turned upright."""

    values: np.ndarray  # (h, w, C): uint16, or floats of which 1 is white; C = 1, 2 (grey + alpha), 3 or 4
    info: Mapping[Any, Any]  # exif, icc_profile, dpi, under Pillow's names
    frames: int = 1


def read_deep(file: BinaryIO, name: str) -> DeepImage | None:
    """Decode a file with more than 8 bits per channel; None: it is another, or damaged, and Pillow's business.

    Raises:
        RefusedImage: the image has no pixels or too many.
        DAMAGE: whatever decoders raise when the pixels cannot be decoded, or are not all there.
    """
    file.seek(0)
    head = file.read(32)
    file.seek(0)
    if head.startswith(PNG_SIGNATURE) and head[24:25] == b"\x10":
        return _read_png(file, name)
    if head.startswith(TIFF_SIGNATURES):
        return _read_tiff(file, name)
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return _read_avif(file, name)
    if head.startswith(JPEG_2000_SIGNATURES):
        return _read_jpeg_2000(file, name)
    if head.startswith(b"P6"):
        return _read_ppm(file, name)
    return None


def _read_png(file: BinaryIO, name: str) -> DeepImage:
    import imagecodecs

    with open_image(file, name) as header:
        info, frames = dict(header.info), frame_count(header)
    file.seek(0)
    chunks = list(_png_chunks(file.read()))
    late_exif = [bytes(chunk[8:-4]) for kind, chunk in chunks if kind == b"eXIf"]  # may stand behind the pixels
    if late_exif:
        info.setdefault("exif", late_exif[0])
    # without the other chunks libpng has nothing to warn of on the terminal
    pixels = b"".join([PNG_SIGNATURE, *(chunk for kind, chunk in chunks if kind in PNG_PIXELS)])
    return DeepImage(_with_channels(imagecodecs.png_decode(pixels)), info, frames)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the kind and the whole of each chunk (length, kind, content, checksum)."""
    start = len(PNG_SIGNATURE)
    while start < len(data):
        end = start + 12 + int.from_bytes(data[start : start + 4], "big")
        yield data[start + 4 : start + 8], memoryview(data)[start:end]
        start = end


def _read_avif(file: BinaryIO, name: str) -> DeepImage | None:
    import imagecodecs

    data = file.read()
    # AV1 codec configuration (av1C): its third byte holds high_bitdepth and twelve_bit
    found = re.search(rb"av1C..(.)", data, re.DOTALL)
    if found is None or not found[1][0] & 0x40:
        return None
    white = 4095 if found[1][0] & 0x20 else 1023
    with open_image(io.BytesIO(data), name) as header:
        info, frames = dict(header.info), frame_count(header)
    values = imagecodecs.avif_decode(data, index=0)
    return DeepImage(_with_channels(values).astype(np.float32) / white, info, frames)


def _read_jpeg_2000(file: BinaryIO, name: str) -> DeepImage | None:
    import imagecodecs

    data = file.read()
    # the marker SIZ: 38 bytes after it the number of components, then the bits of each (less one; the first bit: signed)
    size = data.find(b"\xff\x4f\xff\x51") + 2
    bits = {byte + 1 for byte in data[size + 40 : size + 40 + 3 * data[size + 39] : 3]} if size > 1 else {8}
    if not any(8 < depth <= 16 for depth in bits) or len(bits) > 1:
        return None
    with open_image(io.BytesIO(data), name) as header:
        info = dict(header.info)
    values = imagecodecs.jpeg2k_decode(data)
    return DeepImage(_with_channels(values).astype(np.float32) / (2 ** bits.pop() - 1), info)


def _read_ppm(file: BinaryIO, name: str) -> DeepImage | None:
    data = file.read()
    head = re.match(rb"P6(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)(?:\s+|#[^\n]*\n)+(\d+)\s", data)
    if head is None or not 255 < int(head[3]) <= 65535:
        return None
    width, height, white = map(int, head.groups())
    check_pixels(width, height, name)
    values = np.frombuffer(data, ">u2", 3 * width * height, head.end()).reshape(height, width, 3)
    return DeepImage(np.minimum(values, white).astype(np.float32) / white, {})


def _read_tiff(file: BinaryIO, name: str) -> DeepImage | None:
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            if not _is_deep(page):
                return None
            frames = len(tiff.pages)
    except DAMAGE:
        return None
    check_pixels(page.imagewidth, page.imagelength, name)
    segments = math.prod(page.chunked)
    if min(len(page.dataoffsets), len(page.databytecounts)) < segments or 0 in page.databytecounts[:segments]:
        raise ValueError("a part of the pixels is missing")  # which tifffile would fill with black
    planes = page.asarray(maxworkers=1).reshape(page.shaped)  # (separate planes, depth, h, w, interleaved channels)
    values = np.moveaxis(planes[:, 0], 0, -1).reshape(*planes.shape[2:4], -1)
    return DeepImage(_without_tiff_quirks(values, page), tiff_info(file), frames)


def _is_deep(page: "TiffPage") -> bool:
    """Whether a page has more than 8 bits per channel, of a kind that needs no conversion of colours."""
    extra = len(page.extrasamples)
    if page.photometric not in (TIFF_WHITE_IS_0, TIFF_BLACK_IS_0, TIFF_RGB) or page.imagedepth != 1:
        return False
    if page.samplesperpixel - extra != (3 if page.photometric == TIFF_RGB else 1):
        return False
    if page.sampleformat == TIFF_FLOAT:
        return page.bitspersample in (16, 32, 64)
    return page.sampleformat == TIFF_UNSIGNED and 8 < page.bitspersample <= 16


def _without_tiff_quirks(values: np.ndarray, page: "TiffPage") -> np.ndarray:
    """Make black 0, white 65535 or 1.0 and alpha independent of the colours; drop further channels."""
    colours = 3 if page.photometric == TIFF_RGB else 1
    kind = page.extrasamples[0] if page.extrasamples else 0
    has_alpha = kind in (TIFF_PREMULTIPLIED, TIFF_ALPHA)
    values = values[..., : colours + has_alpha]
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    elif page.bitspersample < 16 or kind == TIFF_PREMULTIPLIED:
        values = values.astype(np.float32) / (2**page.bitspersample - 1)
    if page.photometric == TIFF_WHITE_IS_0:
        values = np.concatenate([_white(values) - values[..., :1], values[..., 1:]], axis=-1)
    if kind == TIFF_PREMULTIPLIED:
        alpha = values[..., colours:]
        visible = np.where(alpha > 0, alpha, 1)
        values = np.concatenate([np.minimum(values[..., :colours] / visible, 1), alpha], axis=-1)
    return values


def _white(values: np.ndarray) -> np.generic:
    return values.dtype.type(65535 if values.dtype == np.uint16 else 1)


def _with_channels(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 3 else values[..., None]


def tiff_info(file: BinaryIO) -> dict[str, Any]:
    """Return exif, icc_profile and dpi of a TIFF file, as far as they are not damaged.

    Unlike Pillow's, `exif` is an EXIF block (of the tags that speak of the photo), and no resolution is made up.
    """
    info: dict[str, Any] = {}
    try:
        tags = _tiff_tags(file)
        info["exif"] = photo_tags(tags).tobytes()
        profile = tags.get(TIFF_PROFILE)
        if isinstance(profile, bytes):
            info["icc_profile"] = profile
        x, y = tags.get(ExifTags.Base.XResolution), tags.get(ExifTags.Base.YResolution)
        units_per_inch = UNITS_PER_INCH.get(tags.get(ExifTags.Base.ResolutionUnit, INCHES))
        if x and y and units_per_inch:
            info["dpi"] = (float(x) * units_per_inch, float(y) * units_per_inch)
    except DAMAGE:
        pass
    return info


def _tiff_tags(file: BinaryIO) -> Image.Exif:
    file.seek(0)
    head = file.read(8)
    if 43 in head[2:4]:  # BigTIFF
        head += file.read(8)
    directory = ImageFileDirectory_v2(head)
    tags = Image.Exif()
    tags.bigtiff, tags.endian = len(head) == 16, "<" if head.startswith(b"II") else ">"
    tags.load_from_fp(file, directory.next)
    return tags


def photo_tags(tags: Image.Exif) -> Image.Exif:
    """Return what speaks of the photo itself, its exposure and position, not of how a file is laid out."""
    kept = Image.Exif()
    for tag in PHOTO_TAGS:
        if tag in tags:
            kept[tag] = tags[tag]
    for place in PHOTO_DIRECTORIES:
        directory = tags.get_ifd(place)
        if directory:
            kept.get_ifd(place).update(directory)
    return kept
