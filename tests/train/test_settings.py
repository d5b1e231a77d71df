"""What every training script can be told, checked before anything is built."""

import math
from pathlib import Path

import pytest

from resdiff.train.learning_rate import LearningRate
from resdiff.train.progress import Rhythm
from resdiff.train.resshift import Arguments
from resdiff.train.settings import OF_THIS_MACHINE, TrainingArguments


def settings(**options) -> TrainingArguments:
    return TrainingArguments(**{"train_data_dir": Path("x"), "output_dir": Path("y"), "max_train_steps": 10} | options)


def test_one_side_is_a_square_two_are_height_and_width() -> None:
    assert settings(resolution=(64,)).crop == (64, 64)
    assert settings(resolution=(64, 96)).crop == (64, 96)


def test_parts_get_what_they_need() -> None:
    args = settings(
        learning_rate=1e-3, lr_scheduler="cosine", lr_warmup_steps=3, lr_min=1e-5, logging_steps=5, validation_steps=7
    )
    assert args.rate == LearningRate(peak=1e-3, schedule="cosine", warmup_steps=3, final=1e-5)
    assert args.rhythm == Rhythm(logging_steps=5, validation_steps=7, checkpointing_minutes=5.0)


@pytest.mark.parametrize(("processes", "expected"), [(1, 8), (2, 4), (8, 1)])
def test_a_global_batch_sets_the_accumulation(processes, expected) -> None:
    assert settings(global_batch_size=64, train_batch_size=8).accumulation(processes) == expected
    assert settings(gradient_accumulation_steps=3).accumulation(processes) == 3
    assert settings().accumulation(processes) == 1


def test_a_global_batch_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="--global_batch_size 64 is no multiple of --train_batch_size 8 x 3 processes"):
        settings(global_batch_size=64, train_batch_size=8).accumulation(3)


def test_epochs_are_steps_by_the_number_of_photos() -> None:
    args = settings(max_train_steps=None, num_train_epochs=2.5)
    assert args.limits(photos=100, samples_per_step=10).max_train_steps == 25
    assert args.limits(photos=1, samples_per_step=10).max_train_steps == 1
    assert settings(max_train_steps=7, num_train_epochs=2.5).limits(100, 10).max_train_steps == 7
    assert settings(max_train_minutes=3).limits(100, 10).max_train_minutes == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": (1, 2, 3)}, "--resolution 1 2 3 must be one positive number of pixels, or height and width"),
        ({"resolution": (0,)}, "--resolution 0 must be"),
        ({"train_batch_size": 0}, "--train_batch_size 0 must be at least 1"),
        ({"checkpoints_total_limit": 0}, "--checkpoints_total_limit 0 must be at least 1"),
        ({"global_batch_size": 8, "gradient_accumulation_steps": 2}, "give one of them"),
        ({"train_data_dir": None}, "--train_data_dir must be given, or a --manifest"),
        ({"lr_data_dir": Path("a"), "manifest": Path("b")}, "--manifest names the pairs itself"),
        ({"max_train_steps": None}, "give --max_train_steps, --max_train_minutes or --num_train_epochs"),
        ({"max_train_steps": 0}, "--max_train_steps 0 must be positive"),
        ({"learning_rate": -1.0}, "--learning_rate -1.0 must be a positive number"),
        ({"max_grad_norm": -1.0}, "--max_grad_norm -1.0 must be positive"),
        ({"max_grad_norm": math.nan}, "--max_grad_norm nan must be positive"),
        ({"num_train_epochs": 0.0}, "--num_train_epochs 0.0 must be positive"),
        ({"logging_steps": -1}, "--logging_steps -1 must not be negative"),
        ({"checkpointing_steps": -1}, "--checkpointing_steps -1 must not be negative"),
        ({"checkpointing_minutes": -1.0}, "--checkpointing_minutes -1.0 must not be negative"),
        ({"validation_steps": -1}, "--validation_steps -1 must not be negative"),
        ({"dataloader_num_workers": -1}, "--dataloader_num_workers -1 must not be negative"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        settings(**options)


def test_what_belongs_to_a_machine_names_settings() -> None:
    assert Arguments.__dataclass_fields__.keys() >= OF_THIS_MACHINE
