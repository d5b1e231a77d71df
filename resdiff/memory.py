"""How much memory is free, and whether an error means that none was left."""

import math
import os
from itertools import chain
from pathlib import Path

import psutil
import torch
from torch import nn

ALIGNMENT = 64  # bytes, of torch's allocator for CPUs
CGROUP = Path("/sys/fs/cgroup")
# what torch says where it has no class of its own: the CPU's allocator, cuDNN and cuBLAS, Metal
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def free_memory(device: torch.device) -> int:
    """Return the bytes that a computation on `device` may still take, among the processes of a launcher on it.

    CUDA: what the driver has free and what torch's allocator holds unused. Elsewhere: available main memory, or what
    the containers (cgroups) of this process may still use where that is less.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free // math.ceil(processes / torch.cuda.device_count()) + unused
    return min([psutil.virtual_memory().available, *container_memory()]) // processes


def container_memory(root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the bytes left below each limit that holds for this process (cgroup version 2, or 1).

    What is used includes copies of files, which the system gives up when memory is asked for: they do not count.
    """
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        entries = []
    found = []
    for _, controllers, path in (entry for entry in entries if len(entry) == 3):
        if controllers == "":
            names, base = ("memory.max", "memory.current"), root
        elif "memory" in controllers.split(","):
            names, base = ("memory.limit_in_bytes", "memory.usage_in_bytes"), root / "memory"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(base))):
            try:
                limit, used = (int((folder / name).read_text()) for name in names)
                found.append(max(0, limit - used + _files_in_memory(folder)))
            except (OSError, ValueError):  # no such file, or "max": no limit
                continue
    return found


def _files_in_memory(group: Path) -> int:
    lines = (line.split() for line in (group / "memory.stat").read_text().splitlines())
    sizes = {name: int(size) for name, size in lines}
    kinds = ("inactive_file", "active_file")
    return sum(sizes.get(f"total_{kind}", sizes.get(kind, 0)) for kind in kinds)


def align(network: nn.Module) -> None:
    """Move weights that lie at addresses as a file has them to ones as torch chooses.

    Kernels differ by alignment: after it, a network that was saved and opened gives the same bits.
    """
    for tensor in chain(network.parameters(), network.buffers()):
        if tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT:
            tensor.data = tensor.data.clone()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def give_back() -> None:
    """Return what torch's CUDA allocator holds unused to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
