"""The tables of a run as texts, for Markdown and for the page alike: numbers, marks, differences, and why one is missing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from resdiff.eval.harness.document import (
    ComparisonEntry,
    Document,
    FigureColumn,
    ImageEntry,
    Mean,
    ModelEntry,
    ProfileEntry,
    SetEntry,
)
from resdiff.metrics.figures import Better

Mark = Literal["best", "second", ""]
NONE = "n/a"
ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "none": ""}
WORDS: dict[Better, str] = {
    "higher": "higher is better",
    "lower": "lower is better",
    "none": "neither high nor low is better by itself",
}
SIGNIFICANT = 0.05  # of p, below which a difference is called better or worse


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table."""

    text: str
    interval: str = ""
    mark: Mark = ""
    count: str = ""  # how many images have a value, where not all have
    reason: str = ""  # why there is none, or not of all images


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model on one set."""

    model: ModelEntry
    cells: list[Cell]  # in the order of the document's figures
    costs: list[str]  # seconds per image and per megapixel, peak MiB


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One paired comparison."""

    text: str
    interval: str
    verdict: Literal["better", "worse", "unclear", ""]
    p: str
    n: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """Models by figures, of one set, and the differences of the models to the baseline."""

    set: SetEntry
    rows: list[Row]
    baseline: str  # "" without differences
    compared: list[FigureColumn]
    differences: dict[tuple[str, str], Difference]  # (figure, model)


def number(value: float | None, digits: int, signed: bool = False) -> str:
    """Return a number with `digits` behind the point and a true minus sign; n/a for None."""
    if value is None:
        return NONE
    value = value if round(value, digits) else 0.0  # no minus before zeros
    return f"{value:{'+' if signed else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}")


def magnitude(value: float | None) -> str:
    """Return a positive number of any size in three digits: 0.0123, 1.23, 123, 12346; n/a for None."""
    if value is None:
        return NONE
    if value >= 100 or value <= 0:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value >= 0.001 else f"{value:.1e}"


def p_value(p: float | None) -> str:
    """Return p as it is written in tables: p < 0.001, or p = 0.0213 in three digits."""
    if p is None:
        return NONE
    return "p < 0.001" if p < 0.001 else f"p = {p:.3g}"


def marks(values: Sequence[float | None], better: Better, digits: int) -> list[Mark]:
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


def value_range(figure: FigureColumn) -> str:
    """Return which values a figure can have, in words."""
    low, high = (
        None if end is None else f"{end:g}".replace("-", "\N{MINUS SIGN}") for end in (figure.low, figure.high)
    )
    if low is None:
        return "any value" if high is None else f"{high} or less"
    return f"{low} or more" if high is None else f"{low} to {high}"


def why_missing(document: Document, figure: FigureColumn, test_set: SetEntry, model: str) -> str:
    """Return why images of a set have no such figure, each reason once; "" where all have it."""
    if figure.missing:
        return figure.missing
    images = document.images_of(test_set.name)
    if not figure.of_set:
        without = (image for image in images if image.models[model].figures[figure.name] is None)
        return "; ".join(dict.fromkeys(why_not(figure, image) for image in without))
    if mean_of(document, test_set, model, figure).mean is not None:
        return ""
    return "no HR" if figure.needs_hr and not test_set.has_hr else "needs two images"


def why_not(figure: FigureColumn, image: ImageEntry) -> str:
    """Return why a figure that could be computed is not defined for an image."""
    if figure.needs_hr and image.hr is None:
        return "no HR"
    if figure.needs_lr and image.lr is None:
        return "no LR"
    if not figure.fits(image.height, image.width):
        shorter, longer = figure.smallest
        return f"needs images of at least {shorter}x{longer} px"
    if figure.unit == "dB":  # of an error that is zero
        return "identical to HR" if figure.needs_hr else "identical to LR when reduced again"
    return "not defined for this image"


def tables(document: Document) -> list[Table]:
    """Return the table of each set."""
    return [_table(document, test_set) for test_set in document.sets]


