"""Files are opened with suspicion: pipes, bombs, changes and odd names end in one line that names the file."""

import os
import warnings

import numpy as np
import pytest
from PIL import Image, features

from resdiff.files.reading import RefusedImage, check_pixels, opened
from resdiff.images import read_photos


def refused(path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read_photos(path)
    assert "\n" not in str(caught.value)
    str(caught.value).encode("utf-8")


def test_too_large_files_are_refused_by_their_header_and_told_how_to_raise_the_limit(tmp_path, monkeypatch):
    Image.new("L", (40, 30)).save(tmp_path / "big.png")
    for limit, message in ((1000, "40x30, above the limit of 1000 pixels"), (500, "above the limit of 500 pixels")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            refused(tmp_path / "big.png", rf"big.png is {message}.*--max-pixels.*PIL.Image.MAX_IMAGE_PIXELS")
            warnings.simplefilter("error")
            refused(tmp_path / "big.png", f"above the limit of {limit} pixels")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_photos(tmp_path / "big.png")[0].grey


@pytest.mark.parametrize("size", [(60000, 1), (1, 60000)])
@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_a_side_of_60000_pixels_is_no_bomb(tmp_path, size, mode):
    Image.new(mode, size).save(tmp_path / "long.png")
    assert read_photos(tmp_path / "long.png")[0].pixels.shape == (3, size[1], size[0])


def test_a_pipe_and_a_device_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "is a pipe or device; pass an image file")
    refused("/dev/zero", "is a pipe or device")


def test_links_in_a_circle_and_to_nothing_are_named(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "b.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "a.png")
    refused(tmp_path / "a.png", r"a.png cannot be opened: .*symbolic links")
    (tmp_path / "c.png").symlink_to(tmp_path / "none.png")
    with pytest.raises(FileNotFoundError, match=r"c\.png does not exist"):
        read_photos(tmp_path / "c.png")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_photos(tmp_path / "file" / "x.png")
    refused("x" * 300 + ".png", "cannot be opened: File name too long")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    (tmp_path / "x.png").chmod(0)
    refused(tmp_path / "x.png", "cannot be opened: Permission denied; check its permissions")


def test_names_that_are_no_utf_8_are_read_and_printed_with_escapes(tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n.png")
    Image.new("L", (3, 2)).save(tmp_path / "x.png")
    os.rename(tmp_path / "x.png", odd)
    assert read_photos(odd)[0].pixels.shape == (3, 2, 3)
    with open(odd, "wb") as file:
        file.write(b"no image")
    refused(odd, r"/\\udcff\\n.png is not an image")


@pytest.mark.parametrize("change", ["longer", "shorter", "newer"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, change):
    path = tmp_path / "x.png"
    Image.new("L", (8, 8)).save(path)
    with pytest.raises(ValueError, match=r"x\.png changed while it was read; try again"), opened(path) as file:
        file.read(10)
        if change == "newer":
            os.utime(path, ns=(0, 0))
        else:
            os.truncate(path, 1000 if change == "longer" else 20)


def test_a_change_is_named_rather_than_the_damage_it_did(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match="changed while it was read"), opened(path):
        os.truncate(path, 0)
        raise ValueError("truncated")
    with pytest.raises(KeyboardInterrupt), opened(path):
        path.write_bytes(b"1234567")
        raise KeyboardInterrupt


def frames() -> list[Image.Image]:
    return [Image.new("RGB", (16, 16), colour) for colour in ((200, 40, 40), (40, 200, 40), (40, 40, 200))]


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif", "avif", "apng"])
def test_of_several_frames_the_first_is_read_with_one_line(tmp_path, suffix):
    images = frames()
    path = tmp_path / f"x.{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:])
    with pytest.warns(UserWarning) as caught:
        (photo,) = read_photos(path)
    assert [str(w.message) for w in caught] == [f"{path} has 3 frames; the first is used"]
    colour = (photo.pixels * 127.5 + 127.5).mean(dim=(1, 2))
    assert np.abs(colour.numpy() - (200, 40, 40)).max() < 8


def test_previews_beside_a_photo_are_no_frames(tmp_path, recwarn):
    images = frames()
    images[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=images[1:])
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.format == "MPO" and image.n_frames == 3
    read_photos(tmp_path / "x.jpg")
    assert not list(recwarn)


def test_a_format_that_pillow_was_built_without_is_named(tmp_path, monkeypatch):
    (tmp_path / "x.avif").write_bytes(b"\0\0\0\x20ftypavif" + bytes(40))
    monkeypatch.setattr(features, "check", lambda name: name != "avif")
    monkeypatch.setattr(Image, "OPEN", {key: value for key, value in Image.OPEN.items() if key != "AVIF"})
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "AVIF"])
    refused(tmp_path / "x.avif", "is AVIF, and this Pillow was built without it")


def test_drawings_that_need_an_interpreter_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.eps")
    refused(tmp_path / "x.eps", r"is a drawing \(EPS\), not pixels; save it as PNG")


def test_a_size_that_is_no_number_is_refused() -> None:
    for size in (((5, 6), 4), (4, (5, 6)), (4.5, 4)):
        with pytest.raises(RefusedImage, match=r"a\.tif cannot be read: its size is damaged"):
            check_pixels(*size, "a.tif")
