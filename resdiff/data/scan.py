"""Which files of a training set are used, and which are not and why: decided from the headers, before training starts.

Three sources: a folder of photos, two folders of HR / LR pairs, or a manifest. The published trainings read fixed
lists of file names and fail, or loop, at the first broken file; here a file that cannot serve is named beforehand.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resdiff.data.captions import METADATA, Description, read_descriptions
from resdiff.data.manifest import read_manifest
from resdiff.data.photos import Skipped, UnreadablePhoto, photo_paths, photo_size


@dataclass(frozen=True)
class TrainingFile:
    """One photo to train on; height and width are those of the upright HR photo in px."""

    hr: Path
    lr: Path | None
    caption: str
    tags: tuple[str, ...]
    height: int
    width: int


@dataclass(frozen=True)
class Scan:
    """What a training set consists of, in an order that is the same on every machine."""

    used: list[TrainingFile]
    skipped: list[Skipped]

    @property
    def has_pairs(self) -> bool:
        """Whether the photos come with LR partners; all do or none."""
        return any(file.lr for file in self.used)

    def first(self, count: int | None) -> "Scan":
        """Return the same with the first `count` photos only; all of them for None."""
        return replace(self, used=self.used[:count])


@dataclass(frozen=True)
class _Candidate:
    hr: Path
    lr: Path | None
    said: Description


def scan(
    train_data_dir: str | Path | None,
    *,
    lr_data_dir: str | Path | None = None,
    manifest: str | Path | None = None,
    crop: tuple[int, int],
    scale: int = 4,
) -> Scan:
    """Return what a training on crops of `crop` (h, w) px would use.

    Args:
        train_data_dir: folder of HR photos, searched recursively. May be None with a manifest; given beside one, its
            photos that the manifest does not name are listed among the skipped.
        lr_data_dir: folder of their LR partners: the same path below the folder, with any suffix.
        manifest: .csv or .jsonl, see `resdiff.data.manifest`.
        crop: height and width of the HR crops, px; with LR partners, multiples of `scale`.
        scale: HR side over LR side of a pair.

    Raises:
        ValueError: a folder is missing or holds no photo, every photo is too small or unusable, files of pairs have no
            partner, the manifest or a caption file is at fault, or the arguments do not go together. One line each.
    """
    if min(*crop, scale) < 1:
        raise ValueError(f"crop is {crop} and scale {scale}; pass positive numbers of pixels")
    if manifest is not None:
        if lr_data_dir is not None:
            raise ValueError("both lr_data_dir and manifest are given; name the LR files in the manifest")
        candidates, skipped = _of_manifest(Path(manifest), train_data_dir)
    elif train_data_dir is None:
        raise ValueError("neither train_data_dir nor manifest is given; pass one")
    elif lr_data_dir is not None:
        candidates, skipped = _of_folders(Path(train_data_dir), Path(lr_data_dir))
    else:
        candidates, skipped = _of_folder(Path(train_data_dir))
    if any(c.lr for c in candidates) and (crop[0] % scale or crop[1] % scale):
        raise ValueError(f"crop is {crop}, which pairs of scale {scale} cannot be cut to; pass multiples of {scale}")

    looked_at = [_look(candidate, crop, scale) for candidate in candidates]
    used = [file for file in looked_at if isinstance(file, TrainingFile)]
    unfit = [file for file in looked_at if isinstance(file, Skipped)]
    if not used:
        raise ValueError(_nothing_left(candidates, unfit, crop))
    return Scan(used, unfit + skipped)


def _of_folder(folder: Path) -> tuple[list[_Candidate], list[Skipped]]:
    photos = photo_paths(folder)
    said, skipped = read_descriptions(photos, list(folder.rglob(METADATA)))
    return [_Candidate(photo, None, said.get(photo, Description())) for photo in photos], skipped


def _of_folders(hr_dir: Path, lr_dir: Path) -> tuple[list[_Candidate], list[Skipped]]:
    if hr_dir.resolve() == lr_dir.resolve():
        raise ValueError(f"lr_data_dir is {lr_dir}, train_data_dir itself; pass two folders")
    # either folder may lie within the other
    highs = [p for p in photo_paths(hr_dir) if hr_dir.is_relative_to(lr_dir) or not p.is_relative_to(lr_dir)]
    lows = [p for p in photo_paths(lr_dir) if lr_dir.is_relative_to(hr_dir) or not p.is_relative_to(hr_dir)]
    hr, lr = _by_stem(highs, hr_dir), _by_stem(lows, lr_dir)
    alone = [hr[s] for s in hr if s not in lr] + [lr[s] for s in lr if s not in hr]
    if alone:
        raise ValueError(
            f"{len(alone)} of the {len(hr) + len(lr)} files of {hr_dir} and {lr_dir} have no partner, the first is "
            f"{alone[0]}; give partners the same name below their folders, remove the others, or pass a manifest"
        )
    said, skipped = read_descriptions(highs, list(hr_dir.rglob(METADATA)))
    return [_Candidate(path, lr[s], said.get(path, Description())) for s, path in hr.items()], skipped


def _by_stem(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if other is not path:
            raise ValueError(f"{other} and {path} differ only in their suffix, so pairs are ambiguous; rename one")
    return found


def _of_manifest(manifest: Path, folder: str | Path | None) -> tuple[list[_Candidate], list[Skipped]]:
    rows = read_manifest(manifest)
    beside, _ = read_descriptions([row.hr for row in rows])
    candidates = []
    for row in rows:
        said = beside.get(row.hr, Description())
        caption, tags = row.caption, row.tags
        said = Description(said.caption if caption is None else caption, said.tags if tags is None else tags)
        candidates.append(_Candidate(row.hr, row.lr, said))
    if folder is None:
        return candidates, []
    named = {path.resolve() for row in rows for path in (row.hr, row.lr) if path}
    unnamed = [path for path in photo_paths(folder) if path.resolve() not in named]
    return candidates, [Skipped(path, f"is not named in {manifest.name}") for path in unnamed]


def _look(candidate: _Candidate, crop: tuple[int, int], scale: int) -> TrainingFile | Skipped:
    hr, lr, said = candidate.hr, candidate.lr, candidate.said
    try:
        height, width = photo_size(hr)
        lr_height, lr_width = photo_size(lr) if lr else (0, 0)
    except UnreadablePhoto as error:
        return Skipped(error.path, error.reason)
    if height < crop[0] or width < crop[1]:
        return Skipped(hr, f"is {width}x{height}, smaller than the crop of {crop[1]}x{crop[0]}")
    if lr and (lr_height * scale, lr_width * scale) != (height, width):
        return Skipped(lr, f"is {lr_width}x{lr_height}, not 1/{scale} of its HR partner's {width}x{height}")
    return TrainingFile(hr, lr, said.caption, said.tags, height, width)


def _nothing_left(candidates: Sequence[_Candidate], unfit: Sequence[Skipped], crop: tuple[int, int]) -> str:
    sizes = []
    for candidate in candidates:
        with contextlib.suppress(UnreadablePhoto):
            sizes.append(photo_size(candidate.hr))
    if len(sizes) < len(candidates) or any(height >= crop[0] and width >= crop[1] for height, width in sizes):
        return f"none of the {len(candidates)} photos can be used; the first, {unfit[0].path}, {unfit[0].reason}"
    height, width = max(sizes, key=lambda size: min(size[0] / crop[0], size[1] / crop[1]))
    return (
        f"all {len(sizes)} photos are too small for a crop of {crop[1]}x{crop[0]}, the largest is {width}x{height}; "
        "choose a smaller resolution or larger photos"
    )
