"""Cells of the tables: numbers as text, which is best and second, and why one is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from resdiff.eval.harness.page.document import Comparison, Document, Figure, Mean, TestSet
from resdiff.eval.harness.page.kinds import needs_hr

Mark = Literal["best", "second", ""]
SIGNIFICANT = 0.05  # of p, below which a difference is called better or worse


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    text: str
    interval: str = ""
    mark: Mark = ""
    reason: str = ""  # why there is no number
    note: int | None = None  # of the footnote that says it


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One paired comparison."""

    text: str
    interval: str
    verdict: Literal["better", "worse", "unclear", ""]
    p: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """Models by figures, of one set."""

    set: TestSet
    rows: list[list[Cell]]  # in the order of the document's models and figures
    costs: list[list[str]]  # a row: seconds per image, per megapixel, peak MiB
    footnotes: list[str]
    differences: dict[str, list[Difference | None]]  # of a model, in the order of `compared`
    compared: list[Figure]
    baseline: str


@dataclass
class _Footnotes:
    reasons: list[str] = field(default_factory=list)

    def number(self, reason: str) -> int:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """Return a number with `digits` behind the point, with a true minus sign; n/a for None, infinity as its sign."""
    if value is None:
        return "n/a"
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}").replace("inf", "\N{INFINITY}")


def magnitude(value: float | None) -> str:
    """Return a positive number of any size in three digits: 0.0123, 1.23, 123, 12346."""
    if value is None:
        return "n/a"
    if value >= 100 or value <= 0:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value >= 0.001 else f"{value:.1e}"


def p_value(p: float | None) -> str:
    """Return p as it is written in tables: p < 0.001, or p = 0.02 in two digits."""
    if p is None:
        return ""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


def marks(values: Sequence[float | None], better: str, digits: int) -> list[Mark]:
    """Say which values are best and second.

    Values that read alike are marked alike. Nothing is marked without a better direction, or with fewer than two values.
    """
    known = [round(v, digits) for v in values if v is not None]
    if better == "none" or len(known) < 2:
        return [""] * len(values)
    ranks: dict[float, Mark] = dict(
        zip(sorted(set(known), reverse=better == "higher"), ("best", "second"), strict=False)
    )
    return ["" if v is None else ranks.get(round(v, digits), "") for v in values]


def why_missing(figure: Figure, test_set: TestSet) -> str:
    """Return why a set has no such figure."""
    if figure.missing:
        return figure.missing
    if needs_hr(figure.name) and not test_set.has_hr:
        return f"{test_set.name} has no HR images to compare with"
    return "not computed"


def table(document: Document, test_set: TestSet) -> Table:
    """Return everything of one set."""
    notes = _Footnotes()
    columns = [_column(document, test_set, figure, notes) for figure in document.figures]
    rows = [[column[i] for column in columns] for i in range(len(document.models))]
    costs = []
    for model in document.models:
        result = document.results.get((test_set.name, model.name))
        values = (result.seconds, result.seconds_per_megapixel, result.peak_mib) if result else (None, None, None)
        costs.append([magnitude(value) for value in values])
    comparisons = [c for c in document.comparisons if c.set == test_set.name]
    compared = [f for f in document.figures if any(c.figure == f.name for c in comparisons)]
    differences = {
        model.name: [
            next((_difference(c, f) for c in comparisons if (c.model, c.figure) == (model.name, f.name)), None)
            for f in compared
        ]
        for model in document.models
        if any(c.model == model.name for c in comparisons)
    }
    return Table(
        set=test_set,
        rows=rows,
        costs=costs,
        footnotes=notes.reasons,
        differences=differences,
        compared=compared,
        baseline=", ".join(dict.fromkeys(c.baseline for c in comparisons)),
    )


def of_images(document: Document) -> list[Figure]:
    """Return the figures that some image has; those of whole sets, as FID, are not among them."""
    names = {
        name for p in document.pictures for m in p.models.values() for name, v in m.figures.items() if v is not None
    }
    return [figure for figure in document.figures if figure.name in names]


def picture_cells(columns_of: Sequence[Figure], figures: dict[str, dict[str, float | None]]) -> dict[str, list[Cell]]:
    """Return the cells of one image, by model, in the order of `columns_of`; `figures` are its numbers by model and name."""
    columns = []
    for figure in columns_of:
        values = [figures[model].get(figure.name) for model in figures]
        marked = marks(values, figure.better, figure.digits)
        columns.append([Cell(text=number(v, figure.digits), mark=m) for v, m in zip(values, marked, strict=True)])
    return {model: [column[i] for column in columns] for i, model in enumerate(figures)}


def mean_of(document: Document, test_set: str, model: str, figure: str) -> Mean | None:
    """Return the mean of a figure, or None where there is no number."""
    result = document.results.get((test_set, model))
    mean = result.figures.get(figure) if result else None
    return mean if mean is not None and mean.mean is not None else None


def _column(document: Document, test_set: TestSet, figure: Figure, notes: _Footnotes) -> list[Cell]:
    means = [mean_of(document, test_set.name, model.name, figure.name) for model in document.models]
    marked = marks([m.mean if m else None for m in means], figure.better, figure.digits)
    cells = []
    for mean, mark in zip(means, marked, strict=True):
        if mean is None:
            reason = why_missing(figure, test_set)
            cells.append(Cell(text="n/a", reason=reason, note=notes.number(reason)))
        else:
            cells.append(
                Cell(text=number(mean.mean, figure.digits), interval=_interval(mean, figure.digits), mark=mark)
            )
    return cells


def _difference(comparison: Comparison, figure: Figure) -> Difference:
    verdict: Literal["better", "worse", "unclear", ""] = "unclear"
    if comparison.difference is None or comparison.p is None or figure.better == "none":
        verdict = ""
    elif comparison.p < SIGNIFICANT and comparison.difference:
        verdict = "better" if (comparison.difference > 0) == (figure.better == "higher") else "worse"
    return Difference(
        text=number(comparison.difference, figure.digits, signed=True),
        interval=_interval(comparison, figure.digits, signed=True),
        verdict=verdict,
        p=p_value(comparison.p),
    )


def _interval(values: Mean | Comparison, digits: int, signed: bool = False) -> str:
    if values.low is None or values.high is None:
        return ""
    return f"{number(values.low, digits, signed)} \N{EN DASH} {number(values.high, digits, signed)}"