def gaps(tables: Iterable[Table], figures: Sequence[FigureColumn]) -> dict[str, list[str]]:
    """Return the reasons for missing numbers, each once, with the labels of the figures that they are about."""
    found: dict[str, list[str]] = {}
    for table in tables:
        for row in table.rows:
            for figure, cell in zip(figures, row.cells, strict=True):
                if cell.reason and figure.label not in found.setdefault(cell.reason, []):
                    found[cell.reason].append(figure.label)
    return found


def of_images(document: Document) -> list[FigureColumn]:
    """Return the figures that some image has; those of whole sets, as FID, are not among them."""
    made = [enlarged for image in document.images for enlarged in image.models.values()]
    return [figure for figure in document.figures if any(one.figures.get(figure.name) is not None for one in made)]


def image_cells(image: ImageEntry, figures: Sequence[FigureColumn]) -> dict[str, list[Cell]]:
    """Return the cells of one image, by model, in the order of `figures`."""
    columns = []
    for figure in figures:
        values = [made.figures[figure.name] for made in image.models.values()]
        marked = marks(values, figure.better, figure.digits)
        columns.append(
            [
                Cell(text=number(v, figure.digits), mark=m, reason=why_not(figure, image) if v is None else "")
                for v, m in zip(values, marked, strict=True)
            ]
        )
    return {model: [column[i] for column in columns] for i, model in enumerate(image.models)}


def costs(entry: ProfileEntry) -> list[str]:
    """Return seconds per image and per megapixel, the ratio to the baseline and the peak MiB of a profile's row."""
    values = (entry.median_seconds, entry.seconds_per_megapixel, entry.ratio, entry.peak_mib)
    return [magnitude(value) for value in values]


def mean_of(document: Document, test_set: SetEntry, model: str, figure: FigureColumn) -> Mean:
    """Return the mean of a figure over a set."""
    return document.result_of[test_set.name, model].figures[figure.name]


def _table(document: Document, test_set: SetEntry) -> Table:
    columns = [_column(document, test_set, figure) for figure in document.figures]
    rows = []
    for i, model in enumerate(document.models):
        result = document.result_of[test_set.name, model.name]
        cost = [magnitude(v) for v in (result.seconds, result.seconds_per_megapixel, result.peak_mib)]
        rows.append(Row(model=model, cells=[column[i] for column in columns], costs=cost))
    figures = {figure.name: figure for figure in document.figures}
    comparisons = [c for c in document.comparisons if c.set == test_set.name]
    return Table(
        set=test_set,
        rows=rows,
        baseline=comparisons[0].baseline if comparisons else "",
        compared=[figures[name] for name in dict.fromkeys(c.figure for c in comparisons)],
        differences={(c.figure, c.model): _difference(c, figures[c.figure]) for c in comparisons},
    )


def _column(document: Document, test_set: SetEntry, figure: FigureColumn) -> list[Cell]:
    names = [model.name for model in document.models]
    means = [mean_of(document, test_set, name, figure) for name in names]
    marked = marks([m.mean for m in means], figure.better, figure.digits)
    return [
        Cell(
            text=number(m.mean, figure.digits),
            interval=_interval(m, figure.digits),
            mark=mark,
            count=f"n={m.n}" if 0 < m.n < test_set.images else "",
            reason=why_missing(document, figure, test_set, name),
        )
        for name, m, mark in zip(names, means, marked, strict=True)
    ]


def _difference(comparison: ComparisonEntry, figure: FigureColumn) -> Difference:
    digits = figure.digits + 1  # differences are small beside the values
    verdict: Literal["better", "worse", "unclear", ""] = "unclear"
    if comparison.difference is None or comparison.p is None or figure.better == "none":
        verdict = ""
    elif comparison.p < SIGNIFICANT and comparison.difference:
        verdict = "better" if (comparison.difference > 0) == (figure.better == "higher") else "worse"
    return Difference(
        text=number(comparison.difference, digits, signed=True),
        interval=_interval(comparison, digits, signed=True),
        verdict=verdict,
        p=p_value(comparison.p),
        n=comparison.n,
    )


def _interval(values: Mean | ComparisonEntry, digits: int, signed: bool = False) -> str:
    if values.low is None or values.high is None:
        return ""
    return f"[{number(values.low, digits, signed)}, {number(values.high, digits, signed)}]"
