"""A benchmark's figures as files for people: `images.csv` (a row for each image and model) and `benchmark.md`.

Every number stands beside its variant, the protocol and the command that regenerates it. What does not exist is "n/a" in
Markdown, with a number that leads to the reason, and an empty cell in CSV.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from resdiff.eval.harness.cells import (
    ARROWS,
    NONE,
    WORDS,
    Cell,
    Mark,
    Table,
    costs,
    gaps,
    tables,
    value_range,
)
from resdiff.eval.harness.document import Document, FigureColumn
from resdiff.files.formats import written_whole

ABOUT = """\
Means over images [95 % bootstrap interval]; **best**, *second*. Below them mean differences of the same images, with p of
a two-sided sign-flip permutation test, not corrected for the number of comparisons; with n images it cannot be below
2 / 2^n (0.0625 for five)."""
SIGNS: dict[Mark, str] = {"best": "**", "second": "*", "": ""}
SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def write_tables(document: Document, out: Path) -> None:
    """Write images.csv and benchmark.md into the folder `out`, each whole or not at all. Raises OSError in one line."""
    for name, text in (("images.csv", images_csv(document)), ("benchmark.md", markdown(document))):
        with written_whole(out / name) as temporary:
            # names of files that are not UTF-8 come out as the bytes they are
            temporary.write_bytes(text.encode("utf-8", "surrogateescape"))


def images_csv(document: Document) -> str:
    """Return one row for each set, image and model: its figures in full precision, seconds, peak memory and file.

    Columns: set, image, model, height, width (px of the result), the figures by name, seconds, peak_mib, file.
    """
    figures = [figure.name for figure in document.figures if not figure.of_set]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "image", "model", "height", "width", *figures, "seconds", "peak_mib", "file"])
    for image in document.images:
        for model, made in image.models.items():
            place = [image.set, image.name, model, image.height, image.width]
            values = [made.figures[name] for name in figures]
            writer.writerow([*place, *values, made.seconds, made.peak_mib, made.file])
    return text.getvalue()


def markdown(document: Document) -> str:
    """Return the tables of all sets with their comparisons, what the columns are, the profile, and the origin."""
    all_tables = tables(document)
    missing = gaps(all_tables, document.figures)
    parts = ["# Benchmark", ABOUT]
    for table in all_tables:
        parts += [f"## {_plain(table.set.name)}", _about(table), _main_table(table, document.figures, list(missing))]
        if table.differences:
            parts.append(_differences(table))
    if missing:
        parts += ["## What is missing", *_gaps(missing)]
    parts += ["## What the columns are", "\n".join(_column(figure) for figure in document.figures)]
    if document.profile:
        parts.append(_profile(document))
    return "\n\n".join([*parts, _origin(document)]) + "\n"


def summary(document: Document) -> str:
    """Return the main table of each set and the profile, for the terminal; why figures are missing follows once."""
    all_tables = tables(document)
    missing = gaps(all_tables, document.figures)
    parts = [f"## {_plain(t.set.name)}\n\n{_main_table(t, document.figures, list(missing))}" for t in all_tables]
    parts += [_profile(document)] if document.profile else []
    return "\n\n".join([*parts, *_gaps(missing)])


def _about(table: Table) -> str:
    own = table.set
    made = "" if own.degradation is None else f", LR by {own.degradation}, seed {own.seed}"
    return f"{own.images} image{'' if own.images == 1 else 's'}, {'LR and HR' if own.has_hr else 'LR only'}{made}."


def _main_table(table: Table, figures: Sequence[FigureColumn], reasons: Sequence[str]) -> str:
    """Return models x figures: means with their intervals, best bold, second italic, then the cost."""
    header = ["model", *map(_heading, figures), "s/image (median)", "s/megapixel", "peak MiB"]
    rows = [[_plain(row.model.name), *(_cell(c, reasons) for c in row.cells), *row.costs] for row in table.rows]
    return _table(header, rows)


def _cell(cell: Cell, reasons: Sequence[str]) -> str:
    sign = SIGNS[cell.mark]
    count = f"({cell.count})" if cell.count else ""
    note = _note(reasons.index(cell.reason)) if cell.reason else ""
    return " ".join(part for part in (f"{sign}{cell.text}{sign}", cell.interval, count, note) if part)


def _gaps(missing: dict[str, list[str]]) -> list[str]:
    return [
        f"{_note(i)} {_plain(', '.join(labels))}: {_plain(reason)}"
        for i, (reason, labels) in enumerate(missing.items())
    ]


def _note(index: int) -> str:
    return str(index + 1).translate(SUPERSCRIPT)


def _column(figure: FigureColumn) -> str:
    words = "; ".join(filter(None, (_plain(figure.variant), value_range(figure), WORDS[figure.better])))
    return f"- {_plain(figure.label)} (`{figure.name}`): {words}"


def _differences(table: Table) -> str:
    """Return the paired differences of one set."""
    figures = {figure.name: figure for figure in table.compared}
    rows = [
        [_heading(figures[name]), _plain(model), d.text, d.interval or NONE, d.p, str(d.n)]
        for (name, model), d in table.differences.items()
    ]
    return _table(["figure", "model", f"minus {_plain(table.baseline)}", "95 % interval", "sign flips", "n"], rows)


def _profile(document: Document) -> str:
    """Return the table of speed and memory."""
    header = ["set", "model", "median s", "s/megapixel", "times the baseline's", "peak MiB", "baseline", "repeats"]
    rows = [[_plain(p.set), _plain(p.model), *costs(p), _plain(p.baseline), str(p.repeats)] for p in document.profile]
    return f"## Speed and memory\n\nAfter a warm-up, in one process, models in turn.\n\n{_table(header, rows)}"


def _origin(document: Document) -> str:
    """Return all that the numbers depend on: command, protocol, settings, sets, weights, versions, machine."""
    rows: list[tuple[str, str, object]] = [("protocol", *item) for item in document.protocol.items()]
    rows += [("setting", *item) for item in document.settings.items()]
    for own in document.sets:
        rows += [("set", own.name, own.source), ("SHA-256", own.name, own.digest)]
    for model in document.models:
        call = ", ".join(f"{key}={value}" for key, value in model.call.items())
        rows.append(("model", model.name, f"{model.kind}{': ' if call else ''}{call}"))
        rows += [("fingerprint", f"{model.name}: {part}", digest) for part, digest in model.weights.items()]
    for figure in document.figures:
        rows += [("SHA-256", f"{figure.name}: {file}", digest) for file, digest in figure.weights.items()]
    rows += [("version", "resdiff", document.resdiff), *(("version", *item) for item in document.versions.items())]
    rows += [("machine", "", document.machine), ("date", "", document.date)]
    table = _table(["", "", ""], [[_plain(cell) for cell in row] for row in rows])
    presets = {own.degradation: own.preset for own in document.sets if own.preset}
    made = [f"{_plain(name)}:\n\n{_fenced(preset)}" for name, preset in presets.items()]
    return "\n\n".join(["## How to regenerate", _fenced(document.command), table, *made])


def _fenced(text: str) -> str:
    return f"```\n{text.rstrip()}\n```"


def _heading(figure: FigureColumn) -> str:
    unit = f" ({figure.unit})" if figure.unit else ""
    return f"{_plain(figure.label)}{unit} {ARROWS[figure.better]}".rstrip()


def _plain(value: object) -> str:
    """Return text for a table's cell: one line, with the signs that Markdown would read escaped (not _ within words)."""
    text = "none" if value is None else " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\|*`<[" else c for c in text)


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
