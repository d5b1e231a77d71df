"""When a run ends, and the learning rate on the way."""

import math

import pytest
import torch

from resdiff.train.learning_rate import LearningRate
from resdiff.train.progress import Limits, Progress


def test_a_run_ends_by_steps_or_by_time_whichever_is_first() -> None:
    both = Limits(max_train_steps=10, max_train_minutes=1)
    assert both.done(Progress(step=5, seconds=6)) == 0.5
    assert both.done(Progress(step=1, seconds=45)) == 0.75
    assert both.done(Progress(step=99, seconds=0)) == 1.0
    assert Limits(max_train_steps=4).done(Progress(step=3, seconds=1e6)) == 0.75
    assert Limits(max_train_minutes=2).done(Progress(step=10**6, seconds=30)) == 0.25


def test_a_run_without_an_end_is_refused() -> None:
    with pytest.raises(ValueError, match="give --max_train_steps, --max_train_minutes or --num_train_epochs"):
        Limits()


@pytest.mark.parametrize("limits", [{"max_train_steps": 0}, {"max_train_minutes": -1}, {"max_train_minutes": math.nan}])
def test_a_limit_must_be_positive(limits) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(limits))} .* must be positive"):
        Limits(**limits)


def test_warm_up_is_linear_and_reaches_the_peak_with_its_last_step() -> None:
    rate = LearningRate(peak=8.0, schedule="constant_with_warmup", warmup_steps=4)
    limits = Limits(max_train_steps=100)
    assert [rate.at(Progress(step=s), limits) for s in range(6)] == [2, 4, 6, 8, 8, 8]


def test_a_constant_rate_stays() -> None:
    rate, limits = LearningRate(peak=0.5, schedule="constant"), Limits(max_train_steps=10)
    assert {rate.at(Progress(step=s), limits) for s in range(10)} == {0.5}


def test_the_cosine_is_that_of_torch_over_the_steps_after_the_warm_up() -> None:
    steps, warmup = 50, 10
    rate = LearningRate(peak=5e-5, schedule="cosine", warmup_steps=warmup, final=2e-5)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-5)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warmup, eta_min=2e-5)
    for step in range(warmup, steps + 1):
        ours = rate.at(Progress(step=step), Limits(max_train_steps=steps))
        assert ours == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()
    assert ours == pytest.approx(2e-5)


def test_the_cosine_of_a_run_by_time_follows_the_clock() -> None:
    rate, limits = LearningRate(peak=1.0, warmup_steps=5), Limits(max_train_minutes=1)
    assert rate.at(Progress(step=0), limits) == 0.2
    assert rate.at(Progress(step=7, seconds=30), limits) == pytest.approx(0.5)
    assert rate.at(Progress(step=7, seconds=60), limits) == pytest.approx(0.0)


def test_a_warm_up_as_long_as_the_run_divides_by_nothing() -> None:
    rate, limits = LearningRate(peak=1.0, warmup_steps=10, final=0.25), Limits(max_train_steps=10)
    assert rate.at(Progress(step=9), limits) == 1.0
    assert rate.at(Progress(step=10), limits) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peak": 0.0}, "--learning_rate 0.0 must be a positive number"),
        ({"peak": math.nan}, "--learning_rate nan must be a positive number"),
        ({"peak": 1.0, "final": 2.0}, "--lr_min 2.0 must lie between 0 and --learning_rate 1.0"),
        ({"peak": 1.0, "warmup_steps": -1}, "--lr_warmup_steps -1 must not be negative"),
        ({"peak": 1.0, "schedule": "constant", "warmup_steps": 1}, "--lr_scheduler constant has no warm-up"),
    ],
)
def test_a_rate_that_cannot_be_meant_is_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LearningRate(**options)
