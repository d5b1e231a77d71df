"""Going on after a stop: what the run in an output folder was asked for, and what a killed process left there.

`.resdiff-run.json` holds the settings that decide the bytes of the results, and since when they hold. A result that is
older was made with others and is made again; one that is younger is left, also when its source has changed since.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resdiff import __version__
from resdiff.files.formats import TEMPORARY_NAME, printable, temporary_beside
from resdiff.runs.jobs import Job
from resdiff.runs.json_files import read_json, write_json

RUN_NAME = ".resdiff-run.json"


@dataclass(frozen=True)
class Run:
    """The settings of the results in a folder."""

    settings: dict[str, Any]
    since_ns: int  # results of an earlier modification time were made with other settings

    def has(self, job: Job) -> bool:
        """Whether the result of `job` is there and was made with these settings."""
        try:
            return job.target.stat().st_mtime_ns >= self.since_ns
        except OSError:
            return False


def begin_run(folder: Path, settings: dict[str, Any], *, resume: bool, keep_existing: bool) -> Run:
    """Write the record of a run that is about to begin in the output folder, and return it.

    Args:
        folder: is made when it does not exist.
        settings: JSON values by the name of their option.
        resume: the settings must be those of the run before; without a record, existing results are taken as they are.
        keep_existing: existing results count, whatever they were made with (--skip-existing).

    Raises:
        ValueError: resume, and an option differs. OSError: the folder cannot be written to. One line each.
    """
    path = folder / RUN_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        now = _file_clock(path)
    except OSError as error:
        raise OSError(
            f"{printable(folder)} cannot be written: {error.strerror or error}; choose another output"
        ) from error
    earlier = _read(path)
    changed = [] if earlier is None else _changed(earlier.settings, settings)
    if earlier is not None and changed and resume:
        raise ValueError(_difference(folder, changed[0], earlier.settings, settings))
    since = 0 if resume or keep_existing else now
    if earlier is not None and not changed:
        since = earlier.since_ns
    if earlier is None or earlier.settings != settings or earlier.since_ns != since:  # a full disk may be resumed
        write_json(path, {"resdiff": __version__, "since_ns": since, "settings": settings})
    return Run(settings, since)


def _read(path: Path) -> Run | None:
    found = read_json(path, "since_ns")
    if found is None:
        return None
    if not isinstance(found["since_ns"], int) or not isinstance(found.get("settings"), dict):
        raise ValueError(f"{printable(path)} is damaged; remove it")
    return Run(found["settings"], found["since_ns"])


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the settings that differ; a model is told by its weights, wherever it lies."""
    return [key for key in dict.fromkeys([*now, *before]) if key != "model" and before.get(key) != now.get(key)]


def _difference(folder: Path, key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    option = "model" if key == "weights" else key
    was, value = before.get(option), now.get(option)
    if was == value:  # another file under the same name
        was, value = before.get(key), now.get(key)
    return (
        f"{option} was {was!r} in the run that began in {printable(folder)} and is {value!r} now; pass what it was, "
        "leave out --resume to begin anew, or choose another output"
    )


def _file_clock(path: Path) -> int:
    """Return the present time of the file system that `path` is on, which may be another machine's."""
    probe = temporary_beside(path)
    try:
        probe.touch()
        return probe.stat().st_mtime_ns
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def remove_leftovers(folders: Iterable[Path]) -> int:
    """Remove from `folders` the temporary files of processes of this machine that are gone; return how many.

    To be called before this process writes anything: under its own number, another one has died.
    """
    removed = 0
    for folder in folders:
        with contextlib.suppress(OSError):  # a folder that is not there yet
            for name in filter(_is_dead, os.listdir(folder)):
                with contextlib.suppress(OSError):  # another process was quicker
                    (folder / name).unlink()
                    removed += 1
    return removed


def _is_dead(name: str) -> bool:
    """Whether `name` is that of a temporary file of a process that is gone."""
    import psutil

    own = TEMPORARY_NAME.fullmatch(temporary_beside(Path("x")).name)
    other = TEMPORARY_NAME.fullmatch(name)
    if own is None or other is None or other["host"] != own["host"]:
        return False
    return other["pid"] == own["pid"] or not psutil.pid_exists(int(other["pid"]))
