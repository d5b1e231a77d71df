"""The images of a run as rows: crops where the results differ most, whole pictures for the slider, and the figures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resdiff.eval.harness.cells import Cell, image_cells, of_images
from resdiff.eval.harness.document import Document, ImageEntry
from resdiff.eval.harness.page.crops import place
from resdiff.eval.harness.page.pictures import data_uri, read_rgb, within
from resdiff.files.formats import printable

LR, HR = "LR", "HR"  # the sides of the slider beside the models
BUDGET = 36 * 2**20  # bytes of all whole pictures as they stand in the page; crops come on top, about 60 kB an image


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The same square of one side."""

    side: str
    uri: str
    style: int | None  # number of the model; None for LR and HR


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image."""

    image: ImageEntry
    crops: list[Crop]
    crop_side: tuple[int, int]  # height and width, px of the result
    marked: tuple[float, float, float, float]  # top, left, height, width of the square, % of the picture
    sides: dict[str, str]  # side -> data URI
    cells: dict[str, list[Cell]]  # model -> cells in the order of `of_images`
    values: dict[str, dict[str, float | None]]  # model -> figure -> number


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All rows, and what had to be reduced or left out."""

    rows: list[Row]
    limit: float  # px of a whole picture
    reduced: int  # whole pictures above it
    left_out: dict[str, int]  # set -> images


def gallery(document: Document, folder: Path, max_images: int) -> Gallery:
    """Read the images of the run in `folder`, at most the first `max_images` of a set.

    Raises:
        ValueError, FileNotFoundError: an image is missing, unreadable or of the wrong size. One line that names it.
    """
    of_sets = {test_set.name: document.images_of(test_set.name) for test_set in document.sets}
    kept = [entry for entries in of_sets.values() for entry in entries[:max_images]]
    left_out = {name: len(entries) - max_images for name, entries in of_sets.items() if len(entries) > max_images}
    styles = {model.name: i for i, model in enumerate(document.models)}
    crops, sizes = [], []
    for entry in kept:
        sides = read_sides(entry, folder)
        crops.append(_crops(sides, entry, styles))
        sizes += [image.shape[0] * image.shape[1] for image in sides.values()]

    def encode(limit: float) -> Iterator[list[str]]:
        for entry in kept:
            yield [data_uri(image, pixels=limit) for image in read_sides(entry, folder).values()]

    by_image = of_images(document)
    uris, limit = within(BUDGET, sizes, encode)
    rows = [
        Row(
            image=entry,
            crops=row_crops,
            crop_side=(box[2], box[3]),
            marked=_percent(box, entry),
            sides=dict(zip(_side_names(entry), row_uris, strict=True)),
            cells=image_cells(entry, by_image),
            values={name: made.figures for name, made in entry.models.items()},
        )
        for entry, (box, row_crops), row_uris in zip(kept, crops, uris, strict=True)
    ]
    return Gallery(rows=rows, limit=limit, reduced=sum(size > limit for size in sizes), left_out=left_out)


def read_sides(entry: ImageEntry, folder: Path) -> dict[str, np.ndarray]:
    """Return the results and, where there are, LR and HR, this cut to the size of the results: RGB (H, W, 3) uint8."""
    sides = {} if entry.lr is None else {LR: read_rgb(folder / entry.lr)}
    for name, made in entry.models.items():
        sides[name] = _of_size(folder / made.file, entry, exactly=True)
    if entry.hr is not None:
        sides[HR] = _of_size(folder / entry.hr, entry, exactly=False)
    return sides


def _side_names(entry: ImageEntry) -> list[str]:
    return [*([LR] if entry.lr else []), *entry.models, *([HR] if entry.hr else [])]


def _of_size(path: Path, entry: ImageEntry, exactly: bool) -> np.ndarray:
    image = read_rgb(path)
    height, width = image.shape[:2]
    smaller = height < entry.height or width < entry.width
    if (height, width) != (entry.height, entry.width) and (exactly or smaller):
        raise ValueError(
            f"{printable(path)} is {width}x{height}, the benchmark recorded {entry.width}x{entry.height}; "
            "it was changed since: run the benchmark again"
        )
    return image[: entry.height, : entry.width]


def _crops(
    sides: dict[str, np.ndarray], entry: ImageEntry, styles: dict[str, int]
) -> tuple[tuple[int, int, int, int], list[Crop]]:
    """Return the square where the results differ most, of a single result the one where it differs from HR, and it cut
    out of every side."""
    results = [sides[name] for name in entry.models]
    if len(results) == 1 and HR in sides:
        results.append(sides[HR])
    scale = entry.width / sides[LR].shape[1] if LR in sides else 1.0
    box = top, left, height, width = place(results, step=int(scale) if scale == int(scale) else 1)
    crops = []
    for name, image in sides.items():
        if name == LR:
            rows, columns = (
                slice(int(a / scale), math.ceil((a + n) / scale)) for a, n in ((top, height), (left, width))
            )
        else:
            rows, columns = slice(top, top + height), slice(left, left + width)
        crops.append(Crop(side=name, uri=data_uri(image[rows, columns], lossless=True), style=styles.get(name)))
    return box, crops


def _percent(box: tuple[int, int, int, int], entry: ImageEntry) -> tuple[float, float, float, float]:
    top, left, height, width = box
    return 100 * top / entry.height, 100 * left / entry.width, 100 * height / entry.height, 100 * width / entry.width
