"""Valid small images of every format and mode that is read, as files in memory.

Pillow and tifffile write most; interlaced and 16-bit colour PNG, which neither can write, are put together here.
"""

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import tifffile
from mutations import PNG_SIGNATURE
from PIL import Image, ImageCms

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


@dataclass(frozen=True)
class Sample:
    """One valid file."""

    name: str  # what it is, without a suffix
    suffix: str
    data: bytes


def pixels(height: int, width: int, channels: int, dtype: type = np.uint8) -> np.ndarray:
    """Return a smooth pattern with some noise, (height, width, channels), over the whole range of an integer dtype."""
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / (2 + c)) * np.cos(y / (3 + c)) for c in range(channels)]
    unit = np.clip(np.stack(waves, axis=-1) * 0.4 + 0.5 + rng.normal(0, 0.05, (height, width, channels)), 0, 1)
    return unit.astype(dtype) if np.dtype(dtype).kind == "f" else (unit * np.iinfo(dtype).max).astype(dtype)


def picture(mode: str, size: tuple[int, int] = (19, 14)) -> Image.Image:
    """Return a PIL image of any mode."""
    width, height = size
    if mode in ("1", "P"):
        colour = Image.fromarray(pixels(height, width, 3))
        return colour.convert("1") if mode == "1" else colour.quantize(16)
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        return Image.fromarray(pixels(height, width, 1, np.uint16 if mode == "I" else dtype)[..., 0].astype(dtype))
    values = pixels(height, width, len(Image.new(mode, (1, 1)).getbands()))
    return Image.frombytes(mode, size, np.ascontiguousarray(values).tobytes())


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    """Return the bytes of the file that Pillow writes."""
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def png(values: np.ndarray, interlaced: bool = False) -> bytes:
    """Return a PNG of (h, w, C) uint8 or uint16, C = 1 to 4, no filters."""
    height, width, channels = values.shape
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    lines = b""
    for top, left, down, right in passes:
        part = values[top::down, left::right].astype(values.dtype.newbyteorder(">"))
        lines += b"".join(b"\0" + row.tobytes() for row in part) if part.size else b""
    depth, colour = 8 * values.dtype.itemsize, {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    )


def tiff(values: np.ndarray, **options: object) -> bytes:
    """Return a TIFF as tifffile writes it."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def beside() -> dict[str, object]:
    """Return EXIF, an ICC profile and a resolution."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x829A] = "maker", 1, 0.01
    return {
        "exif": exif,
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "dpi": (300, 300),
    }


def oriented(orientation: int) -> Image.Exif:
    """Return EXIF of this orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def samples() -> Iterator[Sample]:
    """Yield every kind of valid file, in an order that does not change."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield Sample(f"png {mode}", ".png", encoded(picture(mode), "PNG"))
    for channels in (1, 2, 3, 4):
        yield Sample(f"png 16 bit {channels}", ".png", png(pixels(14, 19, channels, np.uint16)))
        yield Sample(f"png interlaced {channels}", ".png", png(pixels(14, 19, channels), interlaced=True))
    yield Sample("png 16 bit interlaced", ".png", png(pixels(14, 19, 3, np.uint16), interlaced=True))
    yield Sample("png transparent palette", ".png", encoded(picture("P"), "PNG", transparency=3))
    yield Sample("png transparent colour", ".png", encoded(picture("RGB"), "PNG", transparency=(1, 2, 3)))
    for mode, progressive in product(("L", "RGB", "CMYK"), (False, True)):
        yield Sample(f"jpeg {mode} {progressive}", ".jpg", encoded(picture(mode), "JPEG", progressive=progressive))
    for orientation in range(2, 9):
        yield Sample(f"jpeg turned {orientation}", ".jpg", encoded(picture("RGB"), "JPEG", exif=oriented(orientation)))
    for mode, lossless in product(("RGB", "RGBA"), (False, True)):
        yield Sample(f"webp {mode} {lossless}", ".webp", encoded(picture(mode), "WEBP", lossless=lossless))
    for mode in ("1", "L", "P", "RGB"):
        yield Sample(f"bmp {mode}", ".bmp", encoded(picture(mode), "BMP"))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"):
        yield Sample(f"tiff {mode}", ".tif", encoded(picture(mode), "TIFF"))
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        yield Sample(f"tiff {compression}", ".tiff", encoded(picture("RGB"), "TIFF", compression=compression))
    yield Sample("tiff group4", ".tiff", encoded(picture("1"), "TIFF", compression="group4"))
    for channels, byteorder in product((1, 3, 4), "<>"):
        photometric = {"photometric": "rgb"} if channels > 2 else {}
        values = pixels(14, 19, channels, np.uint16).squeeze()
        yield Sample(f"tiff 16 bit {channels} {byteorder}", ".tif", tiff(values, byteorder=byteorder, **photometric))
    wide = pixels(40, 37, 3, np.uint16)
    yield Sample("tiff 16 bit lzw", ".tif", tiff(wide, compression="lzw", photometric="rgb"))
    yield Sample("tiff 16 bit deflate", ".tif", tiff(wide, compression="zlib", predictor=True, photometric="rgb"))
    yield Sample("tiff 16 bit tiles", ".tif", tiff(wide, tile=(16, 16), photometric="rgb"))
    yield Sample("tiff 16 bit big", ".tif", tiff(wide, bigtiff=True, photometric="rgb"))
    yield Sample("tiff float colour", ".tif", tiff(pixels(14, 19, 3, np.float32), photometric="rgb"))
    for mode in ("RGB", "RGBA"):
        yield Sample(f"avif {mode}", ".avif", encoded(picture(mode), "AVIF", quality=60))
    yield Sample("avif turned", ".avif", encoded(picture("RGB"), "AVIF", exif=oriented(6)))
    for mode in ("L", "P", "RGBA"):
        yield Sample(f"gif {mode}", ".gif", encoded(picture(mode), "GIF"))
    frames = [picture("RGB"), picture("RGB").rotate(180)]
    for format_name, suffix in (
        ("PNG", ".png"),
        ("WEBP", ".webp"),
        ("GIF", ".gif"),
        ("TIFF", ".tif"),
        ("AVIF", ".avif"),
    ):
        moving = encoded(frames[0], format_name, save_all=True, append_images=frames[1:])
        yield Sample(f"{format_name.lower()} frames", suffix, moving)
    for format_name, suffix in (
        ("PNG", ".png"),
        ("JPEG", ".jpg"),
        ("WEBP", ".webp"),
        ("TIFF", ".tif"),
        ("AVIF", ".avif"),
    ):
        yield Sample(f"{format_name.lower()} metadata", suffix, encoded(picture("RGB"), format_name, **beside()))
