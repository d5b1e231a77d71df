"""The photos of a gallery: found by name, read, made small enough, with whom they are to be credited to."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from resdiff.eval.harness.page.pictures import read_rgb
from resdiff.eval.harness.testsets import find_images
from resdiff.files.formats import printable
from resdiff.resize import matlab_legacy
from resdiff.sizes import scaled_size

CREDITS = "index.json"  # a list of objects with the keys file, author and licence, beside the photos


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a photo lies."""

    name: str
    path: Path
    is_original: bool  # the photo is still to be made of it
    original: Path | None  # beside a photo
    credit: str


@dataclass(frozen=True, kw_only=True)
class ShownPhoto:
    """A photo as the models get it."""

    name: str
    lr: np.ndarray  # RGB (h, w, 3) uint8
    hr: np.ndarray | None  # RGB (scale * h, scale * w, 3) uint8
    credit: str  # author and licence; may be empty
    note: str  # what was done to it; may be empty


def find_sources(photos: Path | None, hr: Path | None) -> list[Source]:
    """Return the photos of a folder, each with the original of the same stem in the folder `hr`.

    Args:
        photos: None makes the photos of the originals.
        hr: None: there are no originals.

    Raises ValueError, one line: no folder, no image in it, two of the same stem, a damaged `CREDITS`, or neither given.
    """
    if photos is None and hr is None:
        raise ValueError("neither photos nor originals are given; pass --photos DIR, --hr DIR, or both")
    found = {folder: _images(folder) for folder in (photos, hr) if folder is not None}
    folder, paths = next(iter(found.items()))
    originals = {} if photos is None or hr is None else found[hr]
    if originals and not originals.keys() & paths.keys():
        raise ValueError(
            f"no original in {printable(hr or '')} is called as a photo in {printable(folder)}; rename them"
        )
    credits = read_credits(folder)
    return [
        Source(
            name=printable(name),
            path=path,
            is_original=photos is None,
            original=originals.get(name),
            credit=credits.get(path.name, ""),
        )
        for name, path in paths.items()
    ]


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{printable(folder)} is not a folder; check the path")
    return find_images(folder)


def read_credits(folder: Path) -> dict[str, str]:
    """Return file name -> "author, licence" by the `CREDITS` in `folder`; empty without one. Raises ValueError."""
    path = folder / CREDITS
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {entry["file"]: ", ".join(entry[k] for k in ("author", "licence") if entry.get(k)) for entry in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{printable(path)} does not credit photos ({type(error).__name__}); write a list of objects with file, "
            "author and licence, or remove it"
        ) from error


def read_shown(source: Source, scale: float, max_side: int) -> ShownPhoto:
    """Read a photo, reduced to at most `max_side` pixels on its longer side.

    An original is cut to `scale` times the photo; without a photo, this is the original reduced by MATLAB's bicubic.

    Raises ValueError or FileNotFoundError, one line that names the file: unreadable, an original of another size, or
    one smaller than a pixel of the photo.
    """
    whole = read_rgb(source.path)
    hr: np.ndarray | None = None
    if source.is_original:
        hr = _cut(_within(whole, int(max_side * scale)), int(scale), source.path)
        lr = matlab_legacy(hr, 1 / scale)
        note = f"reduced by {scale:g} from the original"
    else:
        lr = _within(whole, max_side)
        if source.original is not None:
            hr = _original(source.original, whole, lr, scale)
        note = "" if lr is whole else f"reduced from {_size(whole)} first"
    return ShownPhoto(name=source.name, lr=lr, hr=hr, credit=source.credit, note=note)


def _original(path: Path, whole: np.ndarray, lr: np.ndarray, scale: float) -> np.ndarray:
    hr = read_rgb(path)
    height, width = scaled_size(whole.shape[0], whole.shape[1], scale)
    if not (0 <= hr.shape[0] - height < scale and 0 <= hr.shape[1] - width < scale):
        raise ValueError(
            f"{printable(path)} is {_size(hr)}, its photo is {_size(whole)}; an original has {scale:g} times its sides"
        )
    return _resized(hr[:height, :width], *scaled_size(lr.shape[0], lr.shape[1], scale))


def _within(image: np.ndarray, side: int) -> np.ndarray:
    """Return the image itself, or reduced to `side` pixels on the longer side."""
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    return image if ratio >= 1 else _resized(image, max(1, round(height * ratio)), max(1, round(width * ratio)))


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _cut(hr: np.ndarray, scale: int, path: Path) -> np.ndarray:
    height, width = (side // scale * scale for side in hr.shape[:2])
    if min(height, width) == 0:
        raise ValueError(f"{printable(path)} is {_size(hr)}, too small to be reduced by {scale}")
    return hr[:height, :width]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
