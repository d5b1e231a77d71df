"""A benchmark's figures as files for people: `images.csv` (a row for each image and model) and `benchmark.md`.

Functions of the document that `eval/benchmark.py` writes to benchmark.json. Every number stands beside its variant, the
protocol and the command that regenerates it. What does not exist is "n/a" in Markdown, with the reason below the table,
and an empty cell in CSV.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resdiff.files.formats import temporary_beside

ARROWS = {"higher": " ↑", "lower": " ↓", "none": ""}
Document = Mapping[str, Any]


def write_tables(document: Document, out: Path) -> None:
    """Write images.csv and benchmark.md into the folder `out`, each whole or not at all."""
    _write(out / "images.csv", images_csv(document))
    _write(out / "benchmark.md", markdown(document))


def images_csv(document: Document) -> str:
    """Return one row for each set, image and model: its figures in full precision, seconds, peak memory and file.

    Columns: set, image, model, height, width (px of the result), the figures by name, seconds, peak_mib, file.
    """
    figures = [figure["name"] for figure in document["figures"] if not figure.get("of_set")]
    columns = ["set", "image", "model", "height", "width", *figures, "seconds", "peak_mib", "file"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for image in document["images"]:
        for model, made in image["models"].items():
            values = [made["figures"].get(name) for name in figures]
            place = [image["set"], image["name"], model, image["height"], image["width"]]
            writer.writerow([*place, *values, made["seconds"], made["peak_mib"], made["file"]])
    return text.getvalue()


def markdown(document: Document) -> str:
    """Return the tables of all sets, the comparisons, the profile, and how to regenerate them."""
    parts = ["# Benchmark", *(_set_section(testset, document) for testset in document["sets"])]
    if document["profile"]:
        parts.append(_profile(document))
    parts.append(_origin(document))
    return "\n\n".join(parts) + "\n"


def summary(document: Document) -> str:
    """Return the main table of each set alone, for the terminal; why a figure is missing follows once."""
    parts = [f"## {_plain(t['name'])}\n\n{_main_table(_results(t, document), t, document)}" for t in document["sets"]]
    gaps = [
        f"{_plain(figure['label'])} is n/a: {figure['missing']}" for figure in document["figures"] if figure["missing"]
    ]
    return "\n\n".join([*parts, *gaps])


def _results(testset: Mapping[str, Any], document: Document) -> dict[str, Any]:
    """Return the results of one set by model, in the order of the command."""
    return {result["model"]: result for result in document["results"] if result["set"] == testset["name"]}


def _set_section(testset: Mapping[str, Any], document: Document) -> str:
    """Return the heading, main table, notes and comparisons of one set."""
    results, count = _results(testset, document), testset["images"]
    made = "" if testset["degradation"] is None else f", LR by {testset['degradation']}, seed {testset['seed']}"
    kind = "LR and HR" if testset["has_hr"] else "LR only"
    parts = [f"## {_plain(testset['name'])}", f"{count} image{'' if count == 1 else 's'}, {kind}{made}."]
    parts.append(_main_table(results, testset, document))
    parts.append("\n".join(_notes(results, testset, document)))
    comparisons = [c for c in document["comparisons"] if c["set"] == testset["name"]]
    if comparisons:
        parts.append(_comparisons(comparisons, document))
    return "\n\n".join(parts)


def _main_table(results: Mapping[str, Any], testset: Mapping[str, Any], document: Document) -> str:
    """Return models x figures: means with their intervals, best bold, second italic, then the cost."""
    figures = document["figures"]
    marks = {figure["name"]: _marks(figure, results) for figure in figures}
    header = ["model", *(_heading(figure) for figure in figures), "s/image (median)", "s/megapixel", "peak MiB"]
    rows = []
    for model, result in results.items():
        cells = [
            _mean(result["figures"].get(figure["name"]), figure, marks[figure["name"]].get(model, ""), testset)
            for figure in figures
        ]
        costs = [_number(result[key], 3) for key in ("seconds", "seconds_per_megapixel")]
        rows.append([_plain(model), *cells, *costs, _number(result["peak_mib"], 0)])
    return _table(header, rows)


def _marks(figure: Mapping[str, Any], results: Mapping[str, Any]) -> dict[str, str]:
    """Return "**" for the models whose shown mean is best and "*" for the second best; no marks without a contest."""
    means = {model: (result["figures"].get(figure["name"]) or {}).get("mean") for model, result in results.items()}
    shown = {model: round(mean, figure["digits"]) for model, mean in means.items() if mean is not None}
    if figure["better"] == "none" or len(shown) < 2:
        return {}
    order = sorted(set(shown.values()), reverse=figure["better"] == "higher")
    return {
        model: mark for value, mark in zip(order, ("**", "*"), strict=False) for model in shown if shown[model] == value
    }


def _mean(value: Mapping[str, Any] | None, figure: Mapping[str, Any], mark: str, testset: Mapping[str, Any]) -> str:
    """Return a cell: mean, interval, and the number of images where it is not all of them."""
    if value is None or value["mean"] is None:
        return "n/a"
    digits = figure["digits"]
    text = f"{mark}{_number(value['mean'], digits)}{mark}"
    if value["low"] is not None and value["high"] is not None:
        text += f" [{_number(value['low'], digits)}, {_number(value['high'], digits)}]"
    return text if value["n"] == testset["images"] else f"{text} (n={value['n']})"


def _notes(results: Mapping[str, Any], testset: Mapping[str, Any], document: Document) -> list[str]:
    """Return what the table's numbers are: interval, the variant of each figure, and why others are missing."""
    lines = ["Mean over images [95 % bootstrap interval]; **best**, *second*.", ""]
    for figure in document["figures"]:
        variant = f": {_plain(figure['variant'])}" if figure["variant"] else ""
        lines.append(f"- {_plain(figure['label'])} (`{figure['name']}`){variant}")
        means = [(result["figures"].get(figure["name"]) or {}).get("mean") for result in results.values()]
        if None in means:
            lines[-1] += f". n/a: {_plain(_reason(figure, all(m is None for m in means), testset))}"
    return lines


