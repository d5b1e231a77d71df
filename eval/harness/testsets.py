"""Test sets: LR images alone, LR + HR pairs, or HR images and the degradation that makes their LR.

A set is named on the command line by one text (`open_testset`). Everything that can be wrong with it is said before a
model runs, from the files' names and headers.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from resdiff.data.degradation.presets import preset, to_yaml
from resdiff.eval.harness.degrading import check_degradation
from resdiff.eval.harness.images import image_size
from resdiff.eval.harness.specs import check_keys, split_spec
from resdiff.files.digest import sha256
from resdiff.files.formats import is_image_name, printable

HR_FOLDERS = ("HR", "GT", "hr", "gt", "test_HR")  # the last as in StableSR's sets
LR_FOLDERS = ("LR", "LQ", "lr", "lq", "test_LR")  # after LRx{scale}
KEYS = ("name", "hr", "lr", "degradation", "seed")
NAMED = 3  # files that a message names, of all it counts

Value = TypeVar("Value")


@dataclass(frozen=True)
class Sample:
    """One image of a set. `name` is the stem of its LR file, of its HR file where LR is made."""

    name: str
    lr: Path | None  # None: made from HR
    hr: Path | None  # None: there is none


@dataclass(frozen=True)
class TestSet:
    """Images to restore, in the order of their names."""

    __test__ = False  # for pytest, which would collect a class of this name

    name: str
    samples: tuple[Sample, ...]
    source: str  # the folder as given
    degradation: str | None  # name of the preset that makes LR
    seed: int | None  # of the degradation
    scale: int  # HR side over LR side

    @property
    def preset(self) -> str | None:
        """The numbers of the degradation, as YAML: a name may come to stand for others."""
        return None if self.degradation is None else to_yaml(preset(self.degradation))

    @property
    def has_hr(self) -> bool:
        """Whether there are HR images; all samples have one or none has."""
        return self.samples[0].hr is not None


def open_testsets(specs: Sequence[str], scale: int) -> list[TestSet]:
    """Open several sets as `open_testset`. Raises ValueError when two have the same name."""
    opened: dict[str, TestSet] = {}
    for spec in specs:
        testset = open_testset(spec, scale)
        if (other := opened.setdefault(testset.name, testset)) is not testset:
            raise ValueError(
                f"two sets are called {testset.name!r}, {other.source} and {testset.source}; add name=... to one"
            )
    return list(opened.values())


def open_testset(spec: str, scale: int) -> TestSet:
    """Open the set that `spec` describes: a folder, then `key=value` words.

    - `DIR`: pairs, if it has one of the sub-folders `HR_FOLDERS` and one of LRx{scale} and `LR_FOLDERS`; LR alone, if it
      has only the latter, or images directly in it.
    - `DIR hr=HR lr=LR`: these sub-folders, or any others by absolute path. `DIR lr=LR`: LR alone.
    - `DIR degradation=PRESET seed=0`: HR images in DIR or one of its `HR_FOLDERS`; LR is made of them (`make_lr`).
    - `name=NAME` in any of them; without it, the name of the folder.

    Partners have the same stem, or one that differs by an ending: 0801 and 0801x4, Canon_004_HR and Canon_004_LR4.

    Args:
        spec: see above.
        scale: HR side over LR side.

    Raises:
        ValueError: in one line that names the files: no such folder or no image in it, unknown keys or presets, a
            preset of another scale, partners that are missing or ambiguous, files that are no images, HR sides that are
            not `scale` times LR's or, where LR is made, no multiples of `scale`.
    """
    folder, given = split_spec(spec)
    check_keys(given, KEYS, f"data set {folder}")
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"data set {printable(folder)} is not a folder; check the path")
    name = _set_name(given.get("name", _folder_name(root)))
    degradation, seed = given.get("degradation"), _seed(given)
    if degradation is not None:
        if "lr" in given:
            raise ValueError(f"data set {name} has both lr= and degradation=; keep one, LR is either read or made")
        check_degradation(degradation, scale)
        made_from = _given_folder(root, given, "hr") or _first_folder(root, HR_FOLDERS) or root
        samples = [Sample(stem, None, path) for stem, path in find_images(made_from).items()]
        testset = TestSet(name, tuple(samples), folder, degradation, seed, scale)
    else:
        hr_dir, lr_dir = _pair_folders(root, given, name, scale)
        lr = find_images(lr_dir)
        alone = [Sample(stem, path, None) for stem, path in lr.items()]
        samples = alone if hr_dir is None else _pairs(lr, find_images(hr_dir))
        testset = TestSet(name, tuple(samples), folder, None, None, scale)
    _check_sizes(testset)
    return testset


def digest(testset: TestSet) -> str:
    """Return the SHA-256, in hex, over the names and the bytes of the set's files: LR, then HR of each sample."""
    total = hashlib.sha256()
    for sample in testset.samples:
        for role, path in (("lr", sample.lr), ("hr", sample.hr)):
            if path is not None:
                total.update(f"{sample.name} {role} {sha256(path)}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def find_images(folder: Path) -> dict[str, Path]:
    """Return the images directly in `folder`, by stem, in the order of their names."""
    paths = sorted(p for p in folder.iterdir() if is_image_name(p) and not p.name.startswith(".") and p.is_file())
    if not paths:
        below = sorted(p.name for p in folder.iterdir() if p.is_dir())
        hint = f"it has the folders {some(below, 6)}, name one of them" if below else "it is empty or has other files"
        raise ValueError(f"{printable(folder)} holds no image; {hint}")
    images: dict[str, Path] = {}
    for path in paths:
        if (other := images.setdefault(path.stem, path)) is not path:
            raise ValueError(f"{printable(other)} and {path.name} differ only in their suffix; remove or rename one")
    return images


def _pair_folders(root: Path, given: Mapping[str, str], name: str, scale: int) -> tuple[Path | None, Path]:
    """Return the folders of HR (None: there is none) and of LR."""
    hr, lr = _given_folder(root, given, "hr"), _given_folder(root, given, "lr")
    if "seed" in given:
        raise ValueError(f"data set {name} has seed= without degradation=; leave it out, LR is read from files")
    if hr is None and lr is None:
        hr = _first_folder(root, HR_FOLDERS)
        lr = _first_folder(root, (f"LRx{scale}", *LR_FOLDERS))
    if lr is None and hr is not None:
        raise ValueError(
            f"data set {name} has HR in {hr.name}, and LR in no folder LRx{scale} or {', '.join(LR_FOLDERS)} or lr=; "
            "add lr=FOLDER, or degradation=PRESET to make LR"
        )
    if hr is not None and lr is not None and hr.resolve() == lr.resolve():
        raise ValueError(f"data set {name} has hr= and lr= in one folder, {printable(hr)}; give two")
    return hr, lr or root


def _pairs(lr: dict[str, Path], hr: dict[str, Path]) -> list[Sample]:
    """Pair LR and HR images by stem, or by stem without ending where the stems differ."""
    partners = hr
    if set(lr) != set(hr):
        by_stem = {stem: path for stem, path in hr.items() if stem in lr}
        rest = distinct((without_ending(stem), path) for stem, path in hr.items() if stem not in lr)
        ours = distinct((without_ending(stem), stem) for stem in lr if stem not in hr)
        partners = by_stem | {stem: rest[key] for key, stem in ours.items() if key in rest}
        used = set(partners.values())
        no_hr = [path.name for stem, path in lr.items() if stem not in partners]
        no_lr = [path.name for path in hr.values() if path not in used]
        if no_hr or no_lr:
            sides = [
                f"{len(names)} of the {count} {own} images have no {other} ({some(names)})"
                for names, count, own, other in ((no_hr, len(lr), "LR", "HR"), (no_lr, len(hr), "HR", "LR"))
                if names
            ]
            folders = [printable(next(iter(side.values())).parent) for side in (lr, hr)]
            raise ValueError(f"{' and '.join(sides)} in {' and '.join(folders)}; give partners the same name")
    return [Sample(stem, path, partners[stem]) for stem, path in lr.items()]


def without_ending(stem: str) -> str:
    """Return a stem without what tells LR from HR: 0801x4, 001_LR4, 001_LRx4, 001_x1, 001-HR; another as it is."""
    return re.sub(r"(?<=.)([_-](HR|GT|LQ|LR(x?\d+)?|x\d+)|x\d+)$", "", stem, flags=re.IGNORECASE)


def distinct(items: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Return a mapping without the keys that come more than once: what they stand for is not clear."""
    result: dict[str, Value] = {}
    several = set()
    for key, value in items:
        if key in result:
            several.add(key)
        result[key] = value
    return {key: value for key, value in result.items() if key not in several}


def _check_sizes(testset: TestSet) -> None:
    """Raise ValueError unless all headers can be read and the sizes of partners fit."""
    scale, wrong = testset.scale, []
    unreadable: list[str] = []
    for sample in testset.samples:
        lr, hr = (_unless_broken(image_size, path, unreadable) if path else None for path in (sample.lr, sample.hr))
        if sample.hr and not sample.lr and hr and (hr[0] % scale or hr[1] % scale):
            wrong.append(f"{sample.hr.name} ({hr[1]}x{hr[0]})")
        if sample.lr and sample.hr and lr and hr and hr != (lr[0] * scale, lr[1] * scale):
            wrong.append(f"{sample.hr.name} ({hr[1]}x{hr[0]}, LR {lr[1]}x{lr[0]})")
    if unreadable:
        raise ValueError(
            f"{len(unreadable)} files of data set {testset.name} cannot be read; the first: {unreadable[0]}"
        )
    if wrong and testset.degradation:
        raise ValueError(
            f"the sides of {len(wrong)} of the {len(testset.samples)} HR images of {testset.name} are no multiples of "
            f"the scale {scale}: {some(wrong)}; make the set with eval/make_testset.py, which crops them"
        )
    if wrong:
        raise ValueError(
            f"{len(wrong)} of the {len(testset.samples)} HR images of {testset.name} are not {scale} times as large as "
            f"their LR: {some(wrong)}; pass the --scale that the pairs have, or crop HR"
        )


def _unless_broken(function: Callable[[Path], Value], path: Path, problems: list[str]) -> Value | None:
    """Return function(path); where the file cannot be read, None, and a line more in `problems`."""
    try:
        return function(path)
    except (ValueError, OSError) as error:
        problems.append(str(error))
        return None


def restored_size(sample: Sample, scale: int) -> tuple[int, int]:
    """Return (height, width) that a result for `sample` has: HR's, without HR `scale` times LR's."""
    if sample.hr is not None:
        return image_size(sample.hr)
    assert sample.lr is not None  # a sample has one of them
    height, width = image_size(sample.lr)
    return height * scale, width * scale


def _given_folder(root: Path, given: Mapping[str, str], key: str) -> Path | None:
    """Return the folder that hr= or lr= names, relative to `root` or absolute; None where it is not given."""
    if key not in given:
        return None
    folder = root / Path(given[key]).expanduser()
    if not given[key] or not folder.is_dir():
        raise ValueError(f"{key}={given[key]} is not a folder in {printable(root)}; check the path")
    return folder


def _first_folder(root: Path, names: Iterable[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _folder_name(root: Path) -> str:
    """Return what to call a set: its folder, or the one above of a folder that is only called HR or LRx4."""
    root = root.resolve()
    is_side = root.name in HR_FOLDERS + LR_FOLDERS or re.fullmatch(r"LRx\d+", root.name)
    return root.parent.name if is_side and root.parent.name else root.name


def _set_name(name: str) -> str:
    """Return `name` if it can be a folder of results; raises ValueError otherwise."""
    if not name or name in (".", "..") or any(c in '/\\:*?"<>|' or not c.isprintable() for c in name):
        raise ValueError(f"{name!r} cannot be the name of a data set's folder; add name=... of letters and digits")
    return name


def _seed(given: Mapping[str, str]) -> int:
    text = given.get("seed", "0")
    if not text.isascii() or not text.isdecimal():
        raise ValueError(f"seed={text} is no seed; give a whole number of at least 0")
    return int(text)


def some(names: Sequence[str], count: int = NAMED) -> str:
    """Return the first `count` names, and how many more there are."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(printable, names[:count])) + more
