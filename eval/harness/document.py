"""benchmark.json: everything that was measured, and everything it depends on, as records.

The names of the fields are the keys of the file: what is written, the tables and the page cannot drift apart. Numbers
are finite; None says that there is none. Paths are relative to the run folder where they lie in it.
"""

import json
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from resdiff.eval.harness.statistics import Comparison
from resdiff.files.formats import printable
from resdiff.metrics.figures import Figure
from resdiff.runs.json_files import write_json

NAME = "benchmark.json"
REMEDY = "run eval/benchmark.py of this version with the same --out"


@dataclass(frozen=True, kw_only=True)
class FigureColumn(Figure):
    """A figure as this run computed it."""

    variant: str  # what tells it from others of the same name, for instance crop and rounding
    weights: dict[str, str]  # file -> SHA-256
    missing: str | None  # why it was not computed


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """What enlarged the images."""

    name: str
    folder: str
    kind: str  # "pipeline", "bicubic" or "results"
    call: dict[str, Any]  # what its spec set
    weights: dict[str, str]  # "networks" -> fingerprint of samples of their numbers


@dataclass(frozen=True, kw_only=True)
class SetEntry:
    """A set of images."""

    name: str
    images: int
    has_hr: bool
    source: str
    degradation: str | None  # name of the preset that made LR
    preset: str | None  # every number of it, as YAML
    seed: int | None  # of the degradation
    digest: str  # SHA-256 over the files


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of a figure over a set, with its 95 % interval where there is one."""

    mean: float | None
    low: float | None
    high: float | None
    n: int  # images with a value


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one model reached on one set."""

    set: str
    model: str
    figures: dict[str, Mean]
    seconds: float | None  # median per image
    seconds_per_megapixel: float | None
    peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class ComparisonEntry(Comparison):
    """The paired difference of a model to the baseline, over the images of a set."""

    set: str
    figure: str
    model: str
    baseline: str


@dataclass(frozen=True, kw_only=True)
class ProfileEntry:
    """The time and memory of a model on a set, measured by itself after a warm-up."""

    set: str
    model: str
    images: int
    median_seconds: float  # per image
    seconds_per_megapixel: float
    ratio: float  # to the baseline's time
    baseline: str
    repeats: int
    peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class Enlarged:
    """One image by one model."""

    file: str
    seconds: float | None
    peak_mib: float | None
    figures: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """One image of a set and what each model made of it."""

    set: str
    name: str
    lr: str | None
    hr: str | None
    height: int  # px, of the results
    width: int
    models: dict[str, Enlarged]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole run."""

    resdiff: str
    command: str
    date: str
    protocol: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    machine: str
    figures: list[FigureColumn]
    models: list[ModelEntry]
    sets: list[SetEntry]
    results: list[Result]
    comparisons: list[ComparisonEntry]
    profile: list[ProfileEntry]
    images: list[ImageEntry]

    @cached_property
    def result_of(self) -> dict[tuple[str, str], Result]:
        """The results by set and model."""
        return {(result.set, result.model): result for result in self.results}

    def images_of(self, set_name: str) -> list[ImageEntry]:
        """Return the images of a set."""
        return [image for image in self.images if image.set == set_name]


def write_document(document: Document, folder: Path) -> None:
    """Write benchmark.json into `folder`, whole or not at all. Raises OSError in one line."""
    write_json(folder / NAME, asdict(document))


def read_document(folder: Path) -> Document:
    """Return the run in `folder`.

    Raises:
        ValueError: there is no `benchmark.json`, or it is damaged, or of another version. One line.
    """
    path = folder / NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ValueError(f"{printable(folder)} holds no {NAME}; pass the --out of a finished benchmark") from error
    except OSError as error:
        raise ValueError(f"{printable(path)} cannot be read: {error.strerror}; check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{printable(path)} is damaged; {REMEDY}") from error
    if not isinstance(raw, dict) or "resdiff" not in raw:
        raise ValueError(f"{printable(path)} was not written by resdiff; pass the --out of a finished benchmark")
    try:
        return _decoded(raw, Document)
    except KeyError as error:
        reason = f"has no entry {error}"
    except (TypeError, ValueError) as error:
        reason = f"is not as expected ({error})"
    raise ValueError(f"{printable(path)}, of resdiff {raw['resdiff']}, {reason}; {REMEDY}")


def _decoded(value: Any, kind: Any) -> Any:
    """Return what JSON made of a `kind` as that again. Raises KeyError or TypeError where it is something else."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _record(value, kind)
    if origin is list:
        return [_decoded(item, arguments[0]) for item in _check(value, list)]
    if origin is tuple:
        return tuple(_decoded(item, own) for item, own in zip(_check(value, list), arguments, strict=True))
    if origin is dict:
        return {key: _decoded(item, arguments[1]) for key, item in _check(value, dict).items()}
    if origin is UnionType:  # of one type with None
        return None if value is None else _decoded(value, arguments[0])
    if origin is Literal:
        return _check(value, str)
    return value if kind is Any else _check(value, int | float if kind is float else kind)


def _record(value: Any, kind: Any) -> Any:
    _check(value, dict)
    return kind(**{name: _decoded(value[name], own) for name, own in _field_types(kind).items()})


@cache
def _field_types(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _check(value: Any, kind: type | UnionType) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{str(value)[:40]!r} should be {getattr(kind, '__name__', kind)}")
    return value
