"""PNG and TIFF written in bands of rows: 8 or 16 bits, of any size, in a few MiB of memory.

Pillow writes no 16-bit colour and copies an image whole before it writes. PNG as in its third edition (W3C, 2025):
filter Sub and run-length matching at level 1 need half of libpng's time on photos, at the same size. TIFF is revision
6.0, uncompressed, and BigTIFF where 4 GiB do not suffice; its directory is laid out by Pillow.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from resdiff.files.deep_images import INCHES, PHOTO_DIRECTORIES, PNG_SIGNATURE, TIFF_PROFILE, photo_tags
from resdiff.files.reading import EXIF_HEADER

BAND_BYTES = 2**20
PNG_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # channels -> colour type
PNG_FILTER_SUB = 1
METRES_PER_INCH = 0.0254
CLASSIC_TIFF = 2**32 - 2**24  # bytes of pixels; the rest is left to the directory, a profile and EXIF
BIG_TIFF_HEAD = b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"
UNSIGNED_LONG, LONG_8 = 4, 16  # TIFF's types of 32 and 64 bits
UNASSOCIATED_ALPHA = 2


def write_png(file: BinaryIO, values: np.ndarray, metadata: dict[str, Any], compress_level: int) -> None:
    """Write `values`, (H, W, C) uint8 or uint16 with C = 1 to 4, and exif, icc_profile and dpi of `metadata`.

    Args:
        compress_level: 0 to 9. At 1 only runs are matched, which on filtered photos is faster and no larger.
    """
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, PNG_COLOUR_TYPES[channels], 0, 0, 0)
    file.write(PNG_SIGNATURE)
    _write_chunk(file, b"IHDR", header)
    if "icc_profile" in metadata:
        _write_chunk(file, b"iCCP", b"ICC Profile\0\0" + zlib.compress(metadata["icc_profile"]))
    if "dpi" in metadata:
        x, y = (int(dots / METRES_PER_INCH + 0.5) for dots in metadata["dpi"])
        _write_chunk(file, b"pHYs", struct.pack(">IIB", x, y, 1))
    if "exif" in metadata:
        _write_chunk(file, b"eXIf", metadata["exif"].removeprefix(EXIF_HEADER))
    strategy = zlib.Z_RLE if compress_level == 1 else zlib.Z_DEFAULT_STRATEGY
    packer = zlib.compressobj(compress_level, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    for band in _bands(values):
        packed = packer.compress(_filtered(band))
        if packed:
            _write_chunk(file, b"IDAT", packed)
    _write_chunk(file, b"IDAT", packer.flush())
    _write_chunk(file, b"IEND", b"")


def _write_chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    file.write(struct.pack(">I", len(content)) + kind)
    file.write(content)
    file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


def _filtered(band: np.ndarray) -> bytes:
    """Return rows of big-endian bytes, each minus the one a pixel to the left, led by the number of this filter."""
    rows, pixel = band.shape[0], band.shape[2] * band.itemsize
    plain = np.ascontiguousarray(band, band.dtype.newbyteorder(">")).view(np.uint8).reshape(rows, -1)
    filtered = np.empty((rows, 1 + plain.shape[1]), np.uint8)
    filtered[:, 0] = PNG_FILTER_SUB
    filtered[:, 1 : 1 + pixel] = plain[:, :pixel]
    np.subtract(plain[:, pixel:], plain[:, :-pixel], out=filtered[:, 1 + pixel :])
    return filtered.tobytes()


def write_tiff(file: BinaryIO, values: np.ndarray, metadata: dict[str, Any]) -> None:
    """Write `values`, (H, W, C) uint8 or uint16 with C = 1 to 4, and icc_profile, dpi and exif of `metadata`.

    Of the EXIF block, what speaks of the photo is kept (`PHOTO_TAGS`, exposure and position), not what describes the
    layout of another file.
    """
    height, width, channels = values.shape
    is_big = values.nbytes > CLASSIC_TIFF
    tags = ImageFileDirectory_v2(BIG_TIFF_HEAD if is_big else b"II*\0\0\0\0\0")
    if "exif" in metadata:
        _add_exif(tags, metadata["exif"])
    tags[ExifTags.Base.ImageWidth] = width
    tags[ExifTags.Base.ImageLength] = height
    tags[ExifTags.Base.BitsPerSample] = (8 * values.itemsize,) * channels
    tags[ExifTags.Base.Compression] = 1
    tags[ExifTags.Base.PhotometricInterpretation] = 2 if channels >= 3 else 1  # RGB, or black is 0
    tags[ExifTags.Base.SamplesPerPixel] = channels
    tags[ExifTags.Base.PlanarConfiguration] = 1
    if channels in (2, 4):
        tags[ExifTags.Base.ExtraSamples] = UNASSOCIATED_ALPHA
    if "icc_profile" in metadata:
        tags[TIFF_PROFILE] = metadata["icc_profile"]
    if "dpi" in metadata:
        tags[ExifTags.Base.ResolutionUnit] = INCHES
        tags[ExifTags.Base.XResolution], tags[ExifTags.Base.YResolution] = metadata["dpi"]
    rows, row_bytes = _rows_per_band(values), values[0].nbytes
    tops = range(0, height, rows)
    for tag in (ExifTags.Base.StripOffsets, ExifTags.Base.StripByteCounts):
        tags.tagtype[tag] = LONG_8 if is_big else UNSIGNED_LONG
    tags[ExifTags.Base.RowsPerStrip] = rows
    tags[ExifTags.Base.StripOffsets] = tuple(top * row_bytes for top in tops)  # Pillow adds where the pixels begin
    tags[ExifTags.Base.StripByteCounts] = tuple(min(rows, height - top) * row_bytes for top in tops)
    tags.save(file)
    for band in _bands(values):
        file.write(np.ascontiguousarray(band, band.dtype.newbyteorder("<")).data)


def _add_exif(tags: ImageFileDirectory_v2, block: bytes) -> None:
    exif = Image.Exif()
    exif.load(block)
    kept = photo_tags(exif)
    for tag, value in kept.items():
        tags[tag] = value
    for place in PHOTO_DIRECTORIES:
        if directory := kept.get_ifd(place):
            tags[place] = directory


def _bands(values: np.ndarray) -> Iterator[np.ndarray]:
    rows = _rows_per_band(values)
    for top in range(0, len(values), rows):
        yield values[top : top + rows]


def _rows_per_band(values: np.ndarray) -> int:
    return max(1, BAND_BYTES // values[0].nbytes)
