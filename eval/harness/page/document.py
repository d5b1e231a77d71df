"""What a finished benchmark left behind: `benchmark.json`, read and checked once into plain records."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from resdiff.files.formats import printable

NAME = "benchmark.json"
REMEDY = "run eval/benchmark.py of this version with the same --out"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A column: one metric in one variant."""

    name: str
    label: str
    unit: str
    better: Literal["higher", "lower", "none"]
    digits: int  # behind the point
    variant: str  # what tells it from others of the same name, for instance crop and rounding
    weights: dict[str, str]  # file -> sha256
    missing: str | None  # why it was not computed


@dataclass(frozen=True, kw_only=True)
class TestSet:
    """A set of images."""

    __test__ = False  # no test class, whatever the name says

    name: str
    images: int
    has_hr: bool
    source: str
    degradation: str | None
    seed: int | None
    digest: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """A row: what enlarged the images."""

    name: str
    kind: str
    call: dict[str, Any]  # what the pipeline was called with
    weights: dict[str, str]  # file -> sha256


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of a figure over a set, with its 95 % interval where there is one."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one model reached on one set."""

    figures: dict[str, Mean]
    seconds: float | None  # per image
    seconds_per_megapixel: float | None
    peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The paired difference of a model to the baseline, over the images of a set."""

    set: str
    figure: str
    model: str
    baseline: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The time and memory of a model on a set, measured by itself after a warm-up."""

    set: str
    model: str
    median_seconds: float | None
    seconds_per_megapixel: float | None
    ratio: float | None  # to the baseline's time
    baseline: str | None
    repeats: int
    peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class Enlarged:
    """One image by one model."""

    file: Path
    figures: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One image of a set and what each model made of it; height and width are those of the results, px."""

    set: str
    name: str
    lr: Path | None
    hr: Path | None
    height: int
    width: int
    models: dict[str, Enlarged]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A whole run."""

    resdiff: str
    command: str
    date: str
    machine: str
    protocol: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    figures: list[Figure]
    models: list[Model]
    sets: list[TestSet]
    results: dict[tuple[str, str], Result]  # of a set and a model
    comparisons: list[Comparison]
    profile: dict[tuple[str, str], Profile]  # of a set and a model
    pictures: list[Picture]


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
        return _document(raw, folder)
    except KeyError as error:
        reason = f"has no entry {error}"
    except (TypeError, ValueError, AttributeError) as error:
        reason = f"is not as expected ({error})"
    raise ValueError(f"{printable(path)}, of resdiff {raw['resdiff']}, {reason}; {REMEDY}")


def _document(raw: dict[str, Any], folder: Path) -> Document:
    return Document(
        **_of(raw, "resdiff", "command", "date", "machine", "protocol", "settings", "versions"),
        figures=[
            Figure(
                **_of(f, "name", "label", "unit", "better", "digits", "variant", "missing"),
                weights=f.get("weights", {}),
            )
            for f in raw["figures"]
        ],
        models=[Model(**_of(m, "name", "kind", "call", "weights")) for m in raw["models"]],
        sets=[
            TestSet(**_of(s, "name", "images", "has_hr", "source", "degradation", "seed", "digest"))
            for s in raw["sets"]
        ],
        results={(r["set"], r["model"]): _result(r) for r in raw["results"]},
        comparisons=[_comparison(c) for c in raw["comparisons"]],
        profile={(p["set"], p["model"]): _profile(p) for p in raw["profile"]},
        pictures=[_picture(p, folder) for p in raw["images"]],
    )


def _of(raw: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: raw[key] for key in keys}


def _numbers(raw: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return the entries of `raw` as numbers; NaN, which says that there is none, as None."""
    return {key: _number(raw[key]) for key in keys}


def _number(value: Any) -> float | None:
    return None if value is None or math.isnan(float(value)) else float(value)


def _result(raw: dict[str, Any]) -> Result:
    figures = {name: Mean(**_numbers(f, "mean", "low", "high"), n=f["n"]) for name, f in raw["figures"].items() if f}
    return Result(figures=figures, **_numbers(raw, "seconds", "seconds_per_megapixel", "peak_mib"))


def _comparison(raw: dict[str, Any]) -> Comparison:
    numbers = _numbers(raw, "difference", "low", "high", "p")
    return Comparison(**_of(raw, "set", "figure", "model", "baseline", "n"), **numbers)


def _profile(raw: dict[str, Any]) -> Profile:
    numbers = _numbers(raw, "median_seconds", "seconds_per_megapixel", "ratio", "peak_mib")
    return Profile(**_of(raw, "set", "model", "baseline", "repeats"), **numbers)


def _picture(raw: dict[str, Any], folder: Path) -> Picture:
    models = {
        name: Enlarged(file=folder / m["file"], figures={f: _number(v) for f, v in m["figures"].items()})
        for name, m in raw["models"].items()
    }
    return Picture(
        **_of(raw, "set", "name", "height", "width"),
        lr=None if raw["lr"] is None else folder / raw["lr"],
        hr=None if raw["hr"] is None else folder / raw["hr"],
        models=models,
    )
