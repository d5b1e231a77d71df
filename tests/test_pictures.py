"""Pictures out: samples, metadata and permissions as promised; whole files or none."""

import os
import resource
import subprocess
import sys
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

import resdiff.pictures
from resdiff.images import Photo, read_photos
from resdiff.pictures import Picture, check_encoder, save_picture

ORIENTATION, DESCRIPTION, EXIF_IFD, TAKEN = 0x0112, 0x010E, 0x8769, 0x9003
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


def noise(channels: int = 3, dtype: type = np.uint8, height: int = 9, width: int = 11) -> np.ndarray:
    top = np.iinfo(dtype).max + 1
    return np.random.default_rng(0).integers(0, top, (height, width, channels)).astype(dtype)


def metadata() -> dict:
    exif = Image.Exif()
    exif[DESCRIPTION] = "a cat"
    exif.get_ifd(EXIF_IFD)[TAKEN] = "2024:01:01 00:00:00"
    return {"exif": exif.tobytes(), "icc_profile": SRGB, "dpi": (300.0, 150.0)}


def samples(photo: Photo) -> np.ndarray:
    colour = (photo.pixels * 0.5 + 0.5)[: 1 if photo.grey else 3]
    planes = [colour] if photo.alpha is None else [colour, photo.alpha]
    return (torch.cat(planes) * (2**photo.bits - 1)).round().permute(1, 2, 0).numpy().astype(np.int64)


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_pil_mode_follows_the_channels(channels):
    values = noise(channels)
    picture = Picture(values, {"dpi": (72.0, 72.0)})
    image = picture.to_pil()
    assert image.mode == MODES[channels] and image.size == (picture.width, picture.height) == (11, 9)
    assert np.array_equal(np.array(image).reshape(values.shape), values)
    assert image.info == {"dpi": (72, 72)} and picture.has_alpha == (channels in (2, 4))


def test_all_16_bit_values_are_rounded_to_the_nearest_of_8_bits_with_a_warning():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    with pytest.warns(UserWarning, match="16-bit samples are rounded to 8 bits"):
        image = Picture(values).to_pil()
    assert np.array_equal(np.array(image), np.round(values[..., 0] / 257).astype(np.uint8))


def test_rounding_in_bands_reaches_every_row(monkeypatch):
    monkeypatch.setattr(resdiff.pictures, "ROUNDED_AT_ONCE", 70)
    values = noise(3, np.uint16)
    with pytest.warns(UserWarning):
        assert np.array_equal(np.array(Picture(values).to_pil()), np.round(values / 257))


def test_the_warning_of_16_bits_is_shown_once(recwarn):
    warnings.simplefilter("default")
    for _ in range(3):
        Picture(noise(1, np.uint16)).to_pil()
    assert len(recwarn) == 1


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 5), (0, 4, 3)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"pass uint8 or uint16 \(H, W, 1 to 4\)"):
        Picture(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="values are float32"):
        Picture(np.zeros((2, 2, 3), np.float32))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_lossless_files_keep_every_bit_from_file_to_file(tmp_path, channels, dtype, suffix):
    values = noise(channels, dtype)
    save_picture(Picture(values), tmp_path / f"a.{suffix}")
    (photo,) = read_photos(tmp_path / f"a.{suffix}")
    assert photo.bits == 8 * values.itemsize
    assert np.array_equal(samples(photo), values)
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_files_are_understood_by_other_readers(tmp_path, channels):
    values = noise(channels, np.uint16, 700, 301)  # more than one strip and one band
    save_picture(Picture(values, metadata()), tmp_path / "a.png")
    save_picture(Picture(values, metadata()), tmp_path / "a.tif")
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()).reshape(values.shape), values)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        page = tiff.pages.first
        assert np.array_equal(page.asarray().reshape(values.shape), values)
        assert page.extrasamples == ((2,) if channels in (2, 4) else ())
        assert page.tags["ExifTag"].value["DateTimeOriginal"] == "2024:01:01 00:00:00"


def test_a_large_8_bit_png_is_streamed_to_the_same_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(resdiff.pictures, "STREAMED", 0)
    monkeypatch.delattr(Picture, "to_pil")
    values = noise(4, np.uint8, 30, 40)
    for level in (0, 1, 9):
        save_picture(Picture(values, metadata()), tmp_path / "a.png", compress_level=level)
        with Image.open(tmp_path / "a.png") as image:
            assert np.array_equal(np.array(image), values)
            assert image.info["icc_profile"] == SRGB and image.getexif()[DESCRIPTION] == "a cat"


