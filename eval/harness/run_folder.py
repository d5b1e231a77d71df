"""The folder of a benchmark: what is done, under which settings, and what each image scored.

    OUT/run.json                    what decides the numbers; a later run into the same folder must agree with it
    OUT/<set>/<model>/<name>.png    finished images
    OUT/<set>/<model>/<name>.json   their figures, seconds and memory
    OUT/<set>/.lr-<hash>/<name>.png LR images that a degradation made

Everything is written whole or not at all, so that a killed run goes on where it stopped. A figure counts only for the
very image it was computed on: the record holds the image's SHA-256.
"""

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from resdiff import __version__
from resdiff.eval.harness.testsets import TestSet
from resdiff.files.digest import sha256
from resdiff.files.formats import printable
from resdiff.runs.json_files import read_json, write_json

RUN_NAME = "run.json"
GROWING = ("sets", "models", "figures")  # what a later run may add to


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

    def made_lr(self, testset: TestSet, name: str) -> Path:
        """Where an LR image lies that a degradation made; another degradation or seed has another folder."""
        numbers = f"{testset.preset} {testset.seed}".encode()
        return self.root / testset.name / f".lr-{hashlib.sha256(numbers).hexdigest()[:8]}" / f"{name}.png"

    def check(self) -> None:
        """Raise ValueError when the folder is a file, or holds what no benchmark wrote."""
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"--out {printable(self.root)} is a file; name a folder")
        if read_json(self.root / RUN_NAME, "settings") is None and self.root.is_dir() and any(self.root.iterdir()):
            raise ValueError(f"--out {printable(self.root)} holds other files; choose a new or empty folder")

    def begin(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Compare `settings` with those of the runs before and return what holds for both.

        Settings are {"protocol": {...}, "seed": 0, ..., "sets": {name: {...}}, "models": {name: {...}}, ...}. To the
        entries of `GROWING` a run may add; what is there already must be the same.

        Raises:
            ValueError: the folder's earlier run had another protocol, seed, weights, ...; nothing was written.
        """
        self.check()
        found = read_json(self.root / RUN_NAME, "settings")
        if found is None or not any(self.root.glob("*/*/*.json")):  # nothing was made under the earlier settings
            return settings
        earlier = found["settings"]
        for key in dict.fromkeys([*earlier, *settings]):
            if key in GROWING:
                for name in earlier.get(key, {}).keys() & settings.get(key, {}).keys():
                    self._compare(f"{key} {name}", earlier[key][name], settings[key][name])
            else:
                self._compare(key, earlier.get(key), settings.get(key))
        return settings | {key: earlier.get(key, {}) | settings.get(key, {}) for key in GROWING}

    def _compare(self, place: str, before: Any, now: Any) -> None:
        """Raise ValueError that names what differs first."""
        if isinstance(before, dict) and isinstance(now, dict):
            for key in dict.fromkeys([*now, *before]):
                self._compare(f"{place} {key}", before.get(key), now.get(key))
        elif before != now:
            raise ValueError(
                f"{place} was {before!r} in the run that filled {printable(self.root)} and is {now!r} now; pass what it "
                "was, or choose another --out"
            )

    def write(self, settings: dict[str, Any]) -> None:
        """Write the settings. Raises OSError in one line."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"--out {printable(self.root)} cannot be made: {error.strerror}; choose another") from error
        document = {"resdiff": __version__, "settings": settings}
        path = self.root / RUN_NAME
        if read_json(path, "settings") != document:
            write_json(path, document)


def read_record(path: Path, image: Path) -> Record | None:
    """Return the record at `path` if it is about the file `image` as it is now, else None."""
    try:
        found = read_json(path, "figures")
    except ValueError:  # cut off, as by a machine that lost power
        found = None
    if found is None or not image.is_file() or found.get("sha256") != sha256(image):
        return None
    return Record(found["sha256"], found.get("seconds"), found.get("peak_mib"), found["figures"])


def write_record(path: Path, record: Record) -> None:
    """Write a record; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(record))
