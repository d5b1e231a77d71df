"""More than 8 bits per channel: every layout of PNG, TIFF and AVIF, compared with the numbers that were stored."""

import struct
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from resdiff.images import Photo, read_photos

ORIENTATION, DESCRIPTION = 0x0112, 0x010E
RNG = np.random.default_rng(0)


def noise(channels: int, height: int = 20, width: int = 30) -> np.ndarray:
    return RNG.integers(0, 65536, (height, width, channels), dtype=np.uint16)


def samples(photo: Photo) -> np.ndarray:
    """The photo's numbers as (h, w, C) integers of 16 bits."""
    colour = (photo.pixels * 0.5 + 0.5)[: 1 if photo.grey else 3]
    planes = [colour] if photo.alpha is None else [colour, photo.alpha]
    return (torch.cat(planes) * 65535).round().permute(1, 2, 0).numpy().astype(np.int64)


def read(path) -> Photo:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (photo,) = read_photos(path)
    assert photo.bits == 16
    return photo


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(values: np.ndarray, *extra: bytes, late: bytes = b"", interlaced: bool = False) -> bytes:
    height, width, channels = values.shape
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [values[y::dy, x::dx] for y, x, dy, dx in starts] if interlaced else [values]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + pixels + late + chunk(b"IEND", b"")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_read_to_the_last_bit(tmp_path, channels, interlaced):
    values = noise(channels)
    (tmp_path / "x.png").write_bytes(png(values, interlaced=interlaced))
    photo = read(tmp_path / "x.png")
    assert np.array_equal(samples(photo), values)
    assert photo.grey == (channels < 3) and (photo.alpha is not None) == (channels in (2, 4))


@pytest.mark.parametrize(("channels", "colour"), [(1, (7,)), (3, (7, 8, 9))])
def test_the_transparent_colour_of_a_16_bit_png_becomes_alpha(tmp_path, channels, colour):
    values = noise(channels)
    values[3, 4] = colour
    (tmp_path / "x.png").write_bytes(png(values, chunk(b"tRNS", struct.pack(f">{channels}H", *colour))))
    photo = read(tmp_path / "x.png")
    assert np.array_equal(samples(photo)[..., :-1], values)
    assert photo.alpha[0, 3, 4] == 0 and photo.alpha.sum() == 20 * 30 - 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_files_are_turned_upright_and_the_tag_is_reset(tmp_path, orientation, suffix):
    upright = noise(3, 4, 6)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),  # what a camera stores that has to be turned clockwise
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION], exif[DESCRIPTION] = orientation, "a cat"
    path = tmp_path / f"x.{suffix}"
    if suffix == "png":
        path.write_bytes(png(stored, chunk(b"eXIf", exif.tobytes()[6:])))
    else:
        tags = [(ORIENTATION, "H", 1, orientation, True)]
        tifffile.imwrite(path, np.ascontiguousarray(stored), photometric="rgb", description="a cat", extratags=tags)
    photo = read(path)
    assert np.array_equal(samples(photo), upright)
    kept = Image.Exif()
    kept.load(photo.metadata["exif"])
    assert kept.get(ORIENTATION, 1) == 1 and kept[DESCRIPTION] == "a cat"


def test_exif_behind_the_pixels_of_a_png_counts(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    values = noise(3)
    (tmp_path / "x.png").write_bytes(png(values, late=chunk(b"eXIf", exif.tobytes()[6:])))
    assert np.array_equal(samples(read(tmp_path / "x.png")), values[::-1, ::-1])


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"byteorder": ">"},
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"rowsperstrip": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_tiff_is_read_to_the_last_bit(tmp_path, channels, layout):
    values = noise(channels)
    kind = "rgb" if channels > 2 else "minisblack"
    extra = [2] if channels in (2, 4) else None
    tifffile.imwrite(
        tmp_path / "x.tif",
        values if channels > 1 else values[..., 0],
        photometric=kind,
        planarconfig="contig" if channels > 1 else None,
        extrasamples=extra,
        **layout,
    )
    assert np.array_equal(samples(read(tmp_path / "x.tif")), values)


