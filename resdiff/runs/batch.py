"""Many files through one model. Nothing heavy is imported before it is needed.

`run` decodes the next file and encodes the last ones in threads beside a model on a GPU, and goes on after a bad file.
"""

import errno
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from resdiff.files.formats import printable
from resdiff.files.headers import check_result, peek_size
from resdiff.runs.errors import describe
from resdiff.runs.jobs import Job
from resdiff.runs.report import Entry, Report, entry_of
from resdiff.runs.restorer import Restored

if TYPE_CHECKING:
    from tqdm import tqdm

    from resdiff.images import Photo

READ_AHEAD = 2**29  # bytes of a decoded batch up to which it is read while the model works on the one before
WRITE_BEHIND = 2**29  # bytes of finished pictures that may wait to be written
WAITING = 32  # ... and their number, beside two batches
FLOAT_PIXEL = 12  # bytes of a decoded pixel
NO_ROOM = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


class Restore(Protocol):
    """What `run` needs of a model; see `resdiff.runs.restorer.Restorer`."""

    def size(self, photo: "Photo") -> tuple[int, int]:
        """Return the (height, width) of the result for `photo`."""

    def __call__(self, photos: "list[Photo]") -> list[Restored]:
        """Restore photos of one size; same length and order."""


@dataclass(frozen=True, kw_only=True)
class Saving:
    """How results are written; see `resdiff.pictures.save_picture`."""

    quality: int = 95  # of JPEG, WebP and AVIF
    compress_level: int = 1  # of PNG
    strip_metadata: bool = False


@dataclass
class Summary:
    """How a run ended."""

    written: int = 0
    failed: int = 0
    skipped: int = 0
    interrupted: bool = False
    stopped: str | None = None  # why no further file was begun
    report_lost: bool = False  # the report could not be written

    def __str__(self) -> str:
        return f"{self.written} written, {self.failed} failed, {self.skipped} skipped"

    @property
    def exit_code(self) -> int:
        """0 when every file was written or skipped, 1 when any failed or was left out, or the report could not be written."""
        return int(self.failed > 0 or self.interrupted or self.stopped is not None or self.report_lost)


class DiskFull(OSError):
    """Nothing more can be written where the results go."""


