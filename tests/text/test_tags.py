"""Tags lie beside their photo, are true of that picture and that tagger only, and cost nothing when they cannot."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from resdiff.text import tags as module
from resdiff.text.tags import read_tags, tags_file, tags_key, write_tags


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "_warned", set())
    path = tmp_path / "a b.JPG"
    path.write_bytes(b"picture")
    return path


def test_what_was_written_is_read(photo: Path) -> None:
    assert read_tags(photo, "key") is None
    write_tags(photo, "key", "café, grass")
    assert read_tags(photo, "key") == "café, grass"
    assert read_tags(photo, "other key") is None
    assert sorted(path.name for path in photo.parent.iterdir()) == ["a b.JPG", "a b.JPG.tags.json"]
    assert json.loads(tags_file(photo).read_text()) == {"tags": "café, grass", "key": "key"}
    write_tags(photo, "other key", "")
    assert read_tags(photo, "other key") == "" and read_tags(photo, "key") is None


def test_photos_of_one_name_and_two_formats_have_their_own_tags(photo: Path) -> None:
    write_tags(photo, "key", "cat")
    write_tags(photo.with_suffix(".png"), "key", "dog")
    assert (read_tags(photo, "key"), read_tags(photo.with_suffix(".png"), "key")) == ("cat", "dog")


def test_the_key_is_of_the_content_and_the_tagger(photo: Path) -> None:
    key = tags_key(photo, "ram")
    assert len(key) == 64 and key != tags_key(photo, "ram with dape")
    copy = shutil.copy(photo, photo.with_name("copy.jpg"))
    os.utime(copy, (1, 1))
    assert tags_key(copy, "ram") == key
    photo.write_bytes(b"Picture")
    assert tags_key(photo, "ram") != key
    with pytest.raises(OSError):
        tags_key(photo.with_name("none.jpg"), "ram")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"tags": "a"}', b'{"tags": 1, "key": "key"}', b"\xff\xfe", b"[" * 100_000]
)
def test_files_of_others_are_neither_read_nor_replaced(
    content: bytes, photo: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tags_file(photo).write_bytes(content)
    assert read_tags(photo, "key") is None
    write_tags(photo, "key", "cat")
    assert tags_file(photo).read_bytes() == content
    assert "was not written by resdiff" in caplog.text


def test_a_folder_that_cannot_be_written_is_said_once(photo: Path, caplog: pytest.LogCaptureFixture) -> None:
    gone = photo.parent / "gone"
    with caplog.at_level(logging.WARNING):
        for name in ("a.jpg", "b.jpg"):
            write_tags(gone / name, "key", "cat")
    assert len(caplog.records) == 1
    assert "gone" in caplog.text and "not kept" in caplog.text and len(caplog.messages[0].splitlines()) == 1
    assert read_tags(gone / "a.jpg", "key") is None


def test_a_broken_off_write_leaves_the_older_tags(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tags(photo, "key", "cat")

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    write_tags(photo, "key", "dog")
    assert read_tags(photo, "key") == "cat"
    assert len(list(photo.parent.iterdir())) == 2
