"""What a piece of work takes: seconds of wall time and peak memory, on a CPU or a GPU."""

import contextlib
import ctypes
import functools
import gc
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
logger = logging.getLogger("resdiff")


@dataclass(frozen=True)
class Cost:
    """Seconds of wall time, and the most memory held meanwhile."""

    seconds: float
    peak_mib: float  # on a GPU of its allocator, else of the process; NaN where the system does not tell


def measured(run: Callable[[], T], device: torch.device) -> tuple[T, Cost]:
    """Return what `run` returns and what it took, waiting for the device before and after."""
    reset_peak(device)
    synchronize(device)
    started = time.perf_counter()
    result = run()
    synchronize(device)
    return result, Cost(time.perf_counter() - started, peak_mib(device))


def synchronize(device: torch.device) -> None:
    """Wait until `device` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def reset_peak(device: torch.device) -> None:
    """Let the peak start again from here, where the kernel allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        _warn_once()


@functools.cache
def _warn_once() -> None:
    logger.warning("the peak of memory cannot be reset here: it is that of the whole process so far")


def peak_mib(device: torch.device) -> float:
    """Return the peak since `reset_peak`, MiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resident_mib("VmHWM")


def held_mib(device: torch.device) -> float:
    """Return what is held now, MiB, after what is free was given back: a peak above it is what the work took."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**20
    with contextlib.suppress(
        OSError, AttributeError, TypeError
    ):  # glibc only; else memory that was freed counts as held
        ctypes.CDLL(None).malloc_trim(0)
    return resident_mib("VmRSS")


def resident_mib(field: str) -> float:
    """Return a size of this process in MiB: VmRSS now, or VmHWM its peak; NaN where the kernel has no /proc."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return math.nan
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
