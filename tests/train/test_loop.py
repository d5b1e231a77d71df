"""The training loop: schedule, checkpoints, resuming."""

from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel

from resdiff.train.loop import Progress, Schedule, cosine, fit, latest_checkpoint


def run(output_dir: Path, schedule: Schedule, resume: bool = False, seen: list[int] | None = None) -> tuple:
    """Fit y = 3 x by SGD on batches that depend on the step alone."""
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer, optimizer = accelerator.prepare(layer, optimizer)
    parameters = list(layer.parameters())
    ema = EMAModel(parameters, decay=0.9)

    def step(index: int) -> dict[str, torch.Tensor]:
        if seen is not None:
            seen.append(index)
        x = torch.randn(8, 1, generator=torch.Generator().manual_seed(index))
        loss = (layer(x) - 3 * x).square().mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.detach()}

    progress = fit(
        step,
        accelerator=accelerator,
        optimizer=optimizer,
        learning_rate=0.1,
        schedule=schedule,
        output_dir=output_dir,
        ema=ema,
        parameters=parameters,
        resume=resume,
    )
    return progress, parameters[0].detach().clone(), ema.shadow_params[0].clone()


def test_the_learning_rate_warms_up_and_falls_to_two_percent() -> None:
    assert cosine(0.005) == pytest.approx(0.5)
    assert cosine(0.01) == pytest.approx(1.0)
    assert cosine(1.0) == pytest.approx(0.02)
    values = [cosine(0.01 + 0.99 * i / 50) for i in range(51)]
    assert values == sorted(values, reverse=True)


def test_a_schedule_ends_by_steps_or_by_time_whichever_is_first() -> None:
    both = Schedule(max_train_steps=10, max_train_minutes=1)
    assert both.done(Progress(step=5, seconds=6)) == 0.5
    assert both.done(Progress(step=1, seconds=45)) == 0.75
    assert both.done(Progress(step=99, seconds=0)) == 1.0
    with pytest.raises(ValueError, match="max_train_steps or max_train_minutes"):
        Schedule()


def test_a_run_that_is_interrupted_and_resumed_equals_one_that_is_not(tmp_path) -> None:
    whole = run(tmp_path / "whole", Schedule(max_train_steps=30))

    class Stop(Exception):
        pass

    seen: list[int] = []

    class StopAt20(list):
        def append(self, index: int) -> None:
            super().append(index)
            if index == 20:
                raise Stop

    with pytest.raises(Stop):
        run(tmp_path / "cut", Schedule(max_train_steps=30, checkpointing_minutes=0), seen=StopAt20())
    progress, weight, average = run(tmp_path / "cut", Schedule(max_train_steps=30), resume=True, seen=seen)
    assert seen == list(range(20, 30))
    assert progress.step == whole[0].step == 30
    assert torch.equal(weight, whole[1]) and torch.equal(average, whole[2])


def test_only_the_newest_checkpoints_are_kept_and_sorted_by_number(tmp_path) -> None:
    run(tmp_path, Schedule(max_train_steps=12, checkpointing_minutes=0, checkpoints_total_limit=2))
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint-11", "checkpoint-12"}
    (tmp_path / "checkpoint-9").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-12"
    assert latest_checkpoint(tmp_path / "nothing") is None


def test_resuming_without_a_checkpoint_is_one_clear_line(tmp_path) -> None:
    with pytest.raises(ValueError, match="no checkpoint-<step> to resume from"):
        run(tmp_path, Schedule(max_train_steps=1), resume=True)
