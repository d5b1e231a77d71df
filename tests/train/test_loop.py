"""The training loop: limits, checkpoints, resuming, bad losses, signals, validation and what is logged."""

import errno
import json
import logging
import math
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from resdiff.train import checkpoints as checkpoints_module
from resdiff.train import loop
from resdiff.train.checkpoints import Checkpoints, all_checkpoints
from resdiff.train.ema import Ema
from resdiff.train.loop import RunAborted, fit
from resdiff.train.progress import Limits, Progress, Rhythm
from resdiff.train.update import BadLoss

BATCH = 4


class Run:
    """Fit y = 3 x by Adam, with dropout so that the random state counts; batch i is a function of i alone."""

    def __init__(self, folder: Path, resume: bool = False, **options: Any):
        torch.manual_seed(0)
        self.accelerator = Accelerator(cpu=True)
        layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(layer.weight)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        self.layer, self.optimizer = self.accelerator.prepare(layer, optimizer)
        self.ema = Ema(self.layer.parameters(), 0.9)
        self.checkpoints = Checkpoints(accelerator=self.accelerator, output_dir=folder, shared={"ema": self.ema})
        self.checkpoints.begin()
        self.progress = Progress()
        if resume:
            self.checkpoints.load(all_checkpoints(folder)[-1], self.progress)
        self.folder, self.seen, self.options = folder, [], options
        self.before_step: Callable[[int], None] = lambda index: None

    def batches(self) -> Iterator[int]:
        assert self.progress.samples % BATCH == 0
        index = self.progress.samples // BATCH
        while True:
            yield index
            index += 1

    def step(self, index: int, progress: Progress) -> dict[str, float]:
        self.seen.append(index)
        self.before_step(index)
        x = torch.randn(BATCH, 1, generator=torch.Generator().manual_seed(index))
        x = torch.nn.functional.dropout(x, 0.1)
        loss = (self.layer(x) - 3 * x).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss": float(loss)}

    def fit(self, steps: int | None = None, minutes: float | None = None, **rhythm: Any) -> bool:
        return fit(
            self.step,
            self.batches(),
            samples_per_step=BATCH,
            progress=self.progress,
            limits=Limits(max_train_steps=steps, max_train_minutes=minutes),
            rhythm=Rhythm(**{"logging_steps": 1} | rhythm),
            checkpoints=self.checkpoints,
            ema=self.ema,
            tensors_of=lambda batch: {"x": torch.full((2,), float(batch))},
            **self.options,
        )

    def state(self) -> list[torch.Tensor]:
        return [self.layer.weight.detach().clone(), *(t.clone() for t in self.ema.tensors().values())]

    def metrics(self) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


def bad_at(*indices: int, problem: str = "the loss is nan") -> Callable[[int], None]:
    """Raise BadLoss at these batches."""

    def check(index: int) -> None:
        if index in indices:
            raise BadLoss(problem, [index])

    return check


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_run_ends_after_its_steps_with_a_checkpoint(tmp_path) -> None:
    run = Run(tmp_path)
    assert run.fit(steps=5, checkpointing_minutes=None) is True
    assert run.seen == [0, 1, 2, 3, 4]
    assert (run.progress.step, run.progress.samples) == (5, 20)
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-5"]


def test_a_run_ends_by_the_clock_of_its_steps(tmp_path, monkeypatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(clock))
    run = Run(tmp_path)
    assert run.fit(minutes=0.5)
    assert run.progress.seconds >= 30 > run.progress.seconds * (run.progress.step - 1) / run.progress.step
    assert all_checkpoints(tmp_path)[-1].name == f"checkpoint-{run.progress.step}"


def test_checkpoints_come_by_steps_and_by_minutes(tmp_path, monkeypatch) -> None:
    run = Run(tmp_path)
    saved = []
    monkeypatch.setattr(run.checkpoints, "save", lambda progress: saved.append(progress.step) or True)
    run.fit(steps=7, checkpointing_steps=3, checkpointing_minutes=None)
    assert saved == [3, 6, 7]
    saved.clear()
    monkeypatch.setattr(loop, "slowest", lambda accelerator, value: 25.0)  # seconds of each step
    second = Run(tmp_path / "second")
    monkeypatch.setattr(second.checkpoints, "save", lambda progress: saved.append(progress.step) or True)
    second.fit(steps=7, checkpointing_minutes=1)
    assert saved == [3, 6, 7]


