"""Files that come while a folder is watched."""

import os
from pathlib import Path

import pytest

from resdiff.runs.inputs import find_inputs
from resdiff.runs.jobs import plan_outputs
from resdiff.runs.watch import Watcher


@pytest.fixture
def watcher(tmp_path) -> Watcher:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "first.jpg").write_bytes(b"1")
    jobs = plan_outputs(find_inputs([str(tmp_path / "in")], tmp_path / "out").inputs, tmp_path / "out")
    return Watcher([str(tmp_path / "in")], tmp_path / "out", None, jobs)


def put(tmp_path: Path, name: str, data: bytes, mtime: int) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (mtime, mtime))


def new(watcher: Watcher) -> list[str]:
    return [str(job.target.relative_to(watcher.output)) for job in watcher.look()]


def test_a_file_is_taken_once_when_it_has_stopped_growing(watcher, tmp_path):
    assert new(watcher) == []
    put(tmp_path, "sub/b.jpg", b"half", 100)
    assert new(watcher) == []
    put(tmp_path, "sub/b.jpg", b"the whole", 100)
    assert new(watcher) == []
    put(tmp_path, "sub/b.jpg", b"the whale", 101)
    assert new(watcher) == []
    assert new(watcher) == ["sub/b.png"]
    assert new(watcher) == []


def test_a_file_that_failed_is_taken_again_when_it_has_changed(watcher, tmp_path):
    put(tmp_path, "b.png", b"broken", 100)
    assert [new(watcher) for _ in range(3)] == [[], ["b.png"], []]
    put(tmp_path, "b.png", b"mended", 200)
    assert [new(watcher) for _ in range(3)] == [[], ["b.png"], []]


def test_a_file_that_was_restored_is_left_when_it_changes(watcher, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "first.png").touch()
    put(tmp_path, "first.jpg", b"newer", 200)
    assert [new(watcher) for _ in range(3)] == [[], [], []]


def test_names_that_were_given_away_are_not_given_twice(watcher, tmp_path):
    put(tmp_path, "first.webp", b"x", 100)
    new(watcher)
    assert new(watcher) == ["first.webp.png"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").write_text("a file where a folder is needed")
    put(tmp_path, "deep/x.png", b"x", 100)
    assert [new(watcher) for _ in range(2)] == [[], []]
    assert len(watcher.problems) == 1 and "deep is a file" in watcher.problems[0]
    assert new(watcher) == [] and watcher.problems == []


def test_folders_that_cannot_be_read_are_told_once(watcher, tmp_path, monkeypatch):
    def closed(path="."):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", closed)
    assert new(watcher) == [] and len(watcher.problems) == 1
    assert new(watcher) == [] and watcher.problems == []


def test_single_files_are_not_watched(tmp_path):
    with pytest.raises(ValueError, match="watch needs a folder or a quoted pattern"):
        Watcher([str(tmp_path / "a.png")], tmp_path / "out", None, [])
