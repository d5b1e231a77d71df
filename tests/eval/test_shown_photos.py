"""The photos of a gallery: which, how large, and by whom."""

import numpy as np
import pytest
from PIL import Image

from resdiff.eval.harness.shown_photos import find_sources, read_shown
from resdiff.resize import matlab_legacy

from .worded import HOSTILE, write_photos


@pytest.fixture
def folders(tmp_path):
    write_photos(tmp_path / "lr", originals=tmp_path / "hr")
    return tmp_path / "lr", tmp_path / "hr"


def test_photos_come_by_name_with_their_credits(folders) -> None:
    sources = find_sources(folders[0], None)
    assert [(source.name, source.credit) for source in sources] == [("a<b>&c", ""), ("otter", f"A. {HOSTILE}, CC0-1.0")]
    photo = read_shown(sources[1], 4, 512)
    assert photo.lr.shape == (40, 50, 3) and photo.hr is None and photo.note == ""


def test_an_original_stands_beside_its_photo_cut_to_four_times_its_sides(folders) -> None:
    photo = read_shown(find_sources(*folders)[1], 4, 512)
    assert photo.hr.shape == (160, 200, 3)
    np.testing.assert_array_equal(photo.hr[::4, ::4], photo.lr)


def test_an_original_alone_is_reduced_first(folders) -> None:
    photo = read_shown(find_sources(None, folders[1])[1], 4, 512)
    assert photo.hr.shape == (160, 200, 3)
    np.testing.assert_array_equal(photo.lr, matlab_legacy(photo.hr, 0.25))
    assert photo.note == "reduced by 4 from the original"


def test_a_large_photo_is_reduced_and_its_original_with_it(folders) -> None:
    photo = read_shown(find_sources(*folders)[1], 4, 25)
    assert photo.lr.shape == (20, 25, 3) and photo.hr.shape == (80, 100, 3)
    assert photo.note == "reduced from 50x40 first"
    assert read_shown(find_sources(None, folders[1])[1], 4, 25).lr.shape == (20, 25, 3)


def test_an_original_of_another_size_is_named(folders) -> None:
    Image.new("RGB", (200, 164)).save(folders[1] / "otter.png")
    with pytest.raises(
        ValueError, match=r"otter\.png is 200x164, its photo is 50x40; an original has 4 times"
    ) as caught:
        read_shown(find_sources(*folders)[1], 4, 512)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSONDecodeError"),
        ("3", "TypeError"),
        ('[{"licence": "x"}]', "KeyError"),
        ('[{"file": "a", "author": 3}]', "TypeError"),
    ],
)
def test_credits_that_cannot_be_read_are_named(folders, text, said) -> None:
    (folders[0] / "index.json").write_text(text)
    with pytest.raises(ValueError, match=rf"index\.json does not credit photos \({said}\); write a list"):
        find_sources(folders[0], None)


def test_folders_without_photos_or_pairs_are_refused(folders, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    for photos, hr, said in (
        (None, None, "pass --photos DIR, --hr DIR, or both"),
        (tmp_path / "nowhere", None, "nowhere is not a folder"),
        (tmp_path / "empty", None, "holds no image"),
    ):
        with pytest.raises(ValueError, match=said):
            find_sources(photos, hr)
    (tmp_path / "other").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "other" / "cat.png")
    with pytest.raises(ValueError, match=r"no original in .*other is called as a photo"):
        find_sources(folders[0], tmp_path / "other")
