"""`fit`: the loop that every training script shares.

It counts, times, logs, averages weights, saves, validates and stops; it knows neither models nor losses nor optimizers.
The script hands in `step(batch, progress) -> logs`, one optimizer step (or several, of several networks) on whatever the
batches are. A batch is a function of the position in the data alone, so a resumed run sees those it would have seen.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm

from resdiff.runs.launcher import RunAborted
from resdiff.train.checkpoints import Checkpoints, save_tensors
from resdiff.train.ema import Ema
from resdiff.train.progress import Limits, Progress, Rhythm
from resdiff.train.stopping import StopSignals
from resdiff.train.update import BadLoss

logger = logging.getLogger(__name__)

Batch = TypeVar("Batch")
BAD_STEPS_IN_A_ROW = 10  # after so many skipped steps the run is not going to recover


def fit(
    step: Callable[[Batch, Progress], dict[str, float]],
    batches: Iterator[Batch],  # endless, from `progress.samples` on
    *,
    samples_per_step: int,  # over all processes and micro-batches
    progress: Progress,  # changed in place
    limits: Limits,
    rhythm: Rhythm,
    checkpoints: Checkpoints,
    ema: Ema | None = None,
    validate: Callable[[], dict[str, float]] | None = None,  # runs in the main process, with the averaged weights
    tensors_of: Callable[[Any], dict[str, Tensor]] | None = None,  # what to save of a micro-batch with a bad loss
    on_bad_loss: Literal["skip", "abort"] = "skip",
) -> bool:
    """Train until the limits are reached; return whether they were (False: a signal stopped the run, after saving).

    Raises RunAborted when a bad loss shall abort the run or when ten came in a row; the last checkpoint stays.
    """
    accelerator, output_dir = checkpoints.accelerator, checkpoints.output_dir
    report = Report(accelerator, output_dir / "metrics.jsonl", progress, limits)
    saved_at, saved_seconds = progress.step, progress.seconds
    with StopSignals() as signals:
        while (done := limits.done(progress)) < 1 and not agree(accelerator, bool(signals.received)):
            started = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - started

            # One step; all processes raise BadLoss alike
            logs: dict[str, float] = {}
            try:
                logs = step(batch, progress)
                progress.bad_steps = 0
                if ema is not None:
                    ema.step()
            except BadLoss as error:
                progress.bad_steps += 1
                saved = save_bad_batch(error.batches, tensors_of, output_dir, progress.step, accelerator.process_index)
                logger.warning("step %d not done: %s; batch saved as %s", progress.step, error, saved)
                if on_bad_loss == "abort" or progress.bad_steps >= BAD_STEPS_IN_A_ROW:
                    raise RunAborted(f"stopped at step {progress.step}: {error}; the batch is in {saved}") from None
            progress.step += 1
            progress.samples += samples_per_step
            progress.seconds += slowest(accelerator, time.monotonic() - started)
            done = limits.done(progress)

            # Report status
            report.add(logs, samples_per_step, waited, time.monotonic() - started)
            if rhythm.logging_steps and progress.step % rhythm.logging_steps == 0:
                report.write(done)

            # Save checkpoint
            steps, minutes = rhythm.checkpointing_steps, rhythm.checkpointing_minutes
            due = bool(steps and progress.step % steps == 0)
            due |= bool(minutes and progress.seconds - saved_seconds > 60 * minutes)
            if due or done >= 1:
                checkpoints.save(progress)
                saved_at, saved_seconds = progress.step, progress.seconds

            # Validate with the averaged weights
            every = rhythm.validation_steps
            due = progress.step % every == 0 if every else saved_at == progress.step
            if validate is not None and (due or done >= 1):
                run_validation(validate, report, accelerator, ema)
        if finished := done >= 1:
            report.write(done)
        report.close()
        if finished and progress.bad_steps == progress.step:
            raise RunAborted(f"none of the {progress.step} steps could be done; bad-batch-* hold what they saw")
        if finished:
            return True
        if saved_at != progress.step:
            checkpoints.save(progress)
    name = signals.received or "a signal to another process"
    logger.info("stopped by %s at step %d; --resume_from_checkpoint latest goes on", name, progress.step)
    return False


def agree(accelerator: Accelerator, wanted: bool) -> bool:
    """Whether any process wants to: a signal may reach them at different steps, and all must leave at the same one."""
    return wanted if accelerator.distributed_type == DistributedType.NO else slowest(accelerator, float(wanted)) > 0


def slowest(accelerator: Accelerator, value: float) -> float:
    """Return the largest value of all processes; clocks differ, and decisions by time must not."""
    if accelerator.distributed_type == DistributedType.NO:
        return value
    return float(accelerator.gather(torch.tensor([value], dtype=torch.float32, device=accelerator.device)).max())


def run_validation(
    validate: Callable[[], dict[str, float]], report: "Report", accelerator: Accelerator, ema: Ema | None
) -> None:
    """Validate in the main process; the random state of training stays as it is."""
    with ema.applied() if ema is not None else nullcontext():
        if accelerator.is_main_process:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                try:
                    report.validation(validate())
                except RuntimeError as error:  # not finite, or out of memory: training itself goes on
                    logger.warning("validation failed: %s", " ".join(str(error).split()))
    accelerator.wait_for_everyone()


def save_bad_batch(
    batches: Sequence[Any],
    tensors_of: Callable[[Any], dict[str, Tensor]] | None,
    output_dir: Path,
    step: int,
    rank: int,
) -> Path:
    """Write what a process trained on in a step that went wrong; return the file's name. The newest few are kept."""
    path = output_dir / f"bad-batch-{step}-{rank}.safetensors"
    saved = sorted(output_dir.glob(f"bad-batch-*-{rank}.safetensors"), key=lambda p: p.stat().st_mtime)
    for old in saved[: max(0, len(saved) + 1 - BAD_STEPS_IN_A_ROW)]:
        old.unlink()
    if tensors_of is not None:
        named = {f"{i}.{name}": x for i, batch in enumerate(batches) for name, x in tensors_of(batch).items()}
        try:
            save_tensors(named, path)
        except (OSError, SafetensorError) as error:
            logger.warning("%s could not be written: %s", path, error)
    return path


