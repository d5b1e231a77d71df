"""The document of a run (`resdiff.eval.harness.document`) from its finished images and their records.

All figures come from the images' records; the means, intervals and comparisons are computed here, the figures of whole
sets from the features of their images.
"""

import os
import platform
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from resdiff import __version__
from resdiff.eval.harness.document import (
    ComparisonEntry,
    Document,
    Enlarged,
    FigureColumn,
    ImageEntry,
    Mean,
    ModelEntry,
    ProfileEntry,
    Result,
    SetEntry,
)
from resdiff.eval.harness.images import image_size
from resdiff.eval.harness.planning import Plan
from resdiff.eval.harness.run_folder import read_record
from resdiff.eval.harness.running import Task, embedded
from resdiff.eval.harness.statistics import mean_interval, paired
from resdiff.eval.harness.testsets import TestSet
from resdiff.metrics.suite import Suite

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "Pillow", "lpips", "open_clip_torch", "pyiqa")
MEGA = 1e6


def make_document(
    plan: Plan,
    *,
    settings: Mapping[str, Any],
    records: Mapping[str, Mapping[str, Any]],
    profile: Sequence[Mapping[str, Any]],
) -> Document:
    """Gather the records of all tasks of `plan`.

    Args:
        plan: what was to be done.
        settings: of the command, for people.
        records: model -> what stands for it in run.json.
        profile: rows of `resdiff.eval.harness.profiling.profile`.

    Raises:
        ValueError: a task lacks its image or a figure.
    """
    by_image: dict[tuple[str, str], list[Task]] = {}  # (set, image) -> its task of each model
    by_model: dict[tuple[str, str], list[Task]] = {}  # (set, model) -> its task of each image
    for task in plan.tasks:
        by_image.setdefault((task.testset.name, task.sample.name), []).append(task)
        by_model.setdefault((task.testset.name, task.model.name), []).append(task)
    images = {t.name: [_image(by_image[t.name, s.name], plan) for s in t.samples] for t in plan.testsets}
    models = [model.name for model in plan.models]
    return Document(
        resdiff=__version__,
        command=shlex.join(["python", *sys.argv]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        protocol=asdict(plan.protocol),
        settings=dict(settings),
        versions=versions(),
        machine=machine(),
        figures=[
            FigureColumn(**asdict(c.figure), variant=c.variant, weights=c.weights, missing=c.missing)
            for c in plan.suite.columns.values()
        ],
        models=[
            ModelEntry(name=m.name, folder=m.folder, kind=m.kind, call=dict(m.call), weights=_weights(records[m.name]))
            for m in plan.models
        ],
        sets=[_set(testset, plan.digests[testset.name]) for testset in plan.testsets],
        results=[
            _result(images[t.name], m.name, plan.suite, _of_set(by_model[t.name, m.name], plan.suite))
            for t in plan.testsets
            for m in plan.models
        ],
        comparisons=[c for own in images.values() for c in compare(own, models, plan.baseline, plan.suite.of_image)],
        profile=[ProfileEntry(**row) for row in profile],
        images=[image for own in images.values() for image in own],
    )


def compare(
    images: Sequence[ImageEntry], models: Sequence[str], baseline: str, figures: Sequence[str]
) -> list[ComparisonEntry]:
    """Return the paired differences of the other models to `baseline`, over the images of one set with both values."""
    found = []
    for figure in figures:
        values = {model: [image.models[model].figures[figure] for image in images] for model in models}
        for model in models:
            comparison = paired(values[model], values[baseline])
            if comparison.n and model != baseline:
                place = {"set": images[0].set, "figure": figure, "model": model, "baseline": baseline}
                found.append(ComparisonEntry(**place, **asdict(comparison)))
    return found


def _weights(record: Mapping[str, Any]) -> dict[str, str]:
    return {"networks": record["weights"]} if "weights" in record else {}


def _set(testset: TestSet, digest: str) -> SetEntry:
    return SetEntry(
        name=testset.name,
        images=len(testset.samples),
        has_hr=testset.has_hr,
        source=testset.source,
        degradation=testset.degradation,
        preset=testset.preset,
        seed=testset.seed,
        digest=digest,
    )


def _image(tasks: Sequence[Task], plan: Plan) -> ImageEntry:
    """Return one image from its task of each model. Raises ValueError when one is not finished."""
    models = {task.model.name: _enlarged(task, plan) for task in tasks}
    sample, root = tasks[0].sample, plan.folder.root
    height, width = image_size(tasks[0].image)
    return ImageEntry(
        set=tasks[0].testset.name,
        name=sample.name,
        lr=None if sample.lr is None else _path(sample.lr, root),
        hr=None if sample.hr is None else _path(sample.hr, root),
        height=height,
        width=width,
        models=models,
    )


def _enlarged(task: Task, plan: Plan) -> Enlarged:
    suite, record = plan.suite, read_record(task.record, task.image)
    if record is None or any(name not in record.figures for name in suite.of_image):
        raise ValueError(f"{task.label} is not finished; start the same command again, it goes on where it stopped")
    return Enlarged(
        file=_path(task.image, plan.folder.root),
        seconds=record.seconds,
        peak_mib=record.peak_mib,
        # of a figure that cannot be computed now, an earlier run's number has no variant or weights to stand beside it
        figures={n: None if c.missing else record.figures[n] for n, c in suite.columns.items() if not c.figure.of_set},
    )


def _path(path: Path, root: Path) -> str:
    """Return a path relative to the run folder where it lies in it."""
    absolute, base = path.resolve(), root.resolve()
    return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)


def _result(images: Sequence[ImageEntry], model: str, suite: Suite, of_set: Mapping[str, Mean]) -> Result:
    made = [image.models[model] for image in images]
    figures = {name: of_set[name] if c.figure.of_set else _mean(made, name) for name, c in suite.columns.items()}
    seconds = [one.seconds for one in made if one.seconds is not None]
    peaks = [one.peak_mib for one in made if one.peak_mib is not None]
    timed = [image for image in images if image.models[model].seconds is not None]
    megapixels = sum(image.height * image.width for image in timed) / MEGA
    return Result(
        set=images[0].set,
        model=model,
        figures=figures,
        seconds=statistics.median(seconds) if seconds else None,
        seconds_per_megapixel=sum(seconds) / megapixels if seconds else None,
        peak_mib=max(peaks) if peaks else None,
    )


def _mean(made: Sequence[Enlarged], figure: str) -> Mean:
    values = [one.figures[figure] for one in made]
    mean, low, high = mean_interval(values)
    return Mean(mean=mean, low=low, high=high, n=sum(value is not None for value in values))


def _of_set(tasks: Sequence[Task], suite: Suite) -> dict[str, Mean]:
    """Return the figures of a whole set, of one model."""
    pairs = [(task.image, task.sample.hr) for task in tasks if task.sample.hr is not None]
    values: Mapping[str, float] = {}
    if suite.of_set and len(pairs) > 1:
        sr, hr = (torch.stack([embedded(suite, path) for path in side]) for side in zip(*pairs, strict=True))
        values = suite.measure_set(sr, hr)
    names = [name for name, column in suite.columns.items() if column.figure.of_set]
    return {name: Mean(mean=values.get(name), low=None, high=None, n=len(pairs)) for name in names}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers may depend on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Return what this runs on, in words."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return f"{platform.system()}, {os.cpu_count()} cores of {cpu}" + (f", {', '.join(gpus)}" if gpus else "")


def _cpu_lines() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
