"""A run that is killed, stopped or spread over processes ends with the same numbers, by the real script."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from resdiff.train.checkpoints import all_checkpoints

SCRIPT = Path(__file__).parents[2] / "train" / "resshift.py"
ALONE = [sys.executable, str(SCRIPT)]
IN_TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(SCRIPT)]


@pytest.fixture
def command(photos, write_recipe, tmp_path) -> Callable[..., list[str]]:
    """Return the command line of a run."""

    def build(launcher: Sequence[str], name: str, steps: int, *flags: str, **recipe: Any) -> list[str]:
        data = ["--recipe", str(write_recipe(**recipe)), "--train_data_dir", str(photos)]
        rhythm = ["--max_train_steps", str(steps), "--logging_steps", "1"]
        return [*launcher, *data, "--output_dir", str(tmp_path / name), *rhythm, *flags]

    return build


def environment() -> dict[str, str]:
    """Return that of a shell in which nothing was launched, on the CPU."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "TORCHELASTIC_"))}
    return kept | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def finish(command: Sequence[str]) -> str:
    """Run to the end; return what was said."""
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def begin(command: Sequence[str], output: Path, log: Path) -> subprocess.Popen:
    """Start a run and wait for its first checkpoint."""
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
    deadline = time.monotonic() + 200
    while not all_checkpoints(output):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.01)
    return process


def kill(process: subprocess.Popen) -> None:
    """Kill a launcher and the processes it started, as a power cut would."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family[:-1], timeout=10)
    assert process.wait(timeout=10) == -signal.SIGKILL


def assert_same_end(first: Path, second: Path, steps: int, files: set[str]) -> None:
    """Compare the last checkpoints of two runs to the bit."""
    names = {path.name for path in (first / f"checkpoint-{steps}").glob("*.safetensors")}
    assert names == {path.name for path in (second / f"checkpoint-{steps}").glob("*.safetensors")} == files
    for name in names:
        a, b = (load_file(run / f"checkpoint-{steps}" / name) for run in (first, second))
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].equal(b[key]), f"{name} {key}"


def test_a_run_killed_at_a_random_moment_ends_with_the_same_weights(command, train, metrics, tmp_path) -> None:
    steps, often = 240, ["--checkpointing_steps", "3"]
    process = begin(command(ALONE, "cut", steps, *often), tmp_path / "cut", tmp_path / "log")
    moment = random.uniform(0, 0.8)
    time.sleep(moment)
    kill(process)
    reached = int(all_checkpoints(tmp_path / "cut")[-1].name.split("-")[1])
    assert reached < steps, f"killed {moment} s after the first checkpoint, too late"
    said = finish(command(ALONE, "cut", steps, *often, "--resume_from_checkpoint", "latest"))
    assert f"resumed from {tmp_path / 'cut' / f'checkpoint-{reached}'} at step {reached}" in said
    assert not list((tmp_path / "cut").glob("partial-*"))
    whole = train("--max_train_steps", str(steps), "--logging_steps", "1", name="whole")
    assert_same_end(whole, tmp_path / "cut", steps, {"model.safetensors", "ema.safetensors", "random-0.safetensors"})
    lines = metrics(whole, "step", "loss", "lr", "grad_norm")
    assert lines == metrics(tmp_path / "cut", "step", "loss", "lr", "grad_norm") and len(lines) == steps


def test_two_processes_killed_at_a_random_moment_end_with_the_same_weights(command, metrics, tmp_path) -> None:
    steps, often, pool = 100, ["--checkpointing_steps", "2"], {"pair_pool": 8, "train_batch_size": 2}
    process = begin(command(IN_TWO, "cut", steps, *often, **pool), tmp_path / "cut", tmp_path / "log")
    moment = random.uniform(0, 0.5)
    time.sleep(moment)
    kill(process)
    reached = int(all_checkpoints(tmp_path / "cut")[-1].name.split("-")[1])
    assert reached < steps, f"killed {moment} s after the first checkpoint, too late"
    finish(command(IN_TWO, "cut", steps, *often, "--resume_from_checkpoint", "latest", **pool))
    finish(command(IN_TWO, "whole", steps, **pool))
    files = {f"{name}-{rank}.safetensors" for name in ("pool", "random") for rank in (0, 1)}
    files |= {"model.safetensors", "ema.safetensors"}
    assert_same_end(tmp_path / "whole", tmp_path / "cut", steps, files)
    lines = metrics(tmp_path / "whole", "step", "loss", "lr", "grad_norm")
    assert lines == metrics(tmp_path / "cut", "step", "loss", "lr", "grad_norm") and len(lines) == steps


def test_two_processes_equal_one_with_twice_the_batch(command, train, metrics, tmp_path) -> None:
    constant = [
        "--lr_scheduler",
        "constant_with_warmup",
        "--lr_warmup_steps",
        "4",
        "--gradient_accumulation_steps",
        "2",
    ]
    said = finish(command(IN_TWO, "two", 8, *constant, "--train_batch_size", "2"))
    assert "2 process(es) on cpu" in said and "1 CPU threads each" in said
    one = train("--max_train_steps", "8", "--logging_steps", "1", *constant, "--train_batch_size", "4", name="one")
    for a, b in zip(metrics(one, "step", "lr", "loss"), metrics(tmp_path / "two", "step", "lr", "loss"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    for name in ("model.safetensors", "ema.safetensors"):
        a, b = (load_file(run / "checkpoint-8" / name) for run in (one, tmp_path / "two"))
        for key in a:
            assert float((a[key].double() - b[key].double()).abs().max()) < 1e-6, key


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, "0"), (signal.SIGTERM, "2")])
def test_a_signal_to_all_processes_saves_and_says_how_to_go_on(command, tmp_path, number, workers) -> None:
    flags = ["--checkpointing_steps", "5", "--dataloader_num_workers", workers]
    process = begin(command(ALONE, "run", 10**6, *flags), tmp_path / "run", tmp_path / "log")
    readers = psutil.Process(process.pid).children(recursive=True)
    assert len(readers) >= int(workers)
    for member in (*readers, process):  # as a terminal and a scheduler do
        member.send_signal(number)
    assert process.wait(timeout=60) == 0
    assert not psutil.wait_procs(readers, timeout=10)[1]
    said = (tmp_path / "log").read_text()
    last = all_checkpoints(tmp_path / "run")[-1].name.split("-")[1]
    assert f"stopped by {number.name} at step {last}; --resume_from_checkpoint latest goes on" in said
    assert "Traceback" not in said and not (tmp_path / "run" / "model_index.json").exists()
