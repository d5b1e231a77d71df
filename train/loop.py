"""`fit`: the loop that every training script shares.

It knows steps, time, checkpoints, resuming, EMA and logging. The script owns models, losses and optimizers and hands in
`step(index) -> logs`, one optimizer step on a batch that depends on (seed, index) alone: a resumed run continues with
the batches it would have seen.
"""

import logging
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

logger = logging.getLogger(__name__)


@dataclass
class Progress:
    """What a checkpoint must know beside weights: optimizer steps done and seconds spent on them."""

    step: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the fields; accelerate saves them with the rest of a checkpoint."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the fields."""
        self.step, self.seconds = state["step"], state["seconds"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long to train, by steps, by time, or whichever ends first."""

    max_train_steps: int | None = None
    max_train_minutes: float | None = None
    checkpointing_minutes: float = 5.0
    checkpoints_total_limit: int = 2

    def __post_init__(self) -> None:
        if self.max_train_steps is None and self.max_train_minutes is None:
            raise ValueError("give max_train_steps or max_train_minutes, or both")

    def done(self, progress: Progress) -> float:
        """Return the share of the run that is behind, in [0, 1]."""
        by_steps = progress.step / self.max_train_steps if self.max_train_steps else 0.0
        by_time = progress.seconds / (60 * self.max_train_minutes) if self.max_train_minutes else 0.0
        return min(1.0, max(by_steps, by_time))


def cosine(done: float, warmup: float = 0.01, final: float = 0.02) -> float:
    """Return the learning-rate factor: linear warm-up, then half a cosine down to `final`."""
    if done < warmup:
        return max(done, 1e-4) / warmup
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def latest_checkpoint(output_dir: Path) -> Path | None:
    """Return the `checkpoint-<step>` folder with the highest step, or None."""
    found = [p for p in output_dir.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    return max(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), default=None)


def save_checkpoint(accelerator: Accelerator, progress: Progress, output_dir: Path, limit: int) -> None:
    """Write `checkpoint-<step>` under a temporary name, rename it, then drop all but the newest `limit`."""
    target = output_dir / f"checkpoint-{progress.step}"
    partial = output_dir / f"partial-{progress.step}"
    accelerator.save_state(str(partial))
    if accelerator.is_main_process:
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        while len(list(output_dir.glob("checkpoint-*"))) > limit:
            oldest = min(output_dir.glob("checkpoint-*"), key=lambda p: int(p.name.removeprefix("checkpoint-")))
            shutil.rmtree(oldest)
    accelerator.wait_for_everyone()


def fit(
    step: Callable[[int], dict[str, torch.Tensor]],
    *,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    schedule: Schedule,
    output_dir: Path,
    ema: EMAModel,
    parameters: list[torch.nn.Parameter],
    resume: bool = False,
    validate: Callable[[], dict[str, float]] | None = None,
) -> Progress:
    """Train until the schedule is done; return the progress.

    `step(index)` does forward, backward and the optimizer step and returns scalars to log. `validate()` runs beside
    each checkpoint, with the EMA weights swapped in. Raises ValueError when asked to resume without a checkpoint.
    """
    progress = Progress()
    accelerator.register_for_checkpointing(progress, ema)
    if resume:
        checkpoint = latest_checkpoint(output_dir)
        if checkpoint is None:
            raise ValueError(
                f"{output_dir} holds no checkpoint-<step> to resume from; leave out --resume_from_checkpoint"
            )
        accelerator.load_state(str(checkpoint))
        logger.info("resumed from %s at step %d", checkpoint, progress.step)

    bar = tqdm(total=schedule.max_train_steps, initial=progress.step, disable=not accelerator.is_local_main_process)
    averages: dict[str, float] = {}
    saved_at = reported_at = progress.seconds
    while (done := schedule.done(progress)) < 1:
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * cosine(done)
        logs = step(progress.step)
        ema.step(parameters)
        progress.step += 1
        progress.seconds += time.monotonic() - started

        # Report status
        for name, value in logs.items():
            averages[name] = 0.98 * averages.get(name, float(value)) + 0.02 * float(value)
        bar.update()
        if progress.seconds - reported_at > 15:
            reported_at = progress.seconds
            bar.set_postfix({k: f"{v:.5f}" for k, v in averages.items()} | {"done": f"{done:.3f}"})

        # Save checkpoint
        if progress.seconds - saved_at > 60 * schedule.checkpointing_minutes or schedule.done(progress) >= 1:
            saved_at = progress.seconds
            save_checkpoint(accelerator, progress, output_dir, schedule.checkpoints_total_limit)
            if validate is not None:
                ema.store(parameters)
                ema.copy_to(parameters)
                report = " ".join(f"{k}={v:.4f}" for k, v in validate().items())
                ema.restore(parameters)
                bar.write(f"step {progress.step} minute {progress.seconds / 60:.1f} {report}")
    bar.close()
    return progress
