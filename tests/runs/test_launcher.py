"""What a process of a launcher is given, and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from resdiff.runs.launcher import RunAborted, count_done, local_device, run_script, share_cores, wait_for_others


def test_a_launcher_gives_each_process_its_device_and_cores(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert local_device(None, {"LOCAL_RANK": "3"}) == "cuda:3"
    assert local_device("cuda", {"LOCAL_RANK": "5"}) == "cuda:1"
    assert local_device("cuda:2", {"LOCAL_RANK": "3"}) == "cuda:2"
    assert local_device("cpu", {"LOCAL_RANK": "3"}) == "cpu"
    assert local_device(None, {"LOCAL_RANK": "3", "ACCELERATE_USE_CPU": "true"}) == "cpu"
    assert local_device(None, {}) is None
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    share_cores({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"})
    share_cores({"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "3"})  # chosen by the user
    share_cores({})
    assert threads == [4]


def test_without_a_launcher_nobody_is_waited_for():
    count_done({"WORLD_SIZE": "2"})
    wait_for_others({"WORLD_SIZE": "2"})
    wait_for_others({"WORLD_SIZE": "1", "TORCHELASTIC_USE_AGENT_STORE": "True"})


def test_a_bad_file_of_one_process_does_not_end_the_other(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"bad")  # the first process fails at once
    for index in range(7):
        Image.new("RGB", (40, 40) if index % 2 else (900, 900)).save(tmp_path / "in" / f"b{index}.png")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "resdiff.cli", "upscale"]
    command += [str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--model", "bicubic", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 1
    assert set(done.stdout.splitlines()) == {
        "shard 1/2: 3 written, 1 failed, 0 skipped",
        "shard 2/2: 4 written, 0 failed, 0 skipped",
    }
    assert len([name for name in os.listdir(tmp_path / "out") if name.endswith(".png")]) == 7


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("a\nb"), 2, "error: a b"),
        (OSError("disk"), 2, "error: disk"),
        (RunAborted("stopped"), 1, "error: stopped"),
        (KeyboardInterrupt(), 1, "error: interrupted; do this"),
    ],
)
def test_what_ends_a_script_is_one_line_of_the_main_process(error, code, line, capsys, monkeypatch) -> None:
    def main() -> None:
        raise error

    assert run_script(main, "interrupted; do this") == code
    assert capsys.readouterr().err.splitlines() == [line]
    monkeypatch.setenv("RANK", "1")
    assert run_script(main, "interrupted; do this") == code and not capsys.readouterr().err
    monkeypatch.setenv("RESDIFF_DEBUG", "1")
    with pytest.raises(type(error)):
        run_script(main)


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: 1 / 0)
