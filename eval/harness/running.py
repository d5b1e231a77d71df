"""The work of a benchmark: restoring the images that are missing, then computing the figures that are missing.

Both walk over one list of images, of which each process takes its share: always the same part of the whole list,
whatever is done already, so that processes of different speed leave nothing out. What is done lies in the run folder,
image by image, so neither the number of processes nor a stop changes a number.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from resdiff.checkpoints.cache import cache_dir
from resdiff.eval.harness.cost import measured
from resdiff.eval.harness.degrading import make_lr
from resdiff.eval.harness.images import as_images, read_image
from resdiff.eval.harness.models import Model
from resdiff.eval.harness.results import find_results
from resdiff.eval.harness.run_folder import Record, RunFolder, read_record, write_record
from resdiff.eval.harness.testsets import Sample, TestSet
from resdiff.files.digest import sha256
from resdiff.files.formats import printable, written_whole
from resdiff.images import Photo, read_photos
from resdiff.metrics.measures import Images
from resdiff.metrics.protocols import Protocol
from resdiff.metrics.suite import Suite
from resdiff.pictures import Picture, save_picture
from resdiff.runs.jobs import Shard
from resdiff.runs.restorer import Restorer


@dataclass(frozen=True)
class Task:
    """One image of one model."""

    testset: TestSet
    model: Model
    sample: Sample
    image: Path  # the finished image, which another tool may have made
    record: Path

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.testset.name}/{self.sample.name}, {self.model.name}"

    @property
    def lr(self) -> Photo:
        """The LR image, read."""
        if self.sample.lr is None:
            raise ValueError(f"the LR image of {self.label} is not made yet")
        return read_photos(self.sample.lr)[0]


def list_tasks(folder: RunFolder, testsets: Sequence[TestSet], models: Sequence[Model]) -> list[Task]:
    """Return every image of every model. Raises ValueError when another tool's results are missing or do not fit."""
    tasks = []
    for model in models:
        for testset in testsets:
            made = find_results(model.results, testset) if model.results else {}
            for sample in testset.samples:
                place = (testset.name, model.folder, sample.name)
                image = made.get(sample.name) or folder.image(*place)
                tasks.append(Task(testset, model, sample, image, folder.record(*place)))
    return tasks


def with_lr(testset: TestSet, folder: RunFolder) -> TestSet:
    """Return the set with a place for each LR image that a degradation is to make (`write_lr`)."""
    if testset.degradation is None:
        return testset
    return replace(testset, samples=tuple(replace(s, lr=folder.made_lr(testset, s.name)) for s in testset.samples))


def write_lr(testset: TestSet, shard: Shard) -> None:
    """Write those LR images of this process's share that a degradation makes and that are not there."""
    for sample in shard.of(testset.samples):
        if testset.degradation is None or testset.seed is None or sample.hr is None or sample.lr is None:
            continue
        if not sample.lr.is_file():
            sample.lr.parent.mkdir(parents=True, exist_ok=True)
            lr = make_lr(read_image(sample.hr), testset.degradation, testset.seed, sample.name)
            save_picture(Picture(lr.movedim(0, -1).contiguous().numpy()), sample.lr)


def restore(tasks: Sequence[Task], restorer: Restorer, shard: Shard, before_mib: float) -> None:
    """Make those images of this process's share that are missing.

    Args:
        tasks: of the restorer's model.
        before_mib: memory that was held before the model was opened; the peaks are counted above it.
    """
    missing = [task for task in shard.of(tasks) if read_record(task.record, task.image) is None]
    for task in _with_bar(missing, f"restoring with {tasks[0].model.name}", shard):
        photo = task.lr
        (restored,), cost = measured(lambda photo=photo: restorer([photo]), restorer.pipe.device)
        task.image.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_picture(restored.picture, task.image)
        except OSError as error:
            place = printable(task.image)
            raise OSError(f"{place} cannot be written: {error.strerror or error}; what is done is kept") from error
        peak = cost.peak_mib - before_mib
        record = Record(sha256(task.image), cost.seconds, peak if math.isfinite(peak) else None)
        write_record(task.record, record)


def score(tasks: Sequence[Task], suite: Suite, protocol: Protocol, shard: Shard) -> None:
    """Compute the figures that are missing in this process's share."""
    for task in _with_bar(shard.of(tasks), "measuring", shard):
        record = read_record(task.record, task.image) or Record(sha256(task.image))
        missing = [name for name in suite.of_image if name not in record.figures]
        if missing:
            record.figures |= suite.measure(_images(task, protocol, suite.device), missing)
            write_record(task.record, record)
        if suite.of_set and task.sample.hr is not None:
            embedded(suite, task.image)
            embedded(suite, task.sample.hr)


def embedded(suite: Suite, image: Path) -> Tensor:
    """Return what `Suite.embed` gives of an image file; kept in the cache by the file's SHA-256, it serves every run."""
    weights = next(iter(suite.columns[suite.of_set[0]].weights.values()))
    folder = cache_dir() / "features" / f"{weights[:16]}-{suite.device.type}"
    path = folder / f"{sha256(image)}.safetensors"
    try:
        return load_file(path)["features"]
    except (OSError, SafetensorError, KeyError):  # not there, or damaged
        features = suite.embed(read_image(image)[None])
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            save_file({"features": features}, temporary)
        return features


def _images(task: Task, protocol: Protocol, device: torch.device) -> Images:
    """Read what the protocol compares. Raises ValueError, one line, when an image cannot be read or does not fit."""
    hr = None if task.sample.hr is None else read_image(task.sample.hr)
    try:
        return as_images(read_image(task.image), hr, task.lr, grey_is_luma=protocol.grey_is_luma, device=device)
    except ValueError as error:
        raise ValueError(f"{task.label}: {error}") from error


def _with_bar(tasks: Sequence[Task], title: str, shard: Shard) -> "tqdm[Task]":
    return tqdm(tasks, desc=title, unit="image", file=sys.stderr, disable=shard.index > 1 or not tasks)