def keep_lines(path: Path, last_step: int) -> None:
    """Keep the lines of a metrics file up to a step, except one that a kill left half written."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            if json.loads(line)["step"] <= last_step:
                kept.append(line)
        except json.JSONDecodeError:
            logger.warning("%s: dropped a broken line", path)
    new = path.with_suffix(".new")
    new.write_text("".join(f"{line}\n" for line in kept))
    new.replace(path)


class Report:
    """Progress bar, trackers and `metrics.jsonl` of the main process: means since the last line.

    `metrics.jsonl` has one object a line: step, minutes, the means of what `step` returned, images_per_second and
    data_wait (share of the time), or the validation's figures. A resumed run drops the lines it is going to repeat.
    """

    def __init__(self, accelerator: Accelerator, path: Path, progress: Progress, limits: Limits):
        self.accelerator, self.path, self.progress, self.limits = accelerator, path, progress, limits
        self.active = accelerator.is_main_process
        if self.active:
            keep_lines(path, progress.step)
        total = limits.max_train_steps
        self.bar = tqdm(total=total, initial=progress.step, unit="step", disable=not self.active, mininterval=1)
        self.started, self.done_at_start = time.monotonic(), limits.done(progress)
        self.images = 0
        self.waited = self.took = 0.0

    def add(self, logs: dict[str, float], images: int, waited: float, took: float) -> None:
        """Take one step in."""
        # checkpoints keep them: a resumed run logs the means of an uninterrupted one
        sums, counts = self.progress.sums, self.progress.counts
        for name, value in logs.items():
            sums[name] = sums.get(name, 0.0) + value
            counts[name] = counts.get(name, 0) + 1
        self.images, self.waited, self.took = self.images + images, self.waited + waited, self.took + took
        self.bar.update()

    def write(self, done: float) -> None:
        """Write the means since the last call, if there were any steps."""
        if not self.took:
            return
        means = {name: value / self.progress.counts[name] for name, value in self.progress.sums.items()}
        speed = {"images_per_second": self.images / self.took, "data_wait": self.waited / self.took}
        self.progress.sums, self.progress.counts = {}, {}
        self.images, self.waited, self.took = 0, 0.0, 0.0
        self._log(means | speed)
        passed = time.monotonic() - self.started
        share = done - self.done_at_start
        left = passed / share * (1 - done) if share > 0 else float("nan")
        shown = {"loss": f"{means.get('loss', float('nan')):.4g}", "img/s": f"{speed['images_per_second']:.3g}"}
        self.bar.set_postfix(shown | {"wait": f"{speed['data_wait']:.0%}", "left": f"{left / 60:.1f}min"})

    def validation(self, values: dict[str, float]) -> None:
        """Write the figures of a validation, and show them."""
        self._log(values)
        text = " ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.bar.write(f"step {self.progress.step}, minute {self.progress.seconds / 60:.1f}: {text}")

    def _log(self, values: dict[str, float]) -> None:
        self.accelerator.log(values, step=self.progress.step)
        if self.active:
            line = {"step": self.progress.step, "minutes": round(self.progress.seconds / 60, 3)} | values
            try:
                with self.path.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:  # a full disk; the run is worth more than its figures
                logger.warning("%s could not be written: %s", self.path, error)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()
