"""The work of a benchmark: restoring the images that are missing, then computing the figures that are missing.

Both walk over one list of images, of which each process takes its share. What is done lies in the run folder, image by
image, so neither the number of processes nor a stop changes a number.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from resdiff.checkpoints.cache import cache_dir
from resdiff.eval.harness.cost import measured
from resdiff.eval.harness.images import as_images
from resdiff.eval.harness.models import Model
from resdiff.eval.harness.run_folder import Record, RunFolder, read_record, sha256, write_record
from resdiff.eval.harness.testsets import Sample, TestSet, find_results, lr_photo, make_lr, read_image
from resdiff.files.formats import temporary_beside
from resdiff.metrics.protocols import Protocol
from resdiff.metrics.suite import Images, Suite
from resdiff.pictures import Picture, save_picture
from resdiff.runs.restorer import Restorer


@dataclass(frozen=True)
class Share:
    """What this process does of everything: every `count`-th from the `index`-th."""

    index: int = 0
    count: int = 1


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


def write_lr(testset: TestSet, folder: RunFolder, share: Share) -> TestSet:
    """Write the LR images that a degradation makes, and return the set with these files."""
    if testset.degradation is None:
        return testset
    own = range(share.index, len(testset.samples), share.count)
    samples = []
    for i, sample in enumerate(testset.samples):
        path = folder.made_lr(testset.name, sample.name)
        if i in own and not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            hr = read_image(sample.hr)
            lr = make_lr(hr, testset.degradation, testset.seed, sample.name)
            save_picture(Picture(lr.movedim(0, -1).contiguous().numpy()), path)
        samples.append(replace(sample, lr=path))
    return replace(testset, samples=tuple(samples))


def restore(tasks: Iterable[Task], restorer: Restorer, share: Share, before_mib: float) -> int:
    """Make the images of one model that are missing; return how many this process made.

    Args:
        tasks: of that model.
        before_mib: memory that was held before the model was opened; the peaks are counted above it.
    """
    missing = [t for t in tasks if read_record(t.record, t.image) is None]
    device = restorer.pipe.device
    own = missing[share.index :: share.count]
    for task in _with_bar(own, f"restoring with {own[0].model.name}" if own else "", share):
        photo = lr_photo(task.testset, task.sample)
        (restored,), cost = measured(lambda photo=photo: restorer([photo]), device)
        task.image.parent.mkdir(parents=True, exist_ok=True)
        save_picture(restored.picture, task.image)
        peak = cost.peak_mib - before_mib
        record = Record(sha256=sha256(task.image), seconds=cost.seconds, peak_mib=peak if math.isfinite(peak) else None)
        write_record(task.record, record)
    return len(own)


def measure(tasks: Sequence[Task], suite: Suite, protocol: Protocol, share: Share) -> int:
    """Compute the figures that are missing; return of how many images this process computed some."""
    count = 0
    for task in _with_bar(tasks[share.index :: share.count], "measuring", share):
        record = read_record(task.record, task.image) or Record(sha256=sha256(task.image))
        missing = [name for name in suite.of_image if name not in record.figures]
        if missing:
            record.figures |= suite.measure(images_of(task, protocol, suite.device), missing)
            write_record(task.record, record)
            count += 1
        if suite.of_set and task.sample.hr is not None:
            features(suite, task.image, record.sha256)
            features(suite, task.sample.hr, sha256(task.sample.hr))
    return count


def images_of(task: Task, protocol: Protocol, device: torch.device) -> Images:
    """Read the images of a task as the protocol compares them. Raises ValueError, one line, when one cannot be read."""
    lr = lr_photo(task.testset, task.sample)
    hr = None if task.sample.hr is None else read_image(task.sample.hr)
    return as_images(read_image(task.image), hr, lr, grey_is_luma=protocol.grey_is_luma, device=device)


def features(suite: Suite, image: Path, digest: str) -> Tensor:
    """Return the features (D,) of an image file, which are kept in the cache: HR images serve every run."""
    weights = next(iter(suite.columns[suite.of_set[0]].weights.values()))
    path = cache_dir() / "features" / weights[:16] / f"{digest}.safetensors"
    if path.is_file():
        return load_file(path)["features"]
    found = suite.features(read_image(image)[None].to(suite.device))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        save_file({"features": found}, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return found


def _with_bar(tasks: Sequence[Task], title: str, share: Share) -> "tqdm[Task]":
    return tqdm(tasks, desc=title, unit="image", file=sys.stderr, disable=share.index > 0 or not tasks)
