"""How much memory is free, and whether an error means that none was left."""

from pathlib import Path

import psutil
import torch

CGROUP = Path("/sys/fs/cgroup")
# what torch says where it has no class of its own: the CPU's allocator, cuDNN and cuBLAS, Metal
OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def free_memory(device: torch.device) -> int:
    """Return the bytes that a computation on `device` may still take.

    CUDA: what the driver has free and what torch's allocator holds unused. Elsewhere: available main memory, or what
    the container (cgroup) may still use where that is less.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min([psutil.virtual_memory().available, *container_memory()])


def container_memory(folder: Path = CGROUP) -> list[int]:
    """Return the bytes left below the container's limit, as a list of none or one (cgroup version 2, then 1)."""
    for limit, used in (
        (folder / "memory.max", folder / "memory.current"),
        (folder / "memory" / "memory.limit_in_bytes", folder / "memory" / "memory.usage_in_bytes"),
    ):
        try:
            return [max(0, int(limit.read_text()) - int(used.read_text()))]
        except (OSError, ValueError):  # no such file, or "max": no limit
            continue
    return []


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)


def give_back() -> None:
    """Return what torch's CUDA allocator holds unused to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
