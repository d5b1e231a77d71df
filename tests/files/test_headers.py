"""What is known of a file before it is decoded."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from resdiff.files.headers import check_result, peek_size, read_header
from resdiff.pictures import Picture, save_picture
from resdiff.sizes import scaled_size


def test_the_size_is_the_displayed_one(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("a.jpg", "a.png", "a.tif", "a.webp"):
        Image.new("RGB", (6, 4)).save(tmp_path / name, exif=exif)
        header = read_header(tmp_path / name)
        assert (header.width, header.height, header.orientation) == (4, 6, 6), name
        assert peek_size(tmp_path / name) == (6, 4)


@pytest.mark.parametrize(("mode", "bits"), [("1", 1), ("L", 8), ("RGB", 8), ("I;16", 16), ("RGBA", 8)])
def test_mode_bits_and_transparency(tmp_path, mode, bits):
    Image.new(mode, (3, 2)).save(tmp_path / "a.png")
    header = read_header(tmp_path / "a.png")
    assert (header.bits, header.has_alpha, header.format) == (bits, mode == "RGBA", "PNG")


def test_metadata_and_frames_are_counted(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    Image.new("RGB", (3, 2)).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"x" * 200, dpi=(72, 72))
    header = read_header(tmp_path / "a.jpg")
    assert (header.exif, header.icc_profile, header.dpi) == (1, 200, (72, 72))
    frames = [Image.new("L", (3, 2), value) for value in (0, 100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert [read_header(tmp_path / f"a.{kind}", frames=True).frames for kind in ("gif", "jpg")] == [3, 1]


@pytest.mark.filterwarnings("ignore:Image size")
def test_what_has_no_header_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "text.png").write_text("hello")
    Image.new("L", (50, 50)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    for name, message in (
        ("none.png", "does not exist"),
        (".", "is a folder"),
        ("text.png", "is not an image that can be read"),
        ("large.png", "is 50x50, above the limit of 2000 pixels; if the file is to be trusted, raise it: --max-pixels"),
    ):
        with pytest.raises((ValueError, OSError), match=message) as caught:
            read_header(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
        assert peek_size(tmp_path / name) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # where Pillow refuses by itself
    with pytest.raises(ValueError, match="raise it: --max-pixels"):
        read_header(tmp_path / "large.png")


def test_tiff_files_that_pillow_does_not_know_are_read_by_tifffile(tmp_path, monkeypatch):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", np.zeros((4, 6, 3), np.float64), photometric="rgb")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 24)
    header = read_header(tmp_path / "a.tif")
    assert (header.width, header.height, header.bits) == (6, 4, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 23)
    with pytest.raises(ValueError, match="6x4, above the limit of 23 pixels"):
        read_header(tmp_path / "a.tif")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(ValueError, match="is a pipe or device"):
        read_header(tmp_path / "x.png")


def test_the_output_size_is_rounded_half_up_and_at_least_one():
    assert scaled_size(3, 5, 2.5) == (8, 13)
    assert scaled_size(1, 300, 0.3) == (1, 90)
    assert scaled_size(7, 7, 4) == (28, 28)


def test_results_that_cannot_be_made_are_refused(monkeypatch):
    check_result(Path("a.png"), 70000, 10, True)
    with pytest.raises(ValueError, match="JPEG holds at most 65500 pixels a side"):
        check_result(Path("a.jpg"), 70000, 10, False)
    with pytest.raises(ValueError, match="JPEG has no transparency"):
        check_result(Path("a.jpg"), 7, 10, True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    check_result(Path("a.png"), 40, 40, False)
    with pytest.raises(
        ValueError, match="41x40 pixels, above 16 times the input's limit of 100; pass a smaller --scale"
    ):
        check_result(Path("a.png"), 40, 41, False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    check_result(Path("a.png"), 4000, 41000, False)


@pytest.mark.parametrize(
    ("channels", "suffix"), [(1, "png"), (2, "png"), (3, "png"), (4, "png"), (3, "tif"), (2, "tif")]
)
def test_sixteen_bits_are_told_and_the_pixels_are_not_decoded(tmp_path, monkeypatch, channels, suffix):
    path = tmp_path / f"a.{suffix}"
    save_picture(Picture(np.zeros((6, 4, channels), np.uint16)), path)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("decoded"))
    header = read_header(path)
    assert (header.bits, header.height, header.width, header.has_alpha) == (16, 6, 4, channels in (2, 4))
