"""Which files are written, and by which of several processes: names only, as `resdiff.runs.inputs`."""

import mimetypes
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from resdiff.files.formats import FORMATS, printable
from resdiff.runs.inputs import Input, real

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One file to read and one to write."""

    source: Path
    target: Path


def plan_outputs(
    inputs: Sequence[Input], output: Path, suffix: str | None = None, taken: AbstractSet[Path] = frozenset()
) -> list[Job]:
    """Give every input a name below the folder `output`, or the file `output` to the only one.

    `sub/deep.jpg` becomes `output/sub/deep.png`; inputs that would meet in one name keep their old suffix
    (`one.jpg.png`, `one.webp.png`). Names that differ only in case count as one.

    Args:
        inputs: from `find_inputs`.
        output: a file if it has the suffix of a format that is written and is no folder, else a folder.
        suffix: of the results, ".png" and so on; None: that of the file `output`, or ".png".
        taken: targets that were given away before, to files that came earlier.

    Raises:
        ValueError: several inputs for one file, two for one name, a target that is an input, an unknown suffix, or a
            folder that cannot be written to.
    """
    if suffix is not None and suffix not in FORMATS:
        raise ValueError(f"format is {suffix.lstrip('.')!r}; choose {', '.join(name[1:] for name in FORMATS)}")
    if is_file_name(output):
        if suffix is not None and FORMATS[suffix] != FORMATS[output.suffix.lower()]:
            raise ValueError(f"output is {printable(output)}, but format is {suffix[1:]!r}; leave one of them out")
        if len(inputs) != 1:
            raise ValueError(
                f"output is the file {printable(output)}, but there are {len(inputs)} inputs; pass a folder"
            )
        jobs = [Job(inputs[0].path, output)]
    elif not output.is_dir() and (mimetypes.guess_type(output.name)[0] or "").startswith("image/"):
        raise ValueError(f"output is {printable(output)}: cannot write {output.suffix}; choose {', '.join(FORMATS)}")
    else:
        avoided = {str(target.relative_to(output)).casefold() for target in taken}
        names = _distinct_names([one.relative for one in inputs], suffix or ".png", avoided)
        jobs = [Job(one.path, output / name) for one, name in zip(inputs, names, strict=True)]
    _check_targets(jobs)
    return jobs


def is_file_name(output: Path) -> bool:
    """Whether `output` names one file, and not the folder of the results."""
    return output.suffix.lower() in FORMATS and not output.is_dir()


def _distinct_names(relatives: list[Path], suffix: str, taken: AbstractSet[str]) -> list[Path]:
    plain = [path.with_suffix(suffix) for path in relatives]
    full = [path.with_name(path.name + suffix) for path in relatives]
    names = plain
    while True:
        counts = Counter(str(name).casefold() for name in names)
        counts.update(counts.keys() & taken)
        wanted = [long if counts[str(name).casefold()] > 1 else name for name, long in zip(names, full, strict=True)]
        if wanted == names:
            return [_numbered(name, long, taken) for name, long in zip(names, full, strict=True)]
        names = wanted  # a longer name may meet the name of a third file: look again


def _numbered(name: Path, long: Path, taken: AbstractSet[str]) -> Path:
    """Return `name`, or `long` with the first number that makes it free, where `name` is taken."""
    number = 2
    while str(name).casefold() in taken:
        name = long.with_name(f"{long.stem}-{number}{long.suffix}")
        number += 1
    return name


def _check_targets(jobs: Sequence[Job]) -> None:
    sources = {real(job.source) for job in jobs}
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(str(job.target).casefold(), job)
        if other is not job:
            raise ValueError(
                f"{printable(other.source)} and {printable(job.source)} would both be written to "
                f"{printable(job.target)}; pass the folder above them, or one at a time"
            )
        if real(job.target) in sources:
            raise ValueError(f"{printable(job.target)} is an input and would be overwritten; choose another output")
    for folder in sorted({job.target.parent for job in jobs}):
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise ValueError when nothing can be written into `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(
            f"output folder {printable(folder)} cannot be made: {printable(existing)} is a file; choose another output"
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"output folder {printable(folder)} is not writable; choose another output")


@dataclass(frozen=True)
class Shard:
    """The part of the files that one of several processes takes: every `count`-th from number `index`, from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str | None, environ: Mapping[str, str]) -> "Shard":
        """Read "2/4", or for None what `accelerate launch` and `torchrun` say in RANK and WORLD_SIZE.

        Raises ValueError unless 1 <= i <= n.
        """
        if text is None:
            rank, size = environ.get("RANK", "0"), environ.get("WORLD_SIZE", "1")
            if not (rank.isdecimal() and size.isdecimal() and int(rank) < int(size)):
                raise ValueError(f"RANK is {rank!r} and WORLD_SIZE {size!r}; unset them, or pass --shard i/n")
            return cls(int(rank) + 1, int(size))
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ValueError(f"shard is {text!r}; pass i/n with i from 1 to n, such as 2/4")
        return cls(int(match[1]), int(match[2]))

    def of(self, jobs: Sequence[T]) -> list[T]:
        """Return this process's share; everything is in exactly one."""
        return list(jobs[self.index - 1 :: self.count])

    def name(self, path: Path) -> Path:
        """Return `path` with the shard in its name, report.2-of-4.json, where there are several."""
        return path if self.count == 1 else path.with_name(f"{path.stem}.{self.index}-of-{self.count}{path.suffix}")

    def __str__(self) -> str:
        return "" if self.count == 1 else f"shard {self.index}/{self.count}: "