class AtOnce(Executor):
    """Does what is submitted at once: where the model fills all cores, threads beside it only make it wait."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Return the finished future of fn(*args, **kwargs)."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def run(
    jobs: Sequence[Job],
    restore: Restore,
    *,
    batch_size: int = 1,  # images per call of the model; only images of one size share a call
    saving: Saving = Saving(),  # frozen
    is_done: Callable[[Job], bool] | None = None,  # whether another process has finished it meanwhile
    summary: Summary | None = None,  # to count on
    report: Report | None = None,
    show_bar: bool = True,
    beside: bool = True,  # whether files are read and written in threads beside the model, or between its calls
    debug: bool = False,  # raise the first failure
) -> Summary:
    """Restore every job's source into its target. A failure is reported in one line on stderr, and the rest go on.

    Beside the model, one batch is read ahead unless it is large, and results wait to be written up to a number of bytes: memory does not
    grow with the number of files. On KeyboardInterrupt, and when the disk is full, no further file is begun; what is
    restored by then is still written.
    """
    from tqdm import tqdm

    batches = deque(_batches(jobs, batch_size))
    bar = tqdm(
        total=len(jobs),
        unit=" images",
        file=sys.stderr,
        disable=not show_bar,
        bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]",
    )
    outcome = _Outcome(summary or Summary(), bar, report, is_done, debug)
    writing: deque[_Writing] = deque()
    # two pools: results that wait for a slow encoder must not keep the next file from being read
    reading: list[_Reading] = []
    pool: Callable[[], Executor] = partial(ThreadPoolExecutor, 2) if beside else AtOnce
    with bar, pool() as readers, pool() as writers:
        try:
            while (reading or batches) and not outcome.summary.stopped:
                ready = reading or _read(readers, restore, batches.popleft())
                ahead = beside and batches and _is_small(batches[0])
                reading = _read(readers, restore, batches.popleft()) if ahead else []
                for made in _restored(_decoded(ready, outcome), restore, outcome):
                    writing.append(_Writing(made, writers.submit(_write, made, saving)))
                while writing and (writing[0].future.done() or _too_many(writing, batch_size)):
                    outcome.finished(writing.popleft())
        except KeyboardInterrupt:
            outcome.summary.interrupted = True
        for one in reading:
            one.future.cancel()
        while writing:
            outcome.finished(writing.popleft())
    return outcome.summary


# --- a file on its way -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    job: Job
    future: "Future[_Decoded]"


@dataclass(frozen=True)
class _Decoded:
    job: Job
    photo: "Photo"
    size_out: tuple[int, int]  # (height, width)
    seconds: float


@dataclass(frozen=True)
class _Made:
    decoded: _Decoded
    restored: Restored
    seconds: float  # reading and restoring


@dataclass(frozen=True)
class _Writing:
    made: _Made
    future: "Future[float]"  # seconds


def _batches(jobs: Sequence[Job], batch_size: int) -> list[list[Job]]:
    """Split the jobs into batches of one image size each, in the order in which a size first appears."""
    if batch_size == 1:
        return [[job] for job in jobs]
    by_size: dict[tuple[int, int] | Path, list[Job]] = {}
    for job in jobs:
        by_size.setdefault(peek_size(job.source) or job.source, []).append(job)
    return [group[i : i + batch_size] for group in by_size.values() for i in range(0, len(group), batch_size)]


def _is_small(batch: list[Job]) -> bool:
    """Whether a batch may lie in memory decoded while another is restored."""
    sizes = [peek_size(job.source) or (0, 0) for job in batch]
    return FLOAT_PIXEL * sum(height * width for height, width in sizes) <= READ_AHEAD


def _too_many(writing: "deque[_Writing]", batch_size: int) -> bool:
    size = sum(one.made.restored.picture.values.nbytes for one in writing)
    return len(writing) > WAITING + 2 * batch_size or size > WRITE_BEHIND


def _read(pool: Executor, restore: Restore, batch: list[Job]) -> list[_Reading]:
    return [_Reading(job, pool.submit(_decode, job, restore)) for job in batch]


def _decode(job: Job, restore: Restore) -> _Decoded:
    from resdiff.images import read_photos

    begun = time.perf_counter()
    photo = read_photos(job.source)[0]
    size_out = restore.size(photo)
    check_result(job.target, *size_out, photo.alpha is not None)  # before the model works on it in vain
    return _Decoded(job, photo, size_out, time.perf_counter() - begun)


def _decoded(batch: list[_Reading], outcome: "_Outcome") -> list[_Decoded]:
    """Return the photos of a batch that could be read and that are still to be restored."""
    decoded = []
    for reading in batch:
        try:
            one = reading.future.result()
        except Exception as error:  # whatever happens to one file must not end the run
            outcome.failed(reading.job, error)
        else:
            if not outcome.done_elsewhere(reading.job):
                decoded.append(one)
    return decoded


def _restored(batch: list[_Decoded], restore: Restore, outcome: "_Outcome") -> Iterator[_Made]:
    if not batch:
        return
    begun = time.perf_counter()
    try:
        results = restore([one.photo for one in batch])
    except Exception as error:  # out of memory, for one
        if len(batch) == 1 or outcome.debug:
            outcome.failed(batch[0].job, error, batch[0])
        else:
            for one in batch:
                yield from _restored([one], restore, outcome)
        return
    share = (time.perf_counter() - begun) / len(batch)
    for one, result in zip(batch, results, strict=True):
        yield _Made(one, result, one.seconds + share)


def _write(made: _Made, saving: Saving) -> float:
    """Save a result; return the seconds it took. Raises OSError in one line."""
    from resdiff.pictures import save_picture

    begun, target = time.perf_counter(), made.decoded.job.target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_picture(
            made.restored.picture,
            target,
            quality=saving.quality,
            compress_level=saving.compress_level,
            strip_metadata=saving.strip_metadata,
        )
    except OSError as error:
        kind = DiskFull if error.errno in NO_ROOM else OSError
        raise kind(
            f"{printable(target)} cannot be written: {error.strerror or error}; choose another output"
        ) from error
    return time.perf_counter() - begun


# --- what became of it -----------------------------------------------------------------------------------------------


@dataclass
class _Outcome:
    """Counts what became of each file, and says what went wrong."""

    summary: Summary
    bar: "tqdm[Any]"
    report: Report | None
    is_done: Callable[[Job], bool] | None
    debug: bool

    def finished(self, writing: _Writing) -> None:
        decoded, restored = writing.made.decoded, writing.made.restored
        try:
            seconds = writing.future.result()
        except Exception as error:  # as in _decoded
            self.failed(decoded.job, error, decoded)
            if isinstance(error, DiskFull):  # restoring the rest would be in vain
                self.summary.stopped = "no room for further results"
            return
        self.summary.written += 1
        picture = restored.picture
        self._add(
            entry_of(
                decoded.job,
                size_in=_width_height(decoded.photo),
                size_out=(picture.width, picture.height),
                seconds=writing.made.seconds + seconds,
                peak_mib=restored.peak_mib,
                tile=restored.tile,
            )
        )

    def failed(self, job: Job, error: Exception, decoded: _Decoded | None = None) -> None:
        if self.debug:
            raise error
        self.summary.failed += 1
        line = describe(error, job.source)
        self.bar.write(f"Error: {line}", file=sys.stderr)
        self._add(entry_of(job, error=line, size_in=decoded and _width_height(decoded.photo)))

    def done_elsewhere(self, job: Job) -> bool:
        if self.is_done is None or not self.is_done(job):
            return False
        self.summary.skipped += 1
        self._add(entry_of(job, skipped=True))
        return True

    def _add(self, entry: Entry) -> None:
        self.bar.update()
        if self.report is None:
            return
        self.report.add(entry)
        try:
            self.report.write_sometimes()
        except OSError as error:  # the images go on; the report is tried again, and at the end it counts
            self.bar.write(f"Warning: {describe(error)}", file=sys.stderr)


def _width_height(photo: "Photo") -> tuple[int, int]:
    return photo.pixels.shape[-1], photo.pixels.shape[-2]