def _reason(figure: Mapping[str, Any], everywhere: bool, testset: Mapping[str, Any]) -> str:
    """Return why a figure has no value in a set."""
    if figure["missing"]:
        return figure["missing"]
    if everywhere and not testset["has_hr"]:
        return "it compares with HR, which this set does not have"
    return "not defined for these images" if everywhere else "no image of that model has a value"


def _comparisons(comparisons: Sequence[Mapping[str, Any]], document: Document) -> str:
    """Return the paired differences of one set."""
    by_name = {figure["name"]: figure for figure in document["figures"]}
    rows = []
    for c in comparisons:
        figure = by_name[c["figure"]]
        digits = figure["digits"] + 1
        interval = (
            "n/a" if c["low"] is None else f"[{_number(c['low'], digits, '+')}, {_number(c['high'], digits, '+')}]"
        )
        difference = _number(c["difference"], digits, "+")
        rows.append(
            [_heading(figure), _plain(c["model"]), _plain(c["baseline"]), difference, interval, _p(c), str(c["n"])]
        )
    header = ["figure", "model", "minus", "mean difference", "95 % interval", "p", "n"]
    note = (
        "Differences of the same images. p: two-sided sign-flip permutation test, not corrected for the number of "
        "comparisons; with n images it cannot be below 2 / 2^n (0.0625 for five)."
    )
    return f"{_table(header, rows)}\n\n{note}"


def _p(comparison: Mapping[str, Any]) -> str:
    return "n/a" if comparison["p"] is None else f"{comparison['p']:.3g}"


def _profile(document: Document) -> str:
    """Return the table of speed and memory."""
    header = ["set", "model", "median s", "s/megapixel", "times the baseline's", "baseline", "repeats", "peak MiB"]
    rows = [
        [
            _plain(p["set"]),
            _plain(p["model"]),
            _number(p["median_seconds"], 4),
            _number(p["seconds_per_megapixel"], 4),
            _number(p["ratio"], 2),
            _plain(p["baseline"] or "n/a"),
            str(p["repeats"]),
            _number(p["peak_mib"], 0),
        ]
        for p in document["profile"]
    ]
    return f"## Speed and memory\n\nAfter a warm-up, in one process, models in turn.\n\n{_table(header, rows)}"


def _origin(document: Document) -> str:
    """Return all that the numbers depend on: command, protocol, settings, sets, weights, versions, machine."""
    protocol = document["protocol"]
    rows = [["protocol", key, value] for key, value in protocol.items()]
    rows += [["setting", key, value] for key, value in document["settings"].items()]
    for testset in document["sets"]:
        rows += [["set", testset["name"], testset["source"]], ["set", f"{testset['name']} SHA-256", testset["digest"]]]
    for model in document["models"]:
        call = ", ".join(f"{key}={value}" for key, value in model["call"].items())
        rows.append(["model", model["name"], f"{model['kind']}{': ' if call else ''}{call}"])
        rows += [["weights", f"{model['name']}: {file}", digest] for file, digest in model["weights"].items()]
    for figure in document["figures"]:
        rows += [["weights", f"{figure['name']}: {file}", sha] for file, sha in figure.get("weights", {}).items()]
    rows += [["version", "resdiff", document["resdiff"]]]
    rows += [["version", key, value] for key, value in document["versions"].items()]
    rows += [["machine", "", document["machine"]], ["date", "", document["date"]]]
    table = _table(["", "", ""], [[_plain(cell) for cell in row] for row in rows])
    fence = "```"
    return f"## How to regenerate\n\n{fence}\n{document['command']}\n{fence}\n\n{table}"


def _heading(figure: Mapping[str, Any]) -> str:
    unit = f" ({figure['unit']})" if figure["unit"] else ""
    return f"{_plain(figure['label'])}{unit}{ARROWS[figure['better']]}"


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "n/a" if value is None else f"{value:{sign}.{digits}f}"


def _plain(value: object) -> str:
    """Return text for a table's cell: one line, with the signs that Markdown would read escaped (not _ within words)."""
    text = "none" if value is None else " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\|*`<[" else c for c in text)


def _table(header: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    header = list(header)
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _write(path: Path, text: str) -> None:
    temporary = temporary_beside(path)
    try:
        # names of files that are not UTF-8 come out as the bytes they are
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