def test_more_than_4_gib_of_tiff_are_written_as_bigtiff(tmp_path, monkeypatch):
    monkeypatch.setattr("resdiff.files.lossless.CLASSIC_TIFF", 100)
    monkeypatch.setattr("resdiff.files.lossless.BAND_BYTES", 100)
    for dtype in (np.uint8, np.uint16):
        values = noise(3, dtype)
        save_picture(Picture(values, metadata()), tmp_path / "a.tif")
        assert (tmp_path / "a.tif").read_bytes()[:4] == b"II+\0"
        assert np.array_equal(tifffile.imread(tmp_path / "a.tif"), values)
        (photo,) = read_photos(tmp_path / "a.tif")
        assert np.array_equal(samples(photo), values) and photo.metadata["icc_profile"] == SRGB


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "avif"])
def test_16_bits_become_8_where_the_format_has_no_more(tmp_path, suffix):
    values = np.full((16, 16, 3), 32896, np.uint16)  # 128 * 257
    with pytest.warns(UserWarning, match="rounded to 8 bits"):
        save_picture(Picture(values), tmp_path / f"a.{suffix}")
    (photo,) = read_photos(tmp_path / f"a.{suffix}")
    assert photo.bits == 8 and np.abs(samples(photo) - 128).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".webp", ".tiff", ".avif"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_pil_images_of_every_mode_are_written(tmp_path, mode, suffix):
    image = Image.new(mode, (8, 8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_picture(image, tmp_path / f"x{suffix}")
    with Image.open(tmp_path / f"x{suffix}") as back:
        assert back.size == (8, 8)
        assert back.has_transparency_data == image.has_transparency_data


def test_a_pil_image_of_floats_is_refused(tmp_path):
    with pytest.raises(ValueError, match="picture is of mode F; convert it"):
        save_picture(Image.new("F", (2, 2)), tmp_path / "x.png")


def test_quality_changes_the_size_of_lossy_files(tmp_path):
    picture = Picture(noise(3, np.uint8, 64, 64))
    for suffix in ("jpg", "webp", "avif"):
        sizes = []
        for quality in (30, 90):
            save_picture(picture, tmp_path / f"{quality}.{suffix}", quality=quality)
            sizes.append((tmp_path / f"{quality}.{suffix}").stat().st_size)
        assert sizes[0] < 0.8 * sizes[1]


# --- metadata --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("source", ["jpg", "png", "webp", "avif", "tif", "16.png", "16.tif"])
def test_exif_profile_and_dpi_go_from_file_to_file(tmp_path, source, suffix, recwarn):
    exif = Image.Exif()
    exif[DESCRIPTION], exif[ORIENTATION] = "a cat", 6
    exif.get_ifd(EXIF_IFD)[TAKEN] = "2024:01:01 00:00:00"
    if source.startswith("16"):
        own = {"exif": exif.tobytes(), "icc_profile": SRGB, "dpi": (300, 300)}
        save_picture(Picture(noise(3, np.uint16, 16, 24), own), tmp_path / f"in.{source}")
    else:
        image = Image.fromarray(noise(3, np.uint8, 16, 24))
        image.save(tmp_path / f"in.{source}", exif=exif.tobytes(), icc_profile=SRGB, dpi=(300, 300))
    (photo,) = read_photos(tmp_path / f"in.{source}")
    assert photo.pixels.shape == (3, 24, 16)
    dtype = np.uint16 if photo.bits == 16 else np.uint8
    save_picture(Picture(samples(photo).astype(dtype), photo.metadata), tmp_path / f"out.{suffix}")
    with Image.open(tmp_path / f"out.{suffix}") as image:
        assert image.size == (16, 24)
        assert image.info["icc_profile"] == SRGB
        tags = image.getexif()
        assert tags.get(ORIENTATION, 1) == 1
        assert tags[DESCRIPTION] == "a cat" and tags.get_ifd(EXIF_IFD)[TAKEN] == "2024:01:01 00:00:00"
        if source[-3:] in ("jpg", "png", "tif") and suffix in ("jpg", "png", "tif"):  # the others have no field for it
            assert [round(x) for x in image.info["dpi"]] == [300, 300]
    assert all("rounded to 8 bits" in str(w.message) for w in recwarn)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif", "bmp"])
def test_stripped_files_hold_pixels_only(tmp_path, suffix, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if dtype is np.uint16 else "error")
        save_picture(Picture(noise(3, dtype), metadata()), tmp_path / f"a.{suffix}", strip_metadata=True)
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert b"a cat" not in content and SRGB[:60] not in content and b"iCCP" not in content
    (photo,) = read_photos(tmp_path / f"a.{suffix}")
    assert not {"exif", "icc_profile"} & set(photo.metadata)
    assert suffix == "bmp" or "dpi" not in photo.metadata  # BMP has to name one


def test_exif_too_long_for_jpeg_is_left_out_with_a_warning_and_the_rest_is_kept(tmp_path):
    exif = Image.Exif()
    exif[DESCRIPTION] = "cat" * 30000
    picture = Picture(noise(), {"exif": exif.tobytes(), "icc_profile": SRGB})
    with pytest.warns(UserWarning, match="JPEG cannot hold the EXIF of an image; left out"):
        save_picture(picture, tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.info["icc_profile"] == SRGB and not image.getexif()


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_resolution_that_cannot_be_written_does_not_cost_the_image(tmp_path, suffix):
    for dtype in (np.uint8, np.uint16) if suffix == "png" else (np.uint8,):
        picture = Picture(noise(3, dtype), {"dpi": (1e300, 1e300)})
        with pytest.warns(UserWarning, match="cannot hold the resolution"):
            save_picture(picture, tmp_path / f"a.{suffix}")
        assert read_photos(tmp_path / f"a.{suffix}")[0].pixels.shape == (3, 9, 11)


def test_bmp_says_what_it_leaves_out(tmp_path):
    with pytest.warns(UserWarning, match="BMP cannot hold the EXIF and ICC profile of an image"):
        save_picture(Picture(noise(), metadata()), tmp_path / "a.bmp")
    assert [round(x) for x in read_photos(tmp_path / "a.bmp")[0].metadata["dpi"]] == [300, 150]


# --- whole or not at all ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".bmp"])
def test_transparency_is_refused_where_the_format_has_none(tmp_path, channels, suffix):
    with pytest.raises(ValueError, match=r"has no transparency .* choose png or webp"):
        save_picture(Picture(noise(channels)), tmp_path / f"x{suffix}")
    assert os.listdir(tmp_path) == []


def test_an_unknown_suffix_and_an_impossible_size_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write \.gif; choose \.png"):
        save_picture(Picture(noise()), tmp_path / "x.gif")
    with pytest.raises(ValueError, match="a file without suffix"):
        save_picture(Picture(noise()), tmp_path / "x")
    with pytest.raises(ValueError, match="WEBP holds at most 16383 pixels a side"):
        save_picture(Picture(np.zeros((1, 16384, 3), np.uint8)), tmp_path / "x.webp")
    assert os.listdir(tmp_path) == []


def test_a_format_without_encoder_is_refused(tmp_path, monkeypatch):
    Image.init()
    monkeypatch.delitem(Image.SAVE, "AVIF")
    with pytest.raises(ValueError, match=r"x\.avif: this Pillow was built without AVIF; choose png or jpg"):
        check_encoder(tmp_path / "x.avif")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError, MemoryError])
@pytest.mark.parametrize("encoder", ["PIL.Image.Image.save", "resdiff.pictures.write_tiff"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failure, encoder):
    path = tmp_path / ("x.tif" if "tiff" in encoder else "x.jpg")
    path.write_bytes(b"old")

    def write_half(*arguments, **options):
        next(part for part in arguments if hasattr(part, "write")).write(b"half")
        raise failure

    monkeypatch.setattr(encoder, write_half)
    with pytest.raises(failure):
        save_picture(Picture(noise()), path)
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp", "avif"])
def test_a_disk_that_fills_in_the_middle_leaves_the_old_file_and_names_the_reason(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        for dtype in (np.uint8, np.uint16):
            with warnings.catch_warnings(), pytest.raises(OSError, match="File too large"):
                warnings.simplefilter("ignore")
                save_picture(Picture(noise(3, dtype, 200, 200)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == [path.name] and path.read_bytes() == b"old"


def test_a_folder_that_does_not_exist_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        save_picture(Picture(noise()), tmp_path / "none" / "x.png")


def test_the_permissions_of_a_result_obey_the_umask(tmp_path):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            save_picture(Picture(noise()), tmp_path / "x.png")
        finally:
            os.umask(before)
        assert (tmp_path / "x.png").stat().st_mode & 0o777 == mode


def test_a_memory_mapped_picture_is_written_in_little_memory(tmp_path):
    script = """
import resource, sys, numpy as np
from resdiff.pictures import Picture, save_picture
folder = sys.argv[1]
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
save_picture(Picture(np.zeros((8, 8, 3), np.uint16)), folder + "/first.png")
values = np.memmap(folder + "/values", np.uint16, "w+", shape=(3000, 3000, 3))  # 51 MiB
before = peak()
save_picture(Picture(values), folder + "/x.png")
save_picture(Picture(values), folder + "/x.tif")
print(peak() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    assert int(run.stdout) < 51 + 30  # the mapped file itself, and no copy of it
