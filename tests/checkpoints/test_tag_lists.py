"""RAM's tag lists: found where they may lie, downloaded if allowed, and never half right."""

import hashlib
import logging
from pathlib import Path

import pytest

from resdiff.checkpoints import tag_lists as module
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.tag_lists import TAGS, THRESHOLDS, read_tag_lists, tag_lists

LISTS = {TAGS: b"3D CG rendering\ncat\nold house", THRESHOLDS: b"0.65\n0.8\n1\n"}  # the published ends without newline
EXPECTED = (["3D CG rendering", "cat", "old house"], [0.65, 0.8, 1.0])


@pytest.fixture(autouse=True)
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `LISTS` be the published ones."""
    monkeypatch.setattr(module, "SHA256", {name: hashlib.sha256(text).hexdigest() for name, text in LISTS.items()})


def put(folder: Path, **changes: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (LISTS | {module.__dict__[key]: value for key, value in changes.items()}).items():
        (folder / name).write_bytes(content)
    return folder


def refused(match: str, *args: object, **options: object) -> str:
    with pytest.raises(CheckpointError, match=match) as caught:
        tag_lists(*args, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_and_thresholds_are_read_in_order(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(cache)
    assert read_tag_lists(cache / TAGS, cache / THRESHOLDS) == EXPECTED
    assert not caplog.records


def test_line_ends_of_another_system_are_the_same_list(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(cache, TAGS=LISTS[TAGS].replace(b"\n", b"\r\n"), THRESHOLDS=LISTS[THRESHOLDS].replace(b"\n", b"\r\n"))
    assert tag_lists() == EXPECTED
    assert not caplog.records


def test_other_lists_of_the_same_length_are_taken_with_a_warning(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(cache, TAGS=b"a\nb\nc\n")
    with caplog.at_level(logging.WARNING):
        assert tag_lists().tags == ["a", "b", "c"]
    assert [record.args for record in caplog.records] == [(cache / TAGS, TAGS, 3)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"TAGS": b"cat\n"}, "has 1 tags and .* 3 thresholds"),
        ({"THRESHOLDS": b"0.1\n0.2"}, "has 3 tags and .* 2 thresholds"),
        ({"TAGS": b"cat\n\ndog\n"}, "has empty lines"),
        ({"TAGS": b""}, "is empty"),
        ({"TAGS": b"\xff\xfe\x00"}, "is not a text file"),
        ({"TAGS": b"x" * (module.LARGEST + 1)}, "is not a list"),
        ({"THRESHOLDS": b"0.1\ncat\n0.2"}, "line 2: 'cat' is not a number"),
        ({"THRESHOLDS": b"0.1\n0.2\nnan"}, "line 3: nan is not a probability"),
        ({"THRESHOLDS": b"65\n0.2\n0.3"}, "line 1: 65 is not a probability"),
    ],
)
def test_what_is_no_list_is_refused(changes: dict, message: str, cache: Path) -> None:
    put(cache, **changes)
    refused(message)


def test_the_folder_of_the_checkpoint_comes_before_the_cache(cache: Path, tmp_path: Path) -> None:
    put(cache, TAGS=b"x\ny\nz")
    assert tag_lists(tmp_path / "ram" / "ram.pth").tags == ["x", "y", "z"]
    put(tmp_path / "ram")
    assert tag_lists(tmp_path / "ram" / "ram.pth") == EXPECTED
    (tmp_path / "ram" / THRESHOLDS).unlink()  # half a pair is none
    assert tag_lists(tmp_path / "ram" / "ram.pth").tags == ["x", "y", "z"]


def test_a_folder_that_is_named_is_the_only_one(cache: Path, tmp_path: Path) -> None:
    put(cache)
    put(tmp_path / "mine", TAGS=b"x\ny\nz")
    assert tag_lists(folder=tmp_path / "mine").tags == ["x", "y", "z"]
    message = refused("does not have both", folder=tmp_path)
    assert str(tmp_path) in message and str(cache) in message


def test_offline_the_error_names_every_way(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESDIFF_OFFLINE", "1")
    message = refused("offline", cache / "ram.pth")
    assert all(way in message for way in (TAGS, THRESHOLDS, module.PUBLISHED, str(cache), "beside", "pass the folder"))


def test_lacking_lists_are_downloaded_once_and_their_licence_is_said(server, caplog) -> None:
    server.files.update(LISTS)
    with caplog.at_level(logging.WARNING):
        assert tag_lists() == EXPECTED
    assert [path.rpartition("/")[2] for path, _ in server.requests] == [TAGS, THRESHOLDS]
    assert caplog.text.count("Apache-2.0") == 2
    assert tag_lists() == EXPECTED
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"status": 404}, "cannot be downloaded"),
        ({"body": b"<html>log in</html>", "content_type": "text/html"}, "is not the published file"),
        ({"drop_after": 5}, "cannot be downloaded|is not the published file"),
    ],
)
def test_a_failed_download_leaves_nothing_and_says_what_to_do(options, message, server, reply, tmp_path) -> None:
    server.files.update(LISTS)
    server.script.append(reply(**options))
    assert "put them beside" in refused(message)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name != ".locks"]
    assert tag_lists() == EXPECTED


def test_an_unreachable_server_is_one_line(server, monkeypatch) -> None:
    monkeypatch.setenv("RESDIFF_MIRROR", "http://127.0.0.1:9")
    refused("cannot be downloaded")
    monkeypatch.setenv("RESDIFF_MIRROR", "nonsense")
    refused("cannot be downloaded")
