"""The report of a run as a document."""

import json
from pathlib import Path

import pytest

from resdiff.runs import report as module
from resdiff.runs.jobs import Job
from resdiff.runs.report import Report, check_report, entry_of

JOBS = [Job(Path(f"in/{name}.png"), Path(f"out/{name}.png")) for name in "abc"]


def test_entries_are_written_with_the_settings(tmp_path):
    report = Report(tmp_path / "r.json", {"model": "m", "seed": 3}, "cuda_peak_mib")
    report.add(entry_of(JOBS[0], size_in=(2, 3), size_out=(8, 12), seconds=1.23456, peak_mib=10.06, tile=64))
    report.add(entry_of(JOBS[1], error="bad"))
    report.write({"written": 1})
    told = json.loads((tmp_path / "r.json").read_text())
    assert told["files"][0] == {
        "source": "in/a.png",
        "target": "out/a.png",
        "size_in": [2, 3],
        "size_out": [8, 12],
        "seconds": 1.235,
        "cuda_peak_mib": 10.1,
        "tile": 64,
        "error": None,
        "skipped": False,
        "model": "m",
        "seed": 3,
    }
    assert told["files"][1]["error"] == "bad" and told["summary"] == {"written": 1}


def test_a_resumed_report_keeps_what_was_told_and_replaces_what_is_made_again(tmp_path):
    path = tmp_path / "r.json"
    first = Report(path, {}, "cuda_peak_mib")
    first.add(entry_of(JOBS[0], seconds=1.0))
    first.add(entry_of(JOBS[1], error="bad"))
    first.write(None)
    assert json.loads(path.read_text())["finished"] is None
    again = Report(path, {}, "cuda_peak_mib", resume=True)
    again.add(entry_of(JOBS[0], skipped=True))
    again.add(entry_of(JOBS[1], seconds=2.0))
    again.add(entry_of(JOBS[2], skipped=True))
    again.write({})
    files = {one["target"]: one for one in json.loads(path.read_text())["files"]}
    assert [one["seconds"] for one in files.values()] == [1.0, 2.0, None]
    assert [one["skipped"] for one in files.values()] == [False, False, True]
    assert files["out/b.png"]["error"] is None
    anew = Report(path, {}, "cuda_peak_mib")
    anew.write({})
    assert json.loads(path.read_text())["files"] == []


def test_it_is_written_now_and_then(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    report = Report(tmp_path / "r.json", {}, "cuda_peak_mib")
    written = []
    monkeypatch.setattr(module, "write_json", lambda path, document: written.append(clock[0]))
    for second in range(0, 35, 3):
        clock[0] = float(second)
        report.write_sometimes()
    assert written == [12.0, 24.0]


def test_only_json_files_of_its_own_are_written_over(tmp_path):
    (tmp_path / "mine.json").write_text('{"a": 1}')
    (tmp_path / "file").touch()
    for name, message in (
        ("photo.jpg", "pass the name of a file that ends in .json"),
        ("mine.json", "was not written by resdiff"),
        ("file/r.json", "cannot be made"),
    ):
        with pytest.raises(ValueError, match=message):
            check_report(tmp_path / name)


def test_no_path_keeps_nothing():
    report = Report(None, {}, "cuda_peak_mib")
    report.add(entry_of(JOBS[0]))
    report.write_sometimes()
    report.write({})
    assert report.entries == {}


def test_names_that_are_not_utf_8_come_back_as_they_were(tmp_path):
    report = Report(tmp_path / "r.json", {}, "cuda_peak_mib")
    report.add(entry_of(Job(Path("bad\udcff.png"), Path("out/bad\udcff.png"))))
    report.write({})
    assert json.loads((tmp_path / "r.json").read_bytes())["files"][0]["source"] == "bad\udcff.png"
