"""The training samples: crops of photos, each a pure function of (seed, index) and the files.

Samples are numbered 0, 1, 2, ... without end, over all processes: sample i is the same whichever worker, process or
batch it falls into, and whether or not the run was interrupted. The published datasets draw from the global generators
of Python, NumPy and torch, so that theirs depend on the number of workers and start anew when a run is resumed; they
also pad photos that are smaller than a crop by reflection (ResShift), where `resdiff.data.scan` leaves them out.
"""

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from resdiff.data.crops import Augmentation, cut
from resdiff.data.degradation.base import Degradation
from resdiff.data.photos import UnreadablePhoto
from resdiff.data.scan import Scan, TrainingFile
from resdiff.data.store import DiskStore, MemoryStore, Pair, PhotosIn, fits_memory

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Sample:
    """One crop and what belongs to it."""

    index: int
    hr: Tensor  # uint8 (3, H, W)
    lr: Tensor | None  # uint8 (3, H/scale, W/scale); None where the degradation makes it
    draw: Any | None  # of the degradation
    caption: str
    tags: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples side by side."""

    index: list[int]
    hr: Tensor  # float32 (B, 3, H, W) in [0, 1]
    lr: Tensor | None  # float32 (B, 3, H/scale, W/scale) in [0, 1]
    draws: list[Any]
    captions: list[str]
    tags: list[tuple[str, ...]]

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its pixels on `device`."""
        return self._with(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory, unless it is on a device; what DataLoader's `pin_memory` calls."""
        return self._with(lambda x: x.pin_memory() if x.device.type == "cpu" else x)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return replace(self, hr=change(self.hr), lr=None if self.lr is None else change(self.lr))


def collate(samples: Sequence[Sample]) -> Batch:
    """Put samples into a batch; a `collate_fn` for DataLoader."""
    lows = [sample.lr for sample in samples if sample.lr is not None]
    return Batch(
        index=[sample.index for sample in samples],
        hr=torch.stack([sample.hr for sample in samples]).float() / 255,
        lr=torch.stack(lows).float() / 255 if lows else None,
        draws=[sample.draw for sample in samples],
        captions=[sample.caption for sample in samples],
        tags=[sample.tags for sample in samples],
    )


def sample_generator(seed: int, index: int, stream: str = "sample") -> torch.Generator:
    """Return the CPU generator of number `index` of a run seeded with `seed`.

    The three are hashed, so that neighbours share nothing. A sample's crop and degradation come from the stream
    "sample"; who draws something else for it, such as its timestep, names a stream of his own.
    """
    digest = hashlib.blake2b(f"{stream} {seed} {index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


def device_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Return a generator on `device` that a CPU generator seeds, for fields too large to be sent there; on a CPU itself."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Return the order in which an epoch shows `count` photos: a permutation of 0 .. count-1, int64."""
    return torch.randperm(count, generator=sample_generator(seed, epoch, stream="epoch"))


_recent_order = functools.lru_cache(maxsize=2)(epoch_order)  # a batch may reach into the next epoch


class TrainingSet(Dataset[Sample]):
    """Samples 0, 1, 2, ... without end; every photo once per `num_photos` samples, in a new order each time.

        data = TrainingSet(scan("photos", crop=(256, 256)), crop=(256, 256))
        DataLoader(data, batch_size=16, sampler=range(first, last), collate_fn=collate, num_workers=2)

    A photo that turns out to be unreadable when it is decoded is reported once, as a warning, and the next one of the
    epoch takes its place.
    """

    def __init__(
        self,
        found: Scan,
        *,
        crop: tuple[int, int],  # height and width of the HR crops, px
        scale: int = 4,  # HR side over LR side of pairs; without LR partners it plays no part
        seed: int = 0,
        augmentation: Augmentation = "poses",  # flip: mirrored or not; poses: the 8 of a rectangle
        rescale: bool = False,  # reduce each photo first until its shorter side is the crop's (ResShift on ImageNet)
        photos_in: PhotosIn = "auto",  # auto: memory where a third of what is free holds all pixels, else disk
        device: torch.device | None = None,  # of the pixels with photos_in="device", which takes no workers
        degradation: Degradation[Any] | None = None,  # draws of it go with each sample
    ) -> None:
        """Raise ValueError, in one line, when the arguments do not go together or no photo can be decoded."""
        files = found.used
        _check(files, crop, scale, augmentation, rescale, photos_in, device, degradation)
        self.files, self.crop, self.scale, self.seed = files, crop, scale, seed
        self.augmentation, self.degradation = augmentation, degradation
        # with transposed crops, photos are reduced to what holds both
        cover = None if not rescale else (max(crop), max(crop)) if augmentation == "poses" else crop
        disk = DiskStore(self.files, scale, cover)
        if photos_in == "auto":
            photos_in = "memory" if fits_memory(sum(map(disk.num_bytes, range(len(files))))) else "disk"
        self.photos_in = photos_in
        self._store: DiskStore | MemoryStore = disk
        self._reported = torch.zeros(len(files), dtype=torch.bool).share_memory_()  # by any of the workers
        if photos_in != "disk":
            self._store = MemoryStore(disk, device if photos_in == "device" else None)
            for photo in self._store.unreadable:
                self._read(photo)
            self._photo(0)  # raises when none is left

    @property
    def num_photos(self) -> int:
        """Length of an epoch in samples."""
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`; raises IndexError below 0 and ValueError when no photo can be decoded."""
        index = int(index)
        if index < 0:
            raise IndexError(f"index is {index}; samples are numbered from 0")
        photo, pair = self._photo(index)
        generator = sample_generator(self.seed, index)
        hr, lr = cut(pair, self.crop, self.scale, self.augmentation, generator)
        draw = None if self.degradation is None else self.degradation.draw(*self.crop, generator)
        return Sample(index, hr, lr, draw, self.files[photo].caption, self.files[photo].tags)

    def _photo(self, index: int) -> tuple[int, Pair]:
        epoch, position = divmod(index, self.num_photos)
        order = _recent_order(self.seed, epoch, self.num_photos)
        for place in range(position, position + self.num_photos):
            photo = int(order[place % self.num_photos])
            pair = self._read(photo)
            if pair is not None:
                return photo, pair
        raise ValueError(f"none of the {self.num_photos} photos can be decoded; `resdiff data check` tells why")

    def _read(self, photo: int) -> Pair | None:
        try:
            return self._store.read(photo)
        except UnreadablePhoto as error:
            if not self._reported[photo]:
                self._reported[photo] = True
                logger.warning("%s; the next photo takes its place", error)
            return None


def _check(
    files: Sequence[TrainingFile],
    crop: tuple[int, int],
    scale: int,
    augmentation: str,
    rescale: bool,
    photos_in: str,
    device: torch.device | None,
    degradation: Degradation[Any] | None,
) -> None:
    if not files:
        raise ValueError("nothing is used of the photos found; pass a scan that uses some")
    if augmentation not in get_args(Augmentation):
        raise ValueError(f"augmentation is {augmentation!r}; choose {', '.join(get_args(Augmentation))}")
    if photos_in not in get_args(PhotosIn):
        raise ValueError(f"photos_in is {photos_in!r}; choose {', '.join(get_args(PhotosIn))}")
    if photos_in == "device" and device is None:
        raise ValueError("photos_in is 'device' and device is None; pass the device")
    small = next((file for file in files if file.height < crop[0] or file.width < crop[1]), None)
    if min(crop) < 1 or small is not None:
        beyond = f"; {small.hr} is {small.width}x{small.height}" if small else ""
        raise ValueError(f"crop is {crop}{beyond}; pass a size that every photo holds, as scan sorts them out")
    paired = sum(file.lr is not None for file in files)
    if paired not in (0, len(files)):
        raise ValueError(f"{paired} of {len(files)} files have an LR partner; pass pairs or photos, not both")
    if paired and (crop[0] % scale or crop[1] % scale):
        raise ValueError(f"crop is {crop}, which pairs of scale {scale} cannot be cut to; pass multiples of {scale}")
    if paired and (rescale or degradation is not None):
        what = "rescale" if rescale else "degradation"
        raise ValueError(f"{what} is given, but the files have LR partners already; leave it out, or them")