def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path) -> None:
    whole = Run(tmp_path / "whole")
    whole.fit(steps=30, checkpointing_minutes=None)

    def die(index: int) -> None:
        if index == 20:
            raise KeyError

    cut = Run(tmp_path / "cut")
    cut.before_step = die
    with pytest.raises(KeyError):
        cut.fit(steps=30, checkpointing_steps=8)
    rest = Run(tmp_path / "cut", resume=True)
    assert rest.fit(steps=30, checkpointing_steps=8)
    assert rest.seen == list(range(16, 30))
    assert same(rest.state(), whole.state())
    losses = [[(line["step"], line["loss"]) for line in run.metrics()] for run in (rest, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 30


def test_a_run_resumed_between_two_lines_logs_the_same_means(tmp_path) -> None:
    whole = Run(tmp_path / "whole")
    whole.fit(steps=12, logging_steps=5)
    cut = Run(tmp_path / "cut")
    cut.before_step = lambda index: os.kill(os.getpid(), signal.SIGTERM) if index == 7 else None
    assert cut.fit(steps=12, logging_steps=5) is False
    rest = Run(tmp_path / "cut", resume=True)
    rest.fit(steps=12, logging_steps=5)
    losses = [[(line["step"], line["loss"]) for line in run.metrics()] for run in (rest, whole)]
    assert losses[0] == losses[1] and [step for step, _ in losses[0]] == [5, 10, 12]


def test_a_finished_run_that_is_resumed_trains_no_further(tmp_path) -> None:
    Run(tmp_path).fit(steps=3)
    again = Run(tmp_path, resume=True)
    assert again.fit(steps=3) is True and again.seen == []
    assert len(again.metrics()) == 3


def test_a_bad_loss_is_skipped_reported_and_its_batch_saved(tmp_path, caplog) -> None:
    run = Run(tmp_path)
    run.before_step = bad_at(2, 5)
    assert run.fit(steps=8)
    assert run.seen == list(range(8)) and run.progress.step == 8 and run.progress.bad_steps == 0
    assert load_file(tmp_path / "bad-batch-2-0.safetensors")["0.x"].tolist() == [2, 2]
    assert load_file(tmp_path / "bad-batch-5-0.safetensors")["0.x"].tolist() == [5, 5]
    told = [m for m in caplog.messages if "not done" in m]
    assert told[0] == f"step 2 not done: the loss is nan; batch saved as {tmp_path / 'bad-batch-2-0.safetensors'}"
    assert int(run.ema.tensors()["optimization_step"]) == 6  # skipped steps are not averaged
    assert ["loss" in line for line in run.metrics()] == [i not in (2, 5) for i in range(8)]


def test_a_skipped_step_is_not_in_the_means(tmp_path) -> None:
    run = Run(tmp_path / "bad")
    run.before_step = bad_at(3)
    run.fit(steps=4, logging_steps=4)
    clean = Run(tmp_path / "clean")
    clean.fit(steps=3, logging_steps=3)
    assert run.metrics()[0]["loss"] == clean.metrics()[0]["loss"]


def test_a_bad_loss_aborts_as_told_and_the_last_checkpoint_stays(tmp_path) -> None:
    run = Run(tmp_path, on_bad_loss="abort")
    run.before_step = bad_at(3, problem="the loss is inf")
    with pytest.raises(RunAborted, match=r"stopped at step 3: the loss is inf; the batch is in .*bad-batch-3-0"):
        run.fit(steps=8, checkpointing_steps=2)
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-2"]
    assert (tmp_path / "bad-batch-3-0.safetensors").is_file()


def test_ten_bad_losses_in_a_row_abort(tmp_path) -> None:
    run = Run(tmp_path)
    run.before_step = bad_at(*range(2, 11), *range(12, 100))  # nine are survived
    with pytest.raises(RunAborted, match="stopped at step 21"):
        run.fit(steps=100)
    saved = {int(path.name.split("-")[2]) for path in tmp_path.glob("bad-batch-*")}
    assert saved == set(range(12, 22))  # the newest ten; they must not fill the disk


def test_a_full_disk_does_not_end_the_run(tmp_path, monkeypatch, caplog) -> None:
    save = checkpoints_module.save_tensors

    def full(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if "partial-4" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(tensors, path)

    monkeypatch.setattr(checkpoints_module, "save_tensors", full)
    run = Run(tmp_path)
    assert run.fit(steps=5, checkpointing_steps=2)
    assert "checkpoint-4 could not be written" in caplog.text
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-5"]
    assert not list(tmp_path.glob("partial-*"))


def test_figures_that_cannot_be_written_do_not_end_the_run(tmp_path, monkeypatch, caplog) -> None:
    run = Run(tmp_path)

    def replace_by_folder(index: int) -> None:
        if index == 2:
            (tmp_path / "metrics.jsonl").unlink()
            (tmp_path / "metrics.jsonl").mkdir()

    run.before_step = replace_by_folder
    assert run.fit(steps=5)
    assert "metrics.jsonl could not be written" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_at_the_end_of_its_step_and_leaves(tmp_path, caplog, number) -> None:
    run = Run(tmp_path)
    run.before_step = lambda index: os.kill(os.getpid(), number) if index == 3 else None
    with caplog.at_level(logging.INFO, logger="resdiff"):
        assert run.fit(steps=10, checkpointing_minutes=None) is False
    assert run.seen == [0, 1, 2, 3]
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-4"]
    assert caplog.messages[-1] == f"stopped by {number.name} at step 4; --resume_from_checkpoint latest goes on"
    rest = Run(tmp_path, resume=True)
    assert rest.fit(steps=10)
    whole = Run(tmp_path / "whole")
    assert whole.fit(steps=10)
    assert same(rest.state(), whole.state())


def test_a_signal_in_the_last_step_does_not_undo_that_the_run_is_finished(tmp_path) -> None:
    run = Run(tmp_path)
    run.before_step = lambda index: os.kill(os.getpid(), signal.SIGTERM) if index == 3 else None
    assert run.fit(steps=4) is True


def test_metrics_hold_the_means_since_the_last_line(tmp_path) -> None:
    fine = Run(tmp_path / "fine")
    fine.fit(steps=7)
    coarse = Run(tmp_path / "coarse")
    coarse.fit(steps=7, logging_steps=3)
    assert [line["step"] for line in coarse.metrics()] == [3, 6, 7]  # the last has what was left
    each = [line["loss"] for line in fine.metrics()]
    assert coarse.metrics()[1]["loss"] == pytest.approx(sum(each[3:6]) / 3)
    assert coarse.metrics()[2]["loss"] == pytest.approx(each[6])
    assert coarse.metrics()[0].keys() == {"step", "minutes", "loss", "images_per_second", "data_wait"}


def test_speed_and_data_wait_are_those_of_the_clock(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(loop.time, "monotonic", lambda: now[0])
    run = Run(tmp_path)
    batches = run.batches()

    def slow_batches() -> Iterator[int]:
        for batch in batches:
            now[0] += 1.0
            yield batch

    def slow_step(index: int) -> None:
        now[0] += 3.0

    run.before_step = slow_step
    run.batches = slow_batches
    run.fit(steps=2, logging_steps=2)
    (line,) = run.metrics()
    assert line["data_wait"] == 0.25 and line["images_per_second"] == BATCH / 4
    assert run.progress.seconds == 8.0 and line["minutes"] == round(8 / 60, 3)


def test_a_resumed_run_drops_the_lines_it_repeats_and_what_a_kill_left_half_written(tmp_path) -> None:
    run = Run(tmp_path)
    run.fit(steps=4)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    rest = Run(tmp_path, resume=True)
    rest.fit(steps=6)
    assert [line["step"] for line in rest.metrics()] == [1, 2, 3, 4, 5, 6]
    assert rest.metrics()[4]["loss"] != 1.0


def test_validation_sees_the_averaged_weights_and_leaves_the_random_state(tmp_path) -> None:
    seen = []

    def validate() -> dict[str, float]:
        torch.rand(5)
        seen.append(run.layer.weight.item())
        return {"psnr_y_1_step": 30.0}

    run = Run(tmp_path / "validated", validate=validate)
    run.fit(steps=6, validation_steps=2)
    plain = Run(tmp_path / "plain")
    plain.fit(steps=6)
    assert same(run.state(), plain.state())
    with run.ema.applied():
        assert seen[-1] == run.layer.weight.item()
    assert len(seen) == 3 and seen[-1] != run.layer.weight.item()
    assert [line["step"] for line in run.metrics() if "psnr_y_1_step" in line] == [2, 4, 6]


@pytest.mark.parametrize(
    ("rhythm", "steps"),
    [
        ({"checkpointing_steps": 2}, [2, 4, 5]),  # beside checkpoints
        ({"checkpointing_steps": 2, "validation_steps": 3}, [3, 5]),
        ({"checkpointing_minutes": None}, [5]),
    ],
)
def test_validation_comes_when_told_and_once_at_the_end(tmp_path, rhythm, steps) -> None:
    run = Run(tmp_path, validate=lambda: {"psnr": 1.0})
    run.fit(steps=5, **rhythm)
    assert [line["step"] for line in run.metrics() if "psnr" in line] == steps


def test_a_logging_period_of_bad_losses_alone_has_no_loss(tmp_path) -> None:
    run = Run(tmp_path)
    run.before_step = bad_at(0, 1)
    run.fit(steps=4, logging_steps=2)
    first, second = run.metrics()
    assert "loss" not in first and math.isfinite(second["loss"])


def test_a_run_without_a_single_good_step_is_no_success(tmp_path) -> None:
    run = Run(tmp_path)
    run.before_step = bad_at(*range(3))
    with pytest.raises(RunAborted, match="none of the 3 steps could be done"):
        run.fit(steps=3)


def test_a_validation_that_fails_does_not_end_the_training(tmp_path, caplog) -> None:
    def failing() -> dict[str, float]:
        raise RuntimeError("out\nof memory")

    assert Run(tmp_path, validate=failing).fit(steps=2)
    assert "validation failed: out of memory" in caplog.messages
