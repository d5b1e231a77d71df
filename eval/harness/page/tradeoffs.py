"""The two trade-offs of restoration, drawn for every set: distortion against perception, and cost against quality."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from resdiff.eval.harness.page.cells import mean_of, why_missing
from resdiff.eval.harness.page.document import Document, Figure, Mean, TestSet
from resdiff.eval.harness.page.kinds import is_distortion
from resdiff.eval.harness.page.plots import Axis, Point, scatter

SECONDS = "seconds per megapixel"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One drawing, or one line that says why there is none."""

    set: str
    x: str  # name of the figure, or "seconds"
    y: str
    drawing: Markup | str
    notes: list[str]  # models that are not in it, and why


def shown(document: Document, distortion: bool) -> list[Figure]:
    """Return the figures of one kind that have a number somewhere, and a better direction first."""
    figures = [f for f in document.figures if is_distortion(f.name) == distortion and _has_numbers(document, f)]
    return sorted(figures, key=lambda f: f.better == "none")


def measured(document: Document) -> list[Figure]:
    """Return the figures that have a number somewhere."""
    return [f for f in document.figures if _has_numbers(document, f)]


def perception_distortion(document: Document) -> list[Plot]:
    """Return a plot for every set, distortion and perceptual figure."""
    return [
        _figures_plot(document, test_set, x, y)
        for test_set in document.sets
        for x in shown(document, distortion=True)
        for y in shown(document, distortion=False)
    ]


def quality_cost(document: Document) -> list[Plot]:
    """Return a plot for every set and figure, over the seconds per megapixel; those of the profile where it has them."""
    return [_cost_plot(document, test_set, y) for test_set in document.sets for y in measured(document)]


def seconds_per_megapixel(document: Document, test_set: str, model: str) -> float | None:
    """Return what a model takes: the profile's median, else the mean of the run; None for pictures that were found."""
    profile = document.profile.get((test_set, model))
    if profile is not None and profile.seconds_per_megapixel is not None:
        return profile.seconds_per_megapixel
    result = document.results.get((test_set, model))
    return result.seconds_per_megapixel if result else None


def _has_numbers(document: Document, figure: Figure) -> bool:
    return any(mean_of(document, s.name, m.name, figure.name) for s in document.sets for m in document.models)


def _figures_plot(document: Document, test_set: TestSet, x: Figure, y: Figure) -> Plot:
    points, notes = [], []
    for style, model in enumerate(document.models):
        mean_x, mean_y = (_finite(mean_of(document, test_set.name, model.name, f.name)) for f in (x, y))
        if mean_x and mean_y:
            points.append(_point(model.name, style, mean_x.mean, mean_y, _interval(mean_x)))
        else:
            notes.append(f"{model.name}: no finite {x.label if not mean_x else y.label}")
    if points:
        drawing: Markup | str = scatter(points, _axis(x), _axis(y), f"{y.label} over {x.label} on {test_set.name}")
    else:
        absent = [
            f for f in (x, y) if not any(mean_of(document, test_set.name, m.name, f.name) for m in document.models)
        ]
        drawing, notes = "; ".join(f"No {f.label}: {why_missing(f, test_set)}" for f in absent or (x,)) + ".", []
    return Plot(set=test_set.name, x=x.name, y=y.name, drawing=drawing, notes=notes)


def _cost_plot(document: Document, test_set: TestSet, y: Figure) -> Plot:
    points, notes = [], []
    for style, model in enumerate(document.models):
        mean = _finite(mean_of(document, test_set.name, model.name, y.name))
        seconds = seconds_per_megapixel(document, test_set.name, model.name)
        if mean and seconds:
            points.append(_point(model.name, style, seconds, mean, None))
        elif mean:
            notes.append(f"{model.name}: not timed")
    axis = Axis(label=SECONDS, better="lower", log=True)
    if points:
        drawing: Markup | str = scatter(points, axis, _axis(y), f"{y.label} over {SECONDS} on {test_set.name}")
    else:
        reason = "no model was timed here" if notes else why_missing(y, test_set)
        drawing, notes = f"No {y.label} over time: {reason}.", []
    return Plot(set=test_set.name, x="seconds", y=y.name, drawing=drawing, notes=notes)


def _axis(figure: Figure) -> Axis:
    return Axis(label=f"{figure.label}, {figure.unit}" if figure.unit else figure.label, better=figure.better)


def _point(label: str, style: int, x: float | None, y: Mean, x_interval: tuple[float, float] | None) -> Point:
    return Point(label=label, style=style, x=x or 0.0, y=y.mean or 0.0, x_interval=x_interval, y_interval=_interval(y))


def _interval(mean: Mean) -> tuple[float, float] | None:
    return None if mean.low is None or mean.high is None else (mean.low, mean.high)


def _finite(mean: Mean | None) -> Mean | None:
    """Return a mean that can be drawn: the PSNR of equal images is infinite."""
    values: Iterable[float | None] = (mean.mean, mean.low, mean.high) if mean else (float("inf"),)
    return None if any(v is not None and abs(v) == float("inf") for v in values) else mean


def chosen(figures: Sequence[Figure], *wanted: str) -> str:
    """Return the first of `wanted` that is among the figures, else the first figure."""
    names = [f.name for f in figures]
    return next((name for name in wanted if name in names), names[0] if names else "")
