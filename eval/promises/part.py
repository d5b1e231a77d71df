"""A part of the measurements: figures of every image, kept as they come, and the promises that follow from them."""

import functools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from resdiff.eval.promises.pictures import Enlarger, Pair, Place
from resdiff.eval.promises.promise import Promise
from resdiff.files.formats import printable
from resdiff.runs.json_files import read_json, write_json

Figures = Mapping[str, float]  # of one image, by name; those that are not defined are absent
Sets = Mapping[str, Sequence[Figures]]  # name of the set -> its images


@dataclass(frozen=True)
class Measurement:
    """What is measured on one image."""

    name: str
    title: str
    measure: Callable[[Pair, Enlarger], dict[str, float]]  # a function of a module: worker processes look it up


@dataclass(frozen=True)
class Part(Measurement):
    """A measurement, and what is promised of all images together."""

    promises: Callable[[Sets], list[Promise]]


@dataclass(frozen=True)
class Work:
    """How the measurements run. The figures depend on the model and the seed alone."""

    model: str | Path | None = None
    seed: int = 0
    workers: int = 1  # processes; 1: in this one, with the threads that torch has there
    threads: int = 1  # of torch, in each of several


def measured(
    part: Measurement, places: Sequence[Place], work: Work, record: Path | None = None
) -> dict[str, list[Figures]]:
    """Return the figures of all images, set by set.

    Args:
        record: a JSON file that every image's figures are written to when they are there; what it has is not measured
            again. None: nothing is kept.

    Raises:
        ValueError: `record` is of another part, model or seed; an image cannot be read or used.
    """
    enlarge = Enlarger(work.model, work.seed)
    header = {"part": part.name, "model": enlarge.fingerprint()}
    images = {} if record is None else _read(record, header)
    missing = [place for place in places if _key(place) not in images]
    done = _here(part, missing, enlarge) if work.workers == 1 else _in_processes(part, missing, work)
    for place, figures in tqdm(done, part.title, len(missing), leave=False, disable=None):
        images[_key(place)] = {name: value for name, value in figures.items() if math.isfinite(value)}
        if record is not None:
            write_json(record, header | {"images": dict(sorted(images.items()))})
    sets: dict[str, list[Figures]] = {}
    for place in places:
        sets.setdefault(place.set, []).append(images[_key(place)])
    return sets


def values(images: Iterable[Figures], name: str) -> list[float]:
    """Return a figure of all images for which it is defined."""
    return [figures[name] for figures in images if name in figures]


def mean(images: Iterable[Figures], name: str) -> float:
    """Return the mean of a figure over the images for which it is defined; NaN where it is for none."""
    found = values(images, name)
    return statistics.fmean(found) if found else math.nan


def geometric_mean(images: Iterable[Figures], name: str) -> float:
    """Return the geometric mean of a positive figure over the images for which it is defined; NaN where it is for none."""
    found = values(images, name)
    return statistics.geometric_mean(found) if found else math.nan


def share(statements: Iterable[bool]) -> float:
    """Return the share of true statements; NaN of none."""
    found = list(statements)
    return sum(found) / len(found) if found else math.nan


def _here(part: Measurement, places: Sequence[Place], enlarge: Enlarger) -> Iterator[tuple[Place, dict[str, float]]]:
    """Yield places with their figures, measured in this process."""
    for place in places:
        yield place, part.measure(Pair(place.sample), enlarge)


def _in_processes(part: Measurement, places: Sequence[Place], work: Work) -> Iterator[tuple[Place, dict[str, float]]]:
    """Yield places with their figures as worker processes finish them."""
    # fork would inherit torch's threads in an unknown state
    pool = ProcessPoolExecutor(work.workers, mp_context=get_context("spawn"))
    try:
        running = {pool.submit(_in_a_worker, part.measure, place, work): place for place in places}
        for done in as_completed(running):
            yield running[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _in_a_worker(measure: Callable[[Pair, Enlarger], dict[str, float]], place: Place, work: Work) -> dict[str, float]:
    torch.set_num_threads(work.threads)
    return measure(Pair(place.sample), _opened(work.model, work.seed))


@functools.cache
def _opened(model: str | Path | None, seed: int) -> Enlarger:
    """Return the model, opened once in a worker."""
    return Enlarger(model, seed)


def _key(place: Place) -> str:
    return f"{place.set}/{place.sample.name}"


def _read(record: Path, header: dict[str, str]) -> dict[str, dict[str, float]]:
    """Return the figures that a record has. Raises ValueError when it is of something else."""
    document = read_json(record, "images")
    if document is None:
        return {}
    if {key: document.get(key) for key in header} != header:
        raise ValueError(f"{printable(record)} is of another model or seed; remove it, or choose another --out")
    return document["images"]
