"""The array that a result is written into, band by band: in memory, or in a file that only looks like it.

Beyond `IN_MEMORY` bytes the array is mapped from a temporary file without a name, which the system frees when the
array (or the process, however it ends) is gone. Its space is claimed at once: a disk that fills later could only kill
the process.
"""

import errno
import math
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

IN_MEMORY = 2**28  # bytes


def new_canvas(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """Return an array of `shape`, memory-mapped when it is large; its values are not defined yet.

    Raises OSError in one line when the temporary folder has no room for it.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    folder = temporary_folder()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if size >= 2**63:  # no file can be so large
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)  # outlives the file object
    except OSError as error:
        failure = OSError(
            f"the result needs {size / 2**30:.1f} GiB in {folder}: {error.strerror}; set TMPDIR to a folder with room"
        )
        failure.errno = error.errno
        raise failure from error
    return np.frombuffer(mapped, dtype).reshape(shape)


def temporary_folder() -> Path:
    """Return $TMPDIR, else /var/tmp where it is writable (/tmp is often memory), else the system's temporary folder."""
    lasting = Path("/var/tmp")
    if "TMPDIR" not in os.environ and os.access(lasting, os.W_OK | os.X_OK):
        return lasting
    return Path(tempfile.gettempdir())


def release(canvas: np.ndarray) -> None:
    """Let the pages of a memory-mapped canvas leave this process's memory; their content stays. Others: nothing."""
    base = canvas
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    mapped = base.obj if isinstance(base, memoryview) else base
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def to_samples(x: Tensor, dtype: type[np.uint8] | type[np.uint16] | type[np.float32]) -> np.ndarray:
    """Map (C, H, W) in [-1, 1] to (H, W, C): integers rounded half to even over their range, or floats in [0, 1].

    uint8, uint16 or float32. Raises ValueError for NaN or Inf, which would otherwise be written as black.
    """
    if not torch.isfinite(x).all():
        raise ValueError("the image holds NaN or Inf; try dtype float32")
    x = (x.float() * 0.5 + 0.5).clamp(0, 1)
    if dtype != np.float32:
        x = x.mul({np.uint8: 255, np.uint16: 65535}[dtype]).round()
    return x.movedim(0, -1).cpu().numpy().astype(dtype)
