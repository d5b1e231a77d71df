"""The two trade-offs of restoration, drawn for every set: distortion against perception, and cost against quality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from resdiff.eval.harness.cells import mean_of, why_missing
from resdiff.eval.harness.document import Document, FigureColumn, Mean, SetEntry
from resdiff.eval.harness.page.plots import Axis, Point, scatter

SECONDS = "seconds per megapixel"


@dataclass(frozen=True, kw_only=True)
class Plot:
    """One drawing, or the reason why there is none."""

    set: str
    x: str  # name of the figure, or "seconds"
    y: str
    drawing: Markup | None
    reason: str  # "" with a drawing
    notes: list[str]  # models that are not in it, and why


def is_distortion(figure: FigureColumn) -> bool:
    """Say whether a figure is a distance to HR or LR, image by image; the others judge perception.

    Figures that are neither better high nor low only use HR to find where to look, and those of a set compare
    distributions.
    """
    return (figure.needs_hr or figure.needs_lr) and figure.better != "none" and not figure.of_set


def measured(document: Document) -> list[FigureColumn]:
    """Return the figures that have a number somewhere."""
    return [
        figure
        for figure in document.figures
        if any(result.figures[figure.name].mean is not None for result in document.results)
    ]


def shown(document: Document, distortion: bool) -> list[FigureColumn]:
    """Return the figures of one kind that have a number somewhere, those with a better direction first."""
    figures = [figure for figure in measured(document) if is_distortion(figure) == distortion]
    return sorted(figures, key=lambda figure: figure.better == "none")


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


def chosen(figures: Sequence[FigureColumn], *wanted: str) -> str:
    """Return the first of `wanted` that is among the figures, else the first figure."""
    names = [figure.name for figure in figures]
    return next((name for name in wanted if name in names), names[0] if names else "")


def seconds_per_megapixel(document: Document, test_set: SetEntry, model: str) -> float | None:
    """Return what a model takes: by the profile, else in the run; None for pictures that were found."""
    for entry in document.profile:
        if (entry.set, entry.model) == (test_set.name, model):
            return entry.seconds_per_megapixel
    return document.result_of[test_set.name, model].seconds_per_megapixel


def _figures_plot(document: Document, test_set: SetEntry, x: FigureColumn, y: FigureColumn) -> Plot:
    points, absent = [], {}
    for style, model in enumerate(document.models):
        on_x, on_y = (mean_of(document, test_set, model.name, figure) for figure in (x, y))
        if on_x.mean is None or on_y.mean is None:
            absent[model.name] = _no_number(document, x if on_x.mean is None else y, test_set, model.name)
        else:
            intervals = {"x_interval": _interval(on_x), "y_interval": _interval(on_y)}
            points.append(Point(label=model.name, style=style, x=on_x.mean, y=on_y.mean, **intervals))
    return _plot(test_set, x.name, y, points, _axis(x), absent)


def _cost_plot(document: Document, test_set: SetEntry, y: FigureColumn) -> Plot:
    points, absent = [], {}
    for style, model in enumerate(document.models):
        mean = mean_of(document, test_set, model.name, y)
        seconds = seconds_per_megapixel(document, test_set, model.name)
        if mean.mean is None:
            absent[model.name] = _no_number(document, y, test_set, model.name)
        elif seconds is None:
            absent[model.name] = "not timed"
        else:
            points.append(Point(label=model.name, style=style, x=seconds, y=mean.mean, y_interval=_interval(mean)))
    return _plot(test_set, "seconds", y, points, Axis(label=SECONDS, better="lower", log=True), absent)


def _plot(
    test_set: SetEntry, x: str, y: FigureColumn, points: Sequence[Point], x_axis: Axis, absent: Mapping[str, str]
) -> Plot:
    """Return the drawing with a note for each model that is not in it, or why none is."""
    if not points:
        reason = "; ".join(dict.fromkeys(absent.values()))
        return Plot(
            set=test_set.name, x=x, y=y.name, drawing=None, reason=f"{reason[:1].upper()}{reason[1:]}.", notes=[]
        )
    drawing = scatter(points, x_axis, _axis(y), f"{y.label} over {x_axis.label} on {test_set.name}")
    notes = [f"{model}: {reason}" for model, reason in absent.items()]
    return Plot(set=test_set.name, x=x, y=y.name, drawing=drawing, reason="", notes=notes)


def _no_number(document: Document, figure: FigureColumn, test_set: SetEntry, model: str) -> str:
    return f"no {figure.label} ({why_missing(document, figure, test_set, model)})"


def _axis(figure: FigureColumn) -> Axis:
    return Axis(label=f"{figure.label}, {figure.unit}" if figure.unit else figure.label, better=figure.better)


def _interval(mean: Mean) -> tuple[float, float] | None:
    return None if mean.low is None or mean.high is None else (mean.low, mean.high)
