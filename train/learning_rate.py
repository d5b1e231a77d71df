"""The learning rate as a pure function of a run's progress."""

import math
from dataclasses import dataclass
from typing import Literal

from resdiff.train.progress import Limits, Progress

LearningRateSchedule = Literal["constant", "constant_with_warmup", "cosine"]


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
        if not 0 < self.peak < math.inf:
            raise ValueError(f"--learning_rate {self.peak} must be a positive number")
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
