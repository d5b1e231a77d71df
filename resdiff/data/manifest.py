"""A manifest: a table that names the photos of a training set, their LR partners and their text.

Either CSV with the header `hr,lr,caption,tags`, or JSON lines with these keys; only `hr` is required. Paths are
relative to the manifest's folder. Tags are separated by commas (in CSV, in quotes) or, in JSON, a list.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resdiff.data.captions import caption_from, read_json_lines, read_text, tags_from


@dataclass(frozen=True)
class Row:
    """One line of a manifest."""

    place: str  # "file line n", for messages
    hr: Path
    lr: Path | None
    caption: str | None  # None: the manifest does not say
    tags: tuple[str, ...] | None


def read_manifest(path: Path) -> list[Row]:
    """Return the rows of a manifest in order; either all have an LR partner or none has.

    Raises ValueError, one line each: no such file, another suffix than .csv and .jsonl, not UTF-8, broken lines, no
    `hr`, no row, files that do not exist, or rows without `lr` among rows with one.
    """
    if not path.is_file():
        raise ValueError(f"manifest {path} does not exist; check the name")
    readers = {".csv": _csv_entries, ".jsonl": read_json_lines}
    if path.suffix.lower() not in readers:
        raise ValueError(f"manifest {path} ends in {path.suffix!r}; write it as .csv or .jsonl")
    rows = [_row(place, entry, path.parent) for place, entry in readers[path.suffix.lower()](path)]
    if not rows:
        raise ValueError(f"manifest {path} names no photo; add at least one line")

    missing = [(file, row.place) for row in rows for file in (row.hr, row.lr) if file and not file.is_file()]
    if missing:
        file, place = missing[0]
        raise ValueError(
            f"{len(missing)} file(s) of the manifest do not exist, the first is {file} ({place}); "
            "paths are relative to the manifest's folder"
        )
    alone = [row for row in rows if row.lr is None]
    if alone and len(alone) < len(rows):
        raise ValueError(
            f"{len(alone)} of {len(rows)} rows of the manifest have no lr, the first is {alone[0].place}; "
            "give every row an lr or none"
        )
    return rows


def _csv_entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), skipinitialspace=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or []]
        if "hr" not in columns:
            raise ValueError(f"manifest {path} has no column hr: {','.join(columns)}; start it with hr,lr,caption,tags")
        reader.fieldnames = columns
        for entry in reader:
            place = f"{path} line {reader.line_num}"
            if None in entry:
                raise ValueError(f"{place} has more cells than the header; put text with commas in double quotes")
            yield place, {key: value for key, value in entry.items() if value}
    except csv.Error as error:
        raise ValueError(f"{path} line {reader.line_num} is not CSV: {error}; correct or remove it") from error


def _row(place: str, entry: dict[str, Any], folder: Path) -> Row:
    for key in ("hr", "lr"):
        if entry.get(key) is not None and not isinstance(entry[key], str):
            raise ValueError(f"{place}: {key} is {entry[key]!r}; write a path")
    if not entry.get("hr"):
        raise ValueError(f"{place} has no hr; name a photo")
    return Row(
        place=place,
        hr=folder / entry["hr"],
        lr=folder / entry["lr"] if entry.get("lr") else None,
        caption=caption_from(entry, ("caption",), place),
        tags=tags_from(entry, place),
    )
