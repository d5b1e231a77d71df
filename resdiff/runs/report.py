"""What became of each file, as one JSON document: `resdiff upscale --report`.

The document is written whole every ten seconds and at the end, so that a killed run loses little.
"""

import platform
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from resdiff import __version__
from resdiff.files.formats import printable
from resdiff.runs.jobs import Job, check_folder
from resdiff.runs.json_files import read_json, write_json

EVERY = 10.0  # seconds between two writes
SHARE = 20  # a long report may take 1/20 of the time


@dataclass(kw_only=True)
class Entry:
    """One file. Sizes are (width, height) in pixels."""

    source: str
    target: str
    size_in: tuple[int, int] | None = None
    size_out: tuple[int, int] | None = None
    seconds: float | None = None  # reading, the file's share of the model's time, writing
    peak_mib: float | None = None
    tile: int | None = None  # input pixels of a tile's side; None: not tiled
    error: str | None = None
    skipped: bool = False


class Report:
    """The entries of a run, in the order in which they were finished.

    Args:
        path: of the document; None keeps none.
        settings: of the run, told once; `model` and `seed` are repeated for each file.
        memory: name of the field of `Entry.peak_mib`, which says what was measured.
        resume: keep the entries of the document that is there.

    Raises ValueError when `path` cannot be written, does not end in .json, or was not written by resdiff.
    """

    def __init__(self, path: Path | None, settings: dict[str, Any], memory: str, resume: bool = False):
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        if path is None:
            return
        check_report(path)
        earlier = read_json(path, "resdiff")
        self.head: dict[str, Any] = {
            "resdiff": __version__,
            "versions": _versions(),
            "settings": settings,
            "started": _now(),
        }
        self.memory = memory
        if earlier is not None and resume:
            self.head["started"] = earlier.get("started", self.head["started"])
            self.entries = {e["target"]: e for e in earlier.get("files", []) if isinstance(e, dict) and "target" in e}
        self.next_write = time.monotonic() + EVERY

    def add(self, entry: Entry) -> None:
        """Take one finished file; what an earlier run said of a file that is skipped now stays."""
        if self.path is None or (entry.skipped and entry.target in self.entries):
            return
        fields = asdict(entry)
        fields[self.memory] = None if entry.peak_mib is None else round(entry.peak_mib, 1)
        fields["seconds"] = None if entry.seconds is None else round(entry.seconds, 3)
        del fields["peak_mib"]
        settings = self.head["settings"]
        fields |= {"model": settings.get("model"), "seed": settings.get("seed")}
        self.entries.pop(entry.target, None)
        self.entries[entry.target] = fields

    def write_sometimes(self) -> None:
        """Write the document if the last time was long ago. Raises OSError in one line."""
        if self.path is not None and time.monotonic() >= self.next_write:
            self.write(None)

    def write(self, summary: dict[str, Any] | None) -> None:
        """Write the document; `summary` is that of the finished run. Raises OSError in one line."""
        if self.path is None:
            return
        begun = time.monotonic()
        self.next_write = begun + EVERY  # after a failure too
        files = list(self.entries.values())
        document = {**self.head, "finished": _now() if summary else None, "summary": summary, "files": files}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, document)
        self.next_write += SHARE * (time.monotonic() - begun)


def check_report(path: Path) -> None:
    """Raise ValueError when no report can be written to `path`."""
    if path.suffix.lower() != ".json" or path.is_dir():
        raise ValueError(f"report is {printable(path)}; pass the name of a file that ends in .json")
    check_folder(path.parent)
    read_json(path, "resdiff")


def entry_of(job: Job, **fields: Any) -> Entry:
    """Return the entry of `job`."""
    return Entry(source=str(job.source), target=str(job.target), **fields)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("torch", "diffusers", "numpy", "Pillow"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
