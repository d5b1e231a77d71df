"""A run that is killed and resumed ends with the files of an uninterrupted one; the long form is fuzz/kill_resume.py."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "fuzz" / "kill_resume.py"


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_and_resumed_run_gives_the_same_files_bit_for_bit(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("kill_resume", SCRIPT)
    kill_resume = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "kill_resume", kill_resume)  # where its dataclass looks
    spec.loader.exec_module(kill_resume)
    outcome = kill_resume.experiment(tmp_path, files=24, kills=2, seed=1)
    assert outcome.files == 24 and outcome.different == []
    assert outcome.kills == 2 and 0 < outcome.done_at_kill[0] < 24
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report["files"]) == 24 and not any(one["error"] for one in report["files"])
