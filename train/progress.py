"""How far a run is, how long it shall go, and how often it does what beside training."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Progress:
    """Everything a run must remember beside weights; plain numbers, saved as JSON with each checkpoint."""

    step: int = 0  # optimizer steps, skipped ones included
    samples: int = 0  # global index of the next sample: the position in the data
    seconds: float = 0.0  # spent on steps and waiting for data; not on validation and checkpoints
    average_loss: float | None = None  # running mean, what an exploding loss is compared with
    bad_steps: int = 0  # skipped in a row
    sums: dict[str, float] = field(default_factory=dict)  # of what the steps returned since the last line was logged
    counts: dict[str, int] = field(default_factory=dict)  # of the steps that returned it

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
