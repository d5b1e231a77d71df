"""Where a training set's pixels lie: decoded anew for every sample, or held as uint8 in memory or on the device."""

import itertools
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import psutil
import torch
from torch import Tensor

from resdiff.data.photos import Skipped, UnreadablePhoto, covering, read_pixels, reduce_area
from resdiff.data.scan import TrainingFile

PhotosIn = Literal["auto", "memory", "disk", "device"]
Pair = tuple[Tensor, Tensor | None]  # HR (3, H, W) and LR (3, H/scale, W/scale), uint8


class DiskStore:
    """Photos that are decoded each time they are asked for."""

    def __init__(
        self,
        files: Sequence[TrainingFile],
        scale: int,  # HR side over LR side of pairs
        cover: tuple[int, int] | None,  # photos are reduced until they just cover this (h, w), px; None: they are not
    ) -> None:
        self.files, self.scale, self.cover = files, scale, cover

    def size(self, i: int) -> tuple[int, int]:
        """Return (height, width) of the HR photo as `read` gives it."""
        file = self.files[i]
        return (file.height, file.width) if self.cover is None else covering(file.height, file.width, self.cover)

    def lr_size(self, i: int) -> tuple[int, int]:
        """Return (height, width) of the LR photo, (0, 0) when there is none."""
        height, width = self.size(i)
        return (height // self.scale, width // self.scale) if self.files[i].lr else (0, 0)

    def num_bytes(self, i: int) -> int:
        """Return what HR and LR photo take as uint8."""
        return 3 * sum(height * width for height, width in (self.size(i), self.lr_size(i)))

    def read(self, i: int) -> Pair:
        """Decode photo `i` and its LR partner; raises UnreadablePhoto."""
        file = self.files[i]
        hr = read_pixels(file.hr)
        if hr.shape[-2:] != (file.height, file.width):
            raise UnreadablePhoto(file.hr, f"is of {hr.shape[-1]}x{hr.shape[-2]}, not of the size in its header")
        hr = reduce_area(hr, self.size(i))
        if file.lr is None:
            return hr, None
        lr = read_pixels(file.lr)
        if lr.shape[-2:] != self.lr_size(i):
            raise UnreadablePhoto(file.lr, f"is of {lr.shape[-1]}x{lr.shape[-2]}, not of the size in its header")
        return hr, lr


class MemoryStore:
    """All photos, decoded once, in one uint8 tensor: forked and spawned workers share it, a device gets it in one copy."""

    def __init__(self, disk: DiskStore, device: torch.device | None = None) -> None:
        count = len(disk.files)
        self._sizes = [(disk.size(i), disk.lr_size(i)) for i in range(count)]
        self._starts = [0, *itertools.accumulate(disk.num_bytes(i) for i in range(count))]
        self._pixels = torch.empty(self._starts[-1], dtype=torch.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding the interpreter
            found = list(pool.map(lambda i: self._fill(disk, i), range(count)))
        self.unreadable = {i: skipped for i, skipped in enumerate(found) if skipped is not None}
        if device is not None:
            self._pixels = self._pixels.to(device)

    def _fill(self, disk: DiskStore, i: int) -> Skipped | None:
        try:
            pair = disk.read(i)
        except UnreadablePhoto as error:
            return Skipped(error.path, error.reason)
        for held, read in zip(self._views(i), pair, strict=True):
            if held is not None and read is not None:
                held.copy_(read)
        return None

    def _views(self, i: int) -> Pair:
        (height, width), (lr_height, lr_width) = self._sizes[i]
        pixels, border = self._pixels[self._starts[i] : self._starts[i + 1]], 3 * height * width
        lr = pixels[border:].view(3, lr_height, lr_width) if lr_height else None
        return pixels[:border].view(3, height, width), lr

    def read(self, i: int) -> Pair:
        """Return views of the pixels held; raises UnreadablePhoto."""
        if i in self.unreadable:
            raise UnreadablePhoto(self.unreadable[i].path, self.unreadable[i].reason)
        return self._views(i)


def fits_memory(num_bytes: int) -> bool:
    """Whether a third of the free memory, shared with the other processes of this machine, holds `num_bytes`."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun and accelerate set it
    return num_bytes * processes <= psutil.virtual_memory().available // 3
