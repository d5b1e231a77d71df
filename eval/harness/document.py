"""benchmark.json: everything that was measured, and everything it depends on."""

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
from resdiff.eval.harness.models import Model
from resdiff.eval.harness.run_folder import Record, RunFolder, read_record, sha256
from resdiff.eval.harness.running import Task, features
from resdiff.eval.harness.statistics import mean_interval, paired
from resdiff.eval.harness.testsets import TestSet, image_size
from resdiff.metrics.protocols import Protocol
from resdiff.metrics.suite import Column, Suite

PACKAGES = ("torch", "diffusers", "transformers", "numpy", "Pillow", "lpips", "open_clip_torch", "pyiqa")
MEGA = 1e6


def make_document(
    folder: RunFolder,
    tasks: Sequence[Task],
    suite: Suite,
    *,
    protocol: Protocol,
    settings: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, str]],  # model -> what stands for its weights
    digests: Mapping[str, str],  # set -> SHA-256
    profile: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Gather the records of all tasks. Raises ValueError when one lacks an image or figure."""
    testsets = list({task.testset.name: task.testset for task in tasks}.values())
    models = list({task.model.name: task.model for task in tasks}.values())
    records = {(t.testset.name, t.model.name, t.sample.name): _complete(t, suite) for t in tasks}
    results = [_result(t, m, tasks, records, suite) for t in testsets for m in models]
    return {
        "resdiff": __version__,
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": asdict(protocol),
        "settings": dict(settings),
        "versions": versions(),
        "machine": machine(),
        "figures": [_figure(column) for column in suite.columns.values()],
        "models": [
            {"name": m.name, "folder": m.folder, "kind": m.kind, "call": m.call, "weights": dict(weights[m.name])}
            for m in models
        ],
        "sets": [
            {
                "name": t.name,
                "images": len(t.samples),
                "has_hr": t.has_hr,
                "source": t.source,
                "degradation": t.degradation,
                "seed": t.seed,
                "digest": digests[t.name],
            }
            for t in testsets
        ],
        "results": results,
        "comparisons": [c for t in testsets for c in _comparisons(t, models, records, suite)],
        "profile": list(profile),
        "images": [_image(t, sample.name, tasks, records, folder.root) for t in testsets for sample in t.samples],
    }


Records = Mapping[tuple[str, str, str], Record]  # (set, model, image)


def _complete(task: Task, suite: Suite) -> Record:
    record = read_record(task.record, task.image)
    if record is None or any(name not in record.figures for name in suite.of_image):
        raise ValueError(f"{task.label} is not finished; start the same command again, it goes on where it stopped")
    return record


def _figure(column: Column) -> dict[str, Any]:
    figure = column.figure
    fields = ("name", "label", "unit", "better", "low", "high", "digits", "of_set")
    own = {name: getattr(figure, name) for name in fields}
    return own | {"variant": column.variant, "weights": column.weights, "missing": column.missing}


def _result(testset: TestSet, model: Model, tasks: Sequence[Task], records: Records, suite: Suite) -> dict[str, Any]:
    own = [t for t in tasks if t.testset.name == testset.name and t.model.name == model.name]
    rows = [records[testset.name, model.name, t.sample.name] for t in own]
    figures: dict[str, Any] = {}
    for name, column in suite.columns.items():
        if not column.figure.of_set:
            values = [row.figures.get(name) for row in rows]
            mean, low, high = mean_interval(values)
            figures[name] = {"mean": mean, "low": low, "high": high, "n": sum(v is not None for v in values)}
    figures |= _of_set(own, suite)
    seconds = [row.seconds for row in rows if row.seconds is not None]
    peaks = [row.peak_mib for row in rows if row.peak_mib is not None]
    megapixels = sum(height * width for height, width in map(image_size, (t.image for t in own))) / MEGA
    return {
        "set": testset.name,
        "model": model.name,
        "figures": figures,
        "seconds": statistics.median(seconds) if seconds else None,
        "seconds_per_megapixel": sum(seconds) / megapixels if seconds else None,
        "peak_mib": max(peaks) if peaks else None,
    }


def _of_set(own: Sequence[Task], suite: Suite) -> dict[str, Any]:
    """Return the figures of a whole set, of one model."""
    names = [name for name, column in suite.columns.items() if column.figure.of_set]
    pairs = [(t.image, t.sample.hr) for t in own if t.sample.hr is not None]
    values: Mapping[str, float] = {}
    if suite.of_set and len(pairs) > 1:
        sr, hr = (
            torch.stack([features(suite, path, sha256(path)) for path in side]) for side in zip(*pairs, strict=True)
        )
        values = suite.measure_set(sr, hr)
    return {n: {"mean": values.get(n), "low": None, "high": None, "n": len(pairs)} for n in names}


def _comparisons(testset: TestSet, models: Sequence[Model], records: Records, suite: Suite) -> list[dict[str, Any]]:
    """Return every model's paired differences to the first one."""
    names = [sample.name for sample in testset.samples]
    baseline, *others = models
    found = []
    for name in suite.of_image:
        base = [records[testset.name, baseline.name, image].figures[name] for image in names]
        for model in others:
            values = [records[testset.name, model.name, image].figures[name] for image in names]
            result = paired(values, base)
            if result.n:
                where = {"set": testset.name, "figure": name, "model": model.name, "baseline": baseline.name}
                found.append(where | asdict(result))
    return found


def _image(testset: TestSet, name: str, tasks: Sequence[Task], records: Records, root: Path) -> dict[str, Any]:
    own = [t for t in tasks if t.testset.name == testset.name and t.sample.name == name]
    height, width = image_size(own[0].image)
    sample = own[0].sample
    return {
        "set": testset.name,
        "name": name,
        "lr": None if sample.lr is None else _path(sample.lr, root),
        "hr": None if sample.hr is None else _path(sample.hr, root),
        "height": height,
        "width": width,
        "models": {
            t.model.name: {
                "file": _path(t.image, root),
                **{k: v for k, v in asdict(records[testset.name, t.model.name, name]).items() if k != "sha256"},
            }
            for t in own
        },
    }


def _path(path: Path, root: Path) -> str:
    """Return a path relative to the run folder where it lies in it."""
    absolute, base = path.resolve(), root.resolve()
    return str(absolute.relative_to(base)) if absolute.is_relative_to(base) else str(absolute)


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
