"""Single files in the folder of published files: their names, the address that each is downloaded from, and removal.

Importing this file does not import torch.
"""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from resdiff.checkpoints.download import locked, part_files
from resdiff.checkpoints.known import stem
from resdiff.checkpoints.records import record_of


def inside(folder: Path, name: str) -> Path:
    """Return folder / name; raises ValueError unless `name` is a bare file name, which cannot lead out of the folder."""
    if not name or name in (".", "..") or any(character in name for character in "/\\:\0"):
        raise ValueError(f"{name!r} is not a file name within {folder}; use a name without / \\ : or ..")
    return folder / name


def with_twins(names: Iterable[str]) -> list[str]:
    """Return names of files, each followed by that of its `.safetensors` twin."""
    return list(dict.fromkeys(twin for name in names for twin in (name, f"{stem(name)}.safetensors")))


def address(file: str, url: str) -> str:
    """Return where a file is downloaded from: its own `url`, or $RESDIFF_MIRROR, a folder with files of these names."""
    mirror = os.environ.get("RESDIFF_MIRROR")
    return f"{mirror.rstrip('/')}/{file}" if mirror else url


def delete(folder: Path, names: Iterable[str]) -> list[Path]:
    """Delete files of `folder`, their `.safetensors` twins, records and unfinished downloads; return what was deleted.

    A link is deleted, not what it leads to. Raises ValueError, one line: a file is being downloaded or cannot be deleted.
    """
    removed = []
    for target in (inside(folder, name) for name in with_twins(names)):
        present = [path for path in (target, record_of(target), *part_files(target)) if os.path.lexists(path)]
        with ExitStack() as stack:
            if present:
                stack.enter_context(locked(target, wait=False))
            for path in present:
                try:
                    path.unlink()
                except OSError as error:
                    raise ValueError(f"{path} cannot be deleted ({error.strerror}); delete it by hand") from error
                removed.append(path)
    return removed
