"""How far a run is, how long it shall go, how often it does what, and the learning rate as a pure function of these."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

LearningRateSchedule = Literal["constant", "constant_with_warmup", "cosine"]
BadLossRule = Literal["skip", "abort"]


@dataclass
class Progress:
    """Everything a run must remember beside weights; plain numbers, saved as JSON with each checkpoint."""

    step: int = 0  # optimizer steps, skipped ones included
    samples: int = 0  # global index of the next sample: the position in the data
    seconds: float = 0.0  # spent on steps and waiting for data; not on validation and checkpoints
    average_loss: float | None = None  # running mean, what an exploding loss is compared with
    bad_steps: int = 0  # skipped in a row
    sums: dict[str, float] = field(default_factory=dict)  # of what the steps returned since the last line was logged
    counts: int = 0  # of these steps

    def state(self) -> dict[str, Any]:
        """Return the fields as plain numbers."""
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned. Raises TypeError for other fields."""
        self.__dict__.update(asdict(Progress(**state)))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long to train: by steps, by time, or whichever ends first. Raises ValueError when nothing says."""

    max_train_steps: int | None = None
    max_train_minutes: float | None = None

    def __post_init__(self) -> None:
        given = {"max_train_steps": self.max_train_steps, "max_train_minutes": self.max_train_minutes}
        if all(value is None for value in given.values()):
            raise ValueError("give --max_train_steps, --max_train_minutes or --num_train_epochs")
        for name, value in given.items():
            if value is not None and not value > 0:
                raise ValueError(f"--{name} {value} must be positive")

    def done(self, progress: Progress) -> float:
        """Return the share of the run that is behind, in [0, 1]."""
        by_steps = progress.step / self.max_train_steps if self.max_train_steps else 0.0
        by_time = progress.seconds / (60 * self.max_train_minutes) if self.max_train_minutes else 0.0
        return min(1.0, max(by_steps, by_time))


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How often a run does something beside training; None or 0: never, but a checkpoint is written at the end."""

    logging_steps: int = 10
    checkpointing_steps: int | None = None
    checkpointing_minutes: float | None = 5.0
    validation_steps: int | None = None  # None: beside each checkpoint


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Linear warm-up over `warmup_steps`, then constant or half a cosine from `peak` down to `final`.

    A function of the progress, not a counter: neither resuming nor the number of processes can shift it. Unlike ResShift
    (zsyOAOA/ResShift trainer.py) the first step does not run at the full rate.
    """

    peak: float
    schedule: LearningRateSchedule = "cosine"
    warmup_steps: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        if not self.peak > 0:
            raise ValueError(f"--learning_rate {self.peak} must be positive")
        if not 0 <= self.final <= self.peak:
            raise ValueError(f"--lr_min {self.final} must lie between 0 and --learning_rate {self.peak}")
        if self.warmup_steps < 0:
            raise ValueError(f"--lr_warmup_steps {self.warmup_steps} must not be negative")
        if self.schedule == "constant" and self.warmup_steps:
            raise ValueError("--lr_scheduler constant has no warm-up; use constant_with_warmup or --lr_warmup_steps 0")

    def at(self, progress: Progress, limits: Limits) -> float:
        """Return the rate of the step that follows `progress`."""
        if progress.step < self.warmup_steps:
            return self.peak * (progress.step + 1) / self.warmup_steps
        if self.schedule != "cosine":
            return self.peak
        # In a run limited by time alone nobody knows the share of the warm-up: the cosine then starts with the run.
        warm = min(1.0, self.warmup_steps / limits.max_train_steps) if limits.max_train_steps else 0.0
        done = max(0.0, limits.done(progress) - warm) / (1 - warm) if warm < 1 else 1.0
        return self.final + (self.peak - self.final) * 0.5 * (1 + math.cos(math.pi * done))
