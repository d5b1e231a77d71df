"""The folder of a benchmark: what is done, under which settings, and what each image scored.

    OUT/run.json                    what decides the numbers; a later run into the same folder must agree with it
    OUT/<set>/<model>/<name>.png    finished images
    OUT/<set>/<model>/<name>.json   their figures, seconds and memory
    OUT/<set>/.lr/<name>.png        LR images that a degradation made

Everything is written whole or not at all, so that a killed run goes on where it stopped. A figure counts only for the
very image it was computed on: the record holds the image's SHA-256.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resdiff import __version__
from resdiff.files.formats import printable
from resdiff.runs.json_files import read_json, write_json

RUN_NAME = "run.json"


@dataclass
class Record:
    """One image of one model."""

    sha256: str  # of the finished image's file
    seconds: float | None = None
    peak_mib: float | None = None
    figures: dict[str, float | None] = field(default_factory=dict)  # finite; None: not defined for this image


@dataclass(frozen=True)
class RunFolder:
    """Paths and documents below OUT."""

    root: Path

    def image(self, set_name: str, model_folder: str, name: str) -> Path:
        """Where a finished image lies."""
        return self.root / set_name / model_folder / f"{name}.png"

    def record(self, set_name: str, model_folder: str, name: str) -> Path:
        """Where its record lies."""
        return self.root / set_name / model_folder / f"{name}.json"

    def made_lr(self, set_name: str, name: str) -> Path:
        """Where an LR image lies that a degradation made."""
        return self.root / set_name / ".lr" / f"{name}.png"

    def begin(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Compare `settings` with those of the runs before and return the record that both make together.

        Settings are nested: {"protocol": {...}, "sets": {name: digest}, "models": {name: {...}}, ...}. Below "sets",
        "models" and "figures" a run may add entries; those that are there must be the same.

        Raises:
            ValueError: the folder's earlier run had another protocol, seed, weights, ...; nothing was written.
        """
        path = self.root / RUN_NAME
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"--out {printable(self.root)} is a file; name a folder")
        earlier = read_json(path, "settings")
        if earlier is None:
            if self.root.is_dir() and any(self.root.iterdir()):
                raise ValueError(f"--out {printable(self.root)} holds other files; choose a new or empty folder")
            return settings
        return _merged(earlier["settings"], settings, self.root, "")

    def write(self, settings: dict[str, Any]) -> None:
        """Write the settings. Raises OSError in one line."""
        self.root.mkdir(parents=True, exist_ok=True)
        document = {"resdiff": __version__, "settings": settings}
        path = self.root / RUN_NAME
        if read_json(path, "settings") != document:
            write_json(path, document)


def read_record(path: Path, image: Path) -> Record | None:
    """Return the record at `path` if it is about the file `image` as it is now, else None."""
    found = read_json(path, "figures")
    if found is None or not image.is_file() or found.get("sha256") != sha256(image):
        return None
    return Record(found["sha256"], found.get("seconds"), found.get("peak_mib"), found["figures"])


def write_record(path: Path, record: Record) -> None:
    """Write a record; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(record))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


GROWING = ("sets", "models", "figures")  # what a later run may add to


def _merged(before: dict[str, Any], now: dict[str, Any], root: Path, where: str) -> dict[str, Any]:
    merged = dict(before)
    for key in dict.fromkeys([*before, *now]):
        place = f"{where}{key}"
        if where.rstrip(" ") in GROWING and (key not in before or key not in now):
            merged[key] = before.get(key, now.get(key))
        elif isinstance(before.get(key), dict) and isinstance(now.get(key), dict):
            merged[key] = _merged(before[key], now[key], root, f"{place} ")
        elif before.get(key) != now.get(key):
            raise ValueError(
                f"{place} was {before.get(key)!r} in the run that filled {printable(root)} and is {now.get(key)!r} "
                "now; pass what it was, or choose another --out"
            )
    return merged
