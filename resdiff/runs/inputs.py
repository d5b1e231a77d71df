"""Which files are read: names only, so that a mistake is found before a model is loaded.

Folders are walked through links, each folder once, so that a link to a folder above ends nowhere. `**` of a pattern
likewise: the standard library's `glob` goes round such a loop until the path is too long.
"""

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resdiff.files.formats import READABLE, is_image_name, printable


@dataclass(frozen=True)
class Input:
    """An image file, and the name under which its result is filed."""

    path: Path
    relative: Path  # below the folder or the fixed part of the pattern that was given; the bare name of a file


@dataclass(frozen=True)
class Found:
    """The files found, and one line for each folder that could not be looked into."""

    inputs: list[Input]
    problems: list[str]


def find_inputs(arguments: Sequence[str], output: Path) -> Found:
    """Return the image files that `arguments` name, each once, in the order given and sorted within a folder.

    Args:
        arguments: files, folders (searched recursively, links followed) and glob patterns (`**` recurses). In folders
            and patterns, names that begin with a dot, other suffixes than `READABLE` and the files below `output` are
            passed over. A file that does not exist is returned, so that it is reported in its turn.
        output: where the results will go.

    Raises:
        ValueError: nothing is found, or an argument is empty (an unset variable of a script: not the current folder).
    """
    found = look(arguments, output)
    if not any(one.path.exists() for one in found.inputs):
        missing = [printable(one.path) for one in found.inputs]
        if missing:
            raise ValueError(f"no input found: {', '.join(missing)} does not exist; check the name")
        if found.problems:
            raise ValueError(f"no input found: {found.problems[0]}")
        raise ValueError(
            f"no input found: {', '.join(map(printable, arguments))} holds no image ({', '.join(sorted(READABLE))})"
        )
    return found


def look(arguments: Sequence[str], output: Path) -> Found:
    """As `find_inputs`, but finding nothing is no error: something may come."""
    found: dict[str, Input] = {}
    problems: list[str] = []
    for argument in arguments:
        if not argument:
            raise ValueError("an input is the empty string; name a file or a folder")
        root = root_of(argument)
        if root is None:
            inputs = [Input(Path(argument), Path(Path(argument).name))]
        else:
            pattern = Path(argument).parts[len(root.parts) :]
            paths = sorted(set(_expand(root, pattern, problems)))
            inputs = [Input(path, path.relative_to(root)) for path in paths if not _is_result(path, root, output)]
        for one in inputs:
            found.setdefault(real(one.path), one)
    return Found(list(found.values()), list(dict.fromkeys(problems)))


def root_of(argument: str) -> Path | None:
    """Return the folder that `argument` is, or the fixed part of the pattern that it is; None for a file."""
    path = Path(argument)
    if path.is_dir():
        return path
    if not glob.has_magic(argument) or path.exists():
        return None
    fixed = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
    return Path(*path.parts[:fixed])


def _is_result(path: Path, root: Path, output: Path) -> bool:
    """Whether `path` was written by an earlier run; a folder written into itself is told by `plan_outputs`."""
    own, top = Path(real(output)), Path(real(root))
    return own != top and own.is_relative_to(top) and Path(real(path)).is_relative_to(own)


def real(path: Path) -> str:
    """Return where `path` leads; of a link that leads to itself, the link (`Path.resolve` raises)."""
    return os.path.realpath(path)


def _expand(root: Path, pattern: Sequence[str], problems: list[str]) -> Iterator[Path]:
    """Yield the images below `root` that `pattern` names, part by part; without a pattern, all of them."""
    waiting = [(root, tuple(pattern))]  # a list, not recursion: folders may be nested deeper than Python's stack
    visited = set()
    while waiting:
        folder, parts = waiting.pop()
        try:
            status = folder.stat()
            key = (status.st_dev, status.st_ino, parts)
            if key in visited:
                continue
            visited.add(key)
            names = os.listdir(folder)
        except OSError as error:
            problems.append(f"{printable(folder)} cannot be read: {error.strerror or error}; check its permissions")
            continue
        head, rest = (parts[0], parts[1:]) if parts else ("**", ())
        if parts and head == "**":  # which may stand for no folder at all
            waiting.append((folder, rest))
        for name in sorted(names, reverse=True):
            if name.startswith(".") and not head.startswith("."):
                continue
            path = folder / name
            if path.is_dir():
                if head == "**":
                    waiting.append((path, parts))
                elif fnmatch.fnmatch(name, head):
                    waiting.append((path, rest))
            elif not rest and (not parts or (head != "**" and fnmatch.fnmatch(name, head))) and _is_image(path):
                yield path


def _is_image(path: Path) -> bool:
    """Whether `path` has an image's name and is a file; a link that leads nowhere is, and will be reported."""
    return is_image_name(path) and (path.is_file() or (path.is_symlink() and not path.exists()))
