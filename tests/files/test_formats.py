"""Names of files: what is read, what is written, what a format cannot hold, and how temporary files are called."""

import os
from pathlib import Path

import pytest

from resdiff.files.formats import (
    TEMPORARY_NAME,
    check_size,
    check_transparency,
    format_of,
    is_image_name,
    printable,
    temporary_beside,
)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.gif", "a.jp2", "a.tga", "a.ppm", "a.pgm", "a.jfif", "a.apng"])
def test_suffixes_that_are_read(name):
    assert is_image_name(Path(name))


@pytest.mark.parametrize("name", ["a.txt", "png", "a", ".png", "a.png.tmp"])
def test_other_names_are_no_images(name):
    assert not is_image_name(Path(name))


@pytest.mark.parametrize("name", ["a.gif", "a.jp2", "a.txt", "a"])
def test_what_is_only_read_is_not_written(name):
    with pytest.raises(ValueError, match=r"cannot write .*; choose \.png, "):
        format_of(Path(name))


def test_the_suffix_names_the_format_in_any_case():
    assert [format_of(Path(f"a{suffix}")) for suffix in (".png", ".JPEG", ".tif")] == ["PNG", "JPEG", "TIFF"]


@pytest.mark.parametrize("suffix", ["jpg", "bmp"])
def test_transparency_is_refused_where_the_format_has_none(suffix):
    check_transparency(Path(f"a.{suffix}"), False)
    check_transparency(Path("a.png"), True)
    with pytest.raises(ValueError, match="has no transparency and the image has; choose png or webp"):
        check_transparency(Path(f"a.{suffix}"), True)


@pytest.mark.parametrize(("suffix", "longest"), [("jpg", 65500), ("webp", 16383), ("avif", 32768)])
def test_sides_that_a_format_cannot_hold_are_refused(suffix, longest):
    path = Path(f"a.{suffix}")
    check_size(path, longest, 1)
    check_size(path, 1, longest)
    for height, width in ((longest + 1, 1), (1, longest + 1)):
        with pytest.raises(
            ValueError, match=rf"at most {longest} pixels a side, .* {width}x{height}; choose png or tif"
        ):
            check_size(path, height, width)


def test_areas_that_avif_decoders_refuse_are_refused():
    check_size(Path("a.avif"), 2**14, 2**14)
    with pytest.raises(ValueError, match="AVIF holds at most 268435456 pixels"):
        check_size(Path("a.avif"), 2**14, 2**14 + 1)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_the_other_formats_hold_any_size(suffix):
    check_size(Path(f"a.{suffix}"), 100000, 100000)


def test_temporary_names_are_new_and_tell_the_process(tmp_path, monkeypatch):
    first, second = (temporary_beside(tmp_path / "a.png") for _ in range(2))
    assert first != second and first.parent == second.parent == tmp_path
    found = TEMPORARY_NAME.fullmatch(first.name)
    assert found is not None and int(found["pid"]) == os.getpid()
    monkeypatch.setattr("platform.node", lambda: "my-host/with 9-1")
    found = TEMPORARY_NAME.fullmatch(temporary_beside(tmp_path / "a.png").name)
    assert found is not None and found["host"] == "my-host_with_9-1" and int(found["pid"]) == os.getpid()


def test_names_in_messages_are_one_line_of_valid_utf_8():
    assert printable("späti.png") == "späti.png"
    assert printable(os.fsdecode(b"a\xff\n\x1b.png")) == r"a\udcff\n\x1b.png"
