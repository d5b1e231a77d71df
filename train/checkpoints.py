"""Checkpoints of a run: written whole or not at all, rotated, and read back to the bit.

`<output_dir>/checkpoint-<step>` holds what accelerate saves (weights, optimizer, gradient scaler, random states of every
process), `progress.json`, `run.yaml` (the settings), and one safetensors file for each further state: what all processes
share (`ema`) once; what each has for itself (the pair pool, and torch's random numbers, for accelerate's own file of them
is skipped without a word when it is damaged) once a process.
"""

import json
import logging
import os
import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from resdiff.train.progress import Progress

logger = logging.getLogger(__name__)

PARTIAL = "partial-"
SETTINGS = "run.yaml"
RANDOM = "random"
UNREADABLE = (  # what reading half a file, an empty or a foreign one can end with
    OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError,
)  # fmt: skip


class Stateful(Protocol):
    """State that a checkpoint keeps as tensors."""

    def tensors(self) -> dict[str, Tensor]: ...

    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...


def checkpoint_step(folder: Path) -> int | None:
    """Return the step of a `checkpoint-<step>` folder, None for other names."""
    prefix, _, number = folder.name.partition("-")
    return int(number) if prefix == "checkpoint" and number.isdecimal() else None


def all_checkpoints(output_dir: Path) -> list[Path]:
    """Return the checkpoints below `output_dir`, oldest first, by number."""
    found = [(step, path) for path in output_dir.glob("checkpoint-*") if (step := checkpoint_step(path)) is not None]
    return [path for _, path in sorted(found)]


def find_checkpoint(output_dir: Path, wanted: str) -> Path | None:
    """Return the folder that `--resume_from_checkpoint` means; None for "latest" when there is none yet.

    Raises ValueError for a folder that does not exist or is no finished checkpoint.
    """
    if wanted == "latest":
        return next(reversed(all_checkpoints(output_dir)), None)
    folder = Path(wanted) if Path(wanted).is_dir() else output_dir / wanted
    if not (folder / "progress.json").is_file():
        raise ValueError(
            f"--resume_from_checkpoint {wanted} is no checkpoint; pass latest or a checkpoint-<step> folder"
        )
    return folder


@dataclass(kw_only=True)
class Checkpoints:
    """Where and how a run saves itself."""

    accelerator: Accelerator
    output_dir: Path
    settings: str = ""  # YAML of the run, kept beside the weights that it belongs to
    total_limit: int = 2
    shared: dict[str, Stateful] = field(default_factory=dict)
    per_process: dict[str, Stateful] = field(default_factory=dict)

    def save(self, progress: Progress) -> bool:
        """Write `checkpoint-<step>`; all processes call it. Returns whether it was written.

        Everything goes into a folder of another name first, which is renamed at the end; only then the oldest
        checkpoints are dropped. When the disk is full, what was begun is removed, the last good checkpoint stays, and
        one line says so.
        """
        target = self.output_dir / f"checkpoint-{progress.step}"
        partial = self.output_dir / f"{PARTIAL}{progress.step}"
        problem = ""
        try:
            self._write(partial, progress)
            flush(partial)
        except (OSError, RuntimeError, SafetensorError) as error:  # torch says RuntimeError when it cannot write
            problem = " ".join(str(error).split())
        if not self._all(not problem):
            if self.accelerator.is_main_process:
                shutil.rmtree(partial, ignore_errors=True)
                logger.error("checkpoint-%d could not be written, the last one stays: %s", progress.step, problem)
            self.accelerator.wait_for_everyone()
            return False
        if self.accelerator.is_main_process:
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            for old in all_checkpoints(self.output_dir)[: -self.total_limit]:
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        return True

    def load(self, folder: Path, progress: Progress) -> None:
        """Restore everything from a checkpoint, `progress` in place; all processes call it.

        Raises ValueError when it is damaged or was written by another number of processes that had state of their own.
        """
        rank = self.accelerator.process_index
        try:
            progress.restore(json.loads((folder / "progress.json").read_text()))
            self.accelerator.load_state(str(folder))
            load_random_state(folder / f"{RANDOM}-{rank}.safetensors")
            for name, state in self.shared.items():
                state.load_tensors(load_file(folder / f"{name}.safetensors"))
            for name, state in self.per_process.items():
                state.load_tensors(load_file(folder / f"{name}-{rank}.safetensors"))
        except UNREADABLE as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise ValueError(
                f"{folder} is damaged, or of another number of processes ({reason}); remove it to go on from the one before"
            ) from error

    def begin(self) -> None:
        """Make the folder, write down the settings, and remove what a run that was killed while saving left behind."""
        if self.accelerator.is_main_process:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            (self.output_dir / SETTINGS).write_text(self.settings, encoding="utf-8")
            for folder in self.output_dir.glob(f"{PARTIAL}*"):
                shutil.rmtree(folder, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path, progress: Progress) -> None:
        self.accelerator.save_state(str(folder))
        save_tensors(random_state(), folder / f"{RANDOM}-{self.accelerator.process_index}.safetensors")
        for name, state in self.per_process.items():
            save_tensors(state.tensors(), folder / f"{name}-{self.accelerator.process_index}.safetensors")
        if self.accelerator.is_main_process:
            for name, state in self.shared.items():
                save_tensors(state.tensors(), folder / f"{name}.safetensors")
            (folder / "progress.json").write_text(json.dumps(progress.state()))
            (folder / SETTINGS).write_text(self.settings, encoding="utf-8")

    def _all(self, fine: bool) -> bool:
        """Whether every process says so."""
        if self.accelerator.distributed_type == DistributedType.NO:
            return fine
        agreed = self.accelerator.reduce(torch.tensor(float(fine), device=self.accelerator.device), reduction="sum")
        return int(agreed) == self.accelerator.num_processes


def random_state() -> dict[str, Tensor]:
    """Return the state of torch's own generators of this process."""
    devices = range(torch.cuda.device_count())
    return {"cpu": torch.get_rng_state()} | {f"cuda.{i}": torch.cuda.get_rng_state(i) for i in devices}


def load_random_state(path: Path) -> None:
    """Restore what `random_state` returned; a process that the saving run did not have keeps its own."""
    if not path.is_file():
        if path.with_name(f"{RANDOM}-0.safetensors").is_file():
            logger.warning(
                "%s was written by fewer processes: this one starts with random numbers of its own", path.parent
            )
            return
        raise ValueError(f"{path.name} is missing")
    state = load_file(path)
    torch.set_rng_state(state["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{i}"], i)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, which wants each contiguous and in memory of its own."""
    save_file({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, path)


def flush(folder: Path) -> None:
    """Make sure that the files of a folder are on the disk before the folder gets its final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