def test_separate_planes_white_as_zero_and_premultiplied_alpha_are_undone(tmp_path):
    path, values = tmp_path / "x.tif", noise(3)
    tifffile.imwrite(path, np.moveaxis(values, -1, 0).copy(), photometric="rgb", planarconfig="separate")
    assert np.array_equal(samples(read(path)), values)
    tifffile.imwrite(path, values[..., 0], photometric="miniswhite")
    assert np.array_equal(samples(read(path))[..., 0], 65535 - values[..., 0].astype(int))
    half = np.concatenate([values // 2, np.full((20, 30, 1), 32768, np.uint16)], axis=-1)
    tifffile.imwrite(path, half, photometric="rgb", extrasamples=[1])
    assert np.abs(samples(read(path))[..., :3] - values.astype(int)).max() <= 3
    tifffile.imwrite(path, half, photometric="rgb", extrasamples=[0])  # a fourth channel of no known meaning
    assert read(path).alpha is None


def test_floats_of_a_tiff_are_read_in_0_1(tmp_path):
    path, values = tmp_path / "x.tif", noise(3)
    for dtype in (np.float32, np.float64):
        tifffile.imwrite(path, (values / 65535).astype(dtype), photometric="rgb")
        assert np.array_equal(samples(read(path)), values)
    tifffile.imwrite(path, (values / 655.35).astype(np.float32), photometric="rgb")
    with pytest.raises(ValueError, match=r"x\.tif has floats in \[.*\], expected \[0, 1\]"):
        read_photos(path)


def test_profile_and_resolution_of_a_16_bit_tiff_are_kept(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(3), photometric="rgb", iccprofile=b"profile", resolution=(100, 50), resolutionunit=3)
    metadata = read(path).metadata
    assert metadata["icc_profile"] == b"profile" and metadata["dpi"] == (254, 127)
    tifffile.imwrite(path, noise(3), photometric="rgb", resolution=(2, 1), resolutionunit=1)  # a shape, no size
    assert "dpi" not in read(path).metadata


def test_pages_are_counted(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.stack([noise(3)] * 4), photometric="rgb")
    with pytest.warns(UserWarning, match=r"x\.tif has 4 frames; the first is used"):
        read_photos(tmp_path / "x.tif")


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_deep_avif_keeps_its_depth(tmp_path, bits, channels):
    values = noise(channels) >> (16 - bits)
    values[0, 0], values[0, 1] = 0, 2**bits - 1
    stored = values if channels > 1 else values[..., 0]
    (tmp_path / "x.avif").write_bytes(imagecodecs.avif_encode(stored, level=100, bitspersample=bits))
    photo = read(tmp_path / "x.avif")
    assert np.array_equal(np.round(samples(photo) / 65535 * (2**bits - 1)), values)
    assert photo.grey == (channels == 1)


@pytest.mark.parametrize("suffix", ["png", "tif", "avif"])
def test_the_limit_is_checked_before_a_deep_file_is_decoded(tmp_path, monkeypatch, suffix):
    path = tmp_path / f"x.{suffix}"
    if suffix == "png":
        path.write_bytes(png(noise(3)))
    elif suffix == "tif":
        tifffile.imwrite(path, noise(3), photometric="rgb")
    else:
        path.write_bytes(imagecodecs.avif_encode(noise(3) >> 6, bitspersample=10))

    def decode(*args, **kwargs):
        raise AssertionError("decoded")

    for name in ("png_decode", "avif_decode"):
        monkeypatch.setattr(imagecodecs, name, decode)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", decode)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="above the limit of 400 pixels"):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        read_photos(path)


def test_a_tiff_whose_pixels_are_partly_missing_is_refused_rather_than_filled_with_black(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise(3), photometric="rgb", rowsperstrip=5)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["ImageLength"].overwrite(40)
    with pytest.raises(ValueError, match=r"x\.tif cannot be read: a part of the pixels is missing"):
        read_photos(path)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_damaged_deep_files_give_an_image_or_one_line_and_print_nothing(tmp_path, suffix, capfd, read_damaged):
    path = tmp_path / f"x.{suffix}"
    if suffix == "png":
        path.write_bytes(png(noise(3), chunk(b"iCCP", b"x\0\0rubbish"), chunk(b"gAMA", b"\0\0\0\0")))
    else:
        tifffile.imwrite(path, noise(3), photometric="rgb", compression="lzw", rowsperstrip=4)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        read_photos(path)
    read_damaged(path, content, head=200)
    assert "tifffile" not in capfd.readouterr().err


@pytest.mark.parametrize("bits", [12, 16])
def test_deep_jpeg_2000_is_read_to_the_last_bit(tmp_path, bits):
    values = (np.arange(3 * 40 * 30).reshape(40, 30, 3) * 97 % 2**bits).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    data = imagecodecs.jpeg2k_encode(values, level=0, codecformat="jp2", reversible=True, bitspersample=bits)
    (tmp_path / "a.jp2").write_bytes(data)
    (photo,) = read_photos(tmp_path / "a.jp2")
    assert photo.bits == 16
    read = ((photo.pixels / 2 + 0.5) * (2**bits - 1)).round().movedim(0, -1).numpy()
    assert np.array_equal(read, values)


@pytest.mark.parametrize(("white", "bits"), [(65535, 16), (1000, 16), (255, 8)])
def test_ppm_of_any_white_is_read_to_the_last_bit(tmp_path, white, bits):
    values = np.arange(60).reshape(4, 5, 3) * 17 % (white + 1)
    values[0, 0] = white
    pixels = values.astype(">u2" if white > 255 else "u1").tobytes()
    (tmp_path / "a.ppm").write_bytes(b"P6 # comment\n5 4\n%d\n" % white + pixels)
    (photo,) = read_photos(tmp_path / "a.ppm")
    assert photo.bits == bits
    assert np.array_equal(((photo.pixels / 2 + 0.5) * white).round().movedim(0, -1).numpy(), values)
    (tmp_path / "a.ppm").write_bytes(b"P6 5 4 %d\n" % white + pixels[:-4])
    with pytest.raises(ValueError, match=r"a\.ppm cannot be read"):
        read_photos(tmp_path / "a.ppm")
