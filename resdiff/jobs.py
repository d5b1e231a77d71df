"""Which files are read and which are written: the names only, so that a mistake is found before a model is loaded."""

import glob
import mimetypes
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resdiff.formats import FORMATS, is_image_name


@dataclass(frozen=True)
class Input:
    """An image file, and the name under which its result is filed."""

    path: Path
    relative: Path  # below the folder or the fixed part of the pattern that was given; the bare name of a file


@dataclass(frozen=True)
class Job:
    """One file to read and one to write."""

    source: Path
    target: Path


def find_inputs(arguments: Sequence[str], output: Path) -> list[Input]:
    """Return the image files that `arguments` name, each once, in the order given and sorted within a folder.

    Args:
        arguments: files, folders (searched recursively) and glob patterns (`**` recurses). In folders and patterns,
            names that begin with a dot, other suffixes than `FORMATS` and the files below `output` are passed over.
            A file that does not exist is returned, so that it is reported in its turn.
        output: where the results will go.

    Raises:
        ValueError: nothing is found, or an argument is empty (an unset variable of a script: not the current folder).
    """
    found: dict[Path, Input] = {}
    for argument in arguments:
        if not argument:
            raise ValueError("an input is the empty string; name a file or a folder")
        path = Path(argument)
        if path.is_dir():
            inputs = _images_below(path, path, output)
        elif glob.has_magic(argument) and not path.exists():
            inputs = _images_matching(argument, output)
        else:
            inputs = [Input(path, Path(path.name))]
        for one in inputs:
            found.setdefault(one.path.resolve(), one)
    if not any(one.path.exists() for one in found.values()):
        missing = [str(one.path) for one in found.values()]
        if missing:
            raise ValueError(f"no input found: {', '.join(missing)} does not exist; check the name")
        raise ValueError(f"no input found: {', '.join(arguments)} holds no image ({', '.join(FORMATS)})")
    return list(found.values())


def _images_below(folder: Path, root: Path, output: Path) -> list[Input]:
    inputs = [Input(path, path.relative_to(root)) for path in sorted(folder.rglob("*")) if path.is_file()]
    # results of an earlier run are no inputs; a folder written into itself is, see `plan_outputs`
    own = output.resolve()
    earlier = own if own != folder.resolve() and own.is_relative_to(folder.resolve()) else None
    return [
        one
        for one in inputs
        if is_image_name(one.path)
        and not any(part.startswith(".") for part in one.path.relative_to(folder).parts)
        and not (earlier and one.path.resolve().is_relative_to(earlier))
    ]


def _images_matching(pattern: str, output: Path) -> list[Input]:
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:fixed])
    inputs: list[Input] = []
    for match in sorted(glob.glob(pattern, recursive=True)):
        path = Path(match)
        if path.is_dir():
            inputs += _images_below(path, root, output)
        elif is_image_name(path):
            inputs.append(Input(path, path.relative_to(root)))
    return inputs


def plan_outputs(inputs: Sequence[Input], output: Path, suffix: str | None = None) -> list[Job]:
    """Give every input a name below the folder `output`, or the file `output` to the only one.

    `sub/deep.jpg` becomes `output/sub/deep.png`; inputs that would meet in one name keep their old suffix
    (`one.jpg.png`, `one.webp.png`). Names that differ only in case count as one.

    Args:
        inputs: from `find_inputs`.
        output: a file if it has an image's suffix and is no folder, else a folder.
        suffix: of the results, ".png" and so on; None: that of the file `output`, or ".png".

    Raises:
        ValueError: several inputs for one file, two for one name, a target that is an input, an unknown suffix, or a
            folder that cannot be written to.
    """
    if suffix is not None and suffix not in FORMATS:
        raise ValueError(f"format is {suffix.lstrip('.')!r}; choose {', '.join(name[1:] for name in FORMATS)}")
    is_folder = output.is_dir()
    if not is_folder and is_image_name(output):
        if suffix is not None and FORMATS[suffix] != FORMATS[output.suffix.lower()]:
            raise ValueError(f"output is {output}, but format is {suffix[1:]!r}; leave one of them out")
        if len(inputs) != 1:
            raise ValueError(f"output is the file {output}, but there are {len(inputs)} inputs; pass a folder")
        jobs = [Job(inputs[0].path, output)]
    elif not is_folder and (mimetypes.guess_type(output.name)[0] or "").startswith("image/"):
        raise ValueError(f"output is {output}: cannot write {output.suffix}; choose {', '.join(FORMATS)}")
    else:
        names = _distinct_names([one.relative for one in inputs], suffix or ".png")
        jobs = [Job(one.path, output / name) for one, name in zip(inputs, names, strict=True)]
    _check_targets(jobs)
    return jobs


def _distinct_names(relatives: list[Path], suffix: str) -> list[Path]:
    plain = [path.with_suffix(suffix) for path in relatives]
    full = [path.with_name(path.name + suffix) for path in relatives]
    names = plain
    while True:
        counts = Counter(str(name).casefold() for name in names)
        wanted = [long if counts[str(name).casefold()] > 1 else name for name, long in zip(names, full, strict=True)]
        if wanted == names:
            return names
        names = wanted  # a longer name may meet the name of a third file: look again


def _check_targets(jobs: Sequence[Job]) -> None:
    sources = {job.source.resolve() for job in jobs}
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(str(job.target).casefold(), job)
        if other is not job:
            raise ValueError(
                f"{other.source} and {job.source} would both be written to {job.target}; "
                "pass the folder above them, or one at a time"
            )
        if job.target.resolve() in sources:
            raise ValueError(f"{job.target} is an input and would be overwritten; choose another output")
    for folder in sorted({job.target.parent for job in jobs}):
        check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raise ValueError when nothing can be written into `folder`, which need not exist yet."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"output folder {folder} cannot be made: {existing} is a file; choose another output")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"output folder {folder} is not writable; choose another output")


def without_existing(jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs whose target does not exist yet."""
    return [job for job in jobs if not job.target.exists()]
