"""The record of a run, and what dead processes leave."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resdiff.files.formats import temporary_beside
from resdiff.runs.jobs import Job
from resdiff.runs.resume import RUN_NAME, begin_run, remove_leftovers

SETTINGS = {"model": "m", "weights": "0" * 16, "scale": 4.0, "tile": "auto", "mask": None}


def job(tmp_path: Path, name: str = "a.png") -> Job:
    return Job(Path("in") / name, tmp_path / name)


def begin(tmp_path: Path, settings: dict = SETTINGS, resume: bool = False, keep_existing: bool = False):
    return begin_run(tmp_path, settings, resume=resume, keep_existing=keep_existing)


def test_results_count_from_the_moment_their_settings_hold(tmp_path):
    (tmp_path / "a.png").touch()
    time.sleep(0.02)
    run = begin(tmp_path)
    assert not run.has(job(tmp_path)) and not run.has(job(tmp_path, "none.png"))
    (tmp_path / "a.png").touch()
    assert run.has(job(tmp_path))
    assert begin(tmp_path, resume=True).has(job(tmp_path))
    assert begin(tmp_path) == run  # the same settings: the same results
    time.sleep(0.02)
    assert not begin(tmp_path, {**SETTINGS, "scale": 2.0}).has(job(tmp_path))


def test_without_a_record_a_resumed_run_takes_results_as_they_are(tmp_path):
    (tmp_path / "a.png").touch()
    time.sleep(0.02)
    assert begin(tmp_path, resume=True).has(job(tmp_path))
    (tmp_path / RUN_NAME).unlink()
    assert begin(tmp_path, keep_existing=True).has(job(tmp_path))
    assert begin(tmp_path, resume=True).has(job(tmp_path))


def test_a_different_option_is_named_with_both_values(tmp_path):
    begin(tmp_path)
    before = (tmp_path / RUN_NAME).read_bytes()
    for change, message in (
        ({"scale": 2.0}, "scale was 4.0 in the run that began in .* and is 2.0 now"),
        ({"model": "n", "weights": "1" * 16}, "model was 'm' in .* and is 'n' now"),
        ({"weights": "1" * 16}, "model was '0000000000000000' in .* and is '1111111111111111' now"),
        ({"mask": "ab"}, "mask was None in .* and is 'ab' now"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(tmp_path, {**SETTINGS, **change}, resume=True)
    assert (tmp_path / RUN_NAME).read_bytes() == before


def test_the_same_weights_may_lie_elsewhere(tmp_path):
    begin(tmp_path)
    since = json.loads((tmp_path / RUN_NAME).read_text())["since_ns"]
    assert begin(tmp_path, {**SETTINGS, "model": "elsewhere/m"}, resume=True).since_ns == since


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file cannot be written: .*; choose another output") as caught:
        begin_run(tmp_path / "file", SETTINGS, resume=False, keep_existing=False)
    assert len(str(caught.value).splitlines()) == 1


def test_a_record_of_another_kind_is_named(tmp_path):
    for text in ("{", "[]", "{}", '{"since_ns": "x", "settings": {}}', "\udcff".encode("utf-8", "surrogateescape")):
        path = tmp_path / RUN_NAME
        path.write_bytes(text) if isinstance(text, bytes) else path.write_text(text)
        with pytest.raises(ValueError, match=f"{RUN_NAME} .*remove it"):
            begin(tmp_path)


def test_only_what_dead_processes_of_this_machine_left_is_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = temporary_beside(tmp_path / "x").name
    own, parent, other = (name.replace(f"-{os.getpid()}-", f"-{n}-") for n in (dead.pid, os.getppid(), os.getpid()))
    foreign = f".resdiff-elsewhere-{dead.pid}-0123456789abcdef.tmp"
    for kept in (parent, foreign, ".resdiff-x.tmp", "a.png"):
        (tmp_path / kept).touch()
    for left in (own, other):  # nothing of this process is being written: another one had its number
        (tmp_path / left).touch()
    assert remove_leftovers([tmp_path, tmp_path / "none"]) == 2
    assert sorted(os.listdir(tmp_path)) == sorted([parent, foreign, ".resdiff-x.tmp", "a.png"])
