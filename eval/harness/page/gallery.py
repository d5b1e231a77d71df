"""The images of a run as rows: crops where the results differ most, whole pictures for the slider, and the figures."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resdiff.eval.harness.page.cells import Cell, of_images, picture_cells
from resdiff.eval.harness.page.crops import place
from resdiff.eval.harness.page.document import Document, Picture
from resdiff.eval.harness.page.pictures import data_uri, read_rgb, within
from resdiff.files.formats import printable

LR, HR = "LR", "HR"  # the sides of the slider beside the models
BUDGET = 36 * 2**20  # bytes of all whole pictures as they stand in the page; crops come on top, about 60 kB an image
ENDLESS = 1e308  # stands for infinity, which JSON does not know


@dataclass(frozen=True, kw_only=True)
class Crop:
    """The same square of one side."""

    side: str
    uri: str
    style: int | None  # number of the model; None for LR and HR


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image."""

    picture: Picture
    crops: list[Crop]
    crop_side: tuple[int, int]  # height and width, px of the result
    marked: tuple[float, float, float, float]  # top, left, height, width of the square, % of the picture
    sides: dict[str, str]  # side -> data URI
    cells: dict[str, list[Cell]]  # model -> cells in the order of `of_images`
    values: dict[str, dict[str, float | None]]  # model -> figure -> number, fit for JSON


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All rows, and what had to be reduced or left out."""

    rows: list[Row]
    limit: float  # px of a whole picture
    reduced: int  # whole pictures above it
    left_out: dict[str, int]  # set -> images


def gallery(document: Document, max_images: int) -> Gallery:
    """Read the images of a run, at most the first `max_images` of a set.

    Raises:
        ValueError, FileNotFoundError: an image is missing, unreadable or of the wrong size. One line that names it.
    """
    kept, left_out = [], {}
    for test_set in document.sets:
        pictures = [p for p in document.pictures if p.set == test_set.name]
        kept += pictures[:max_images]
        if len(pictures) > max_images:
            left_out[test_set.name] = len(pictures) - max_images
    styles = {model.name: i for i, model in enumerate(document.models)}
    crops, sizes = [], []
    for picture in kept:
        sides = read_sides(picture)
        crops.append(_crops(sides, picture, styles))
        sizes += [image.shape[0] * image.shape[1] for image in sides.values()]

    def encode(limit: float) -> Iterator[list[str]]:
        for picture in kept:
            yield [data_uri(image, pixels=limit) for image in read_sides(picture).values()]

    by_image = of_images(document)
    uris, limit = within(BUDGET, sizes, encode)
    rows = [
        Row(
            picture=picture,
            crops=row_crops,
            crop_side=(box[2], box[3]),
            marked=_percent(box, picture),
            sides=dict(zip(_side_names(picture), row_uris, strict=True)),
            cells=picture_cells(by_image, {name: m.figures for name, m in picture.models.items()}),
            values={name: {f: _finite(v) for f, v in m.figures.items()} for name, m in picture.models.items()},
        )
        for picture, (box, row_crops), row_uris in zip(kept, crops, uris, strict=True)
    ]
    return Gallery(rows=rows, limit=limit, reduced=sum(size > limit for size in sizes), left_out=left_out)


def read_sides(picture: Picture) -> dict[str, np.ndarray]:
    """Return the results and, where there are, LR and HR, this cut to the size of the results: RGB (H, W, 3) uint8."""
    sides = {} if picture.lr is None else {LR: read_rgb(picture.lr)}
    for name, enlarged in picture.models.items():
        sides[name] = _of_size(read_rgb(enlarged.file), picture, enlarged.file, exactly=True)
    if picture.hr is not None:
        sides[HR] = _of_size(read_rgb(picture.hr), picture, picture.hr, exactly=False)
    return sides


def _side_names(picture: Picture) -> list[str]:
    return [*([LR] if picture.lr else []), *picture.models, *([HR] if picture.hr else [])]


def _of_size(image: np.ndarray, picture: Picture, path: Path, exactly: bool) -> np.ndarray:
    height, width = image.shape[:2]
    if (height, width) != (picture.height, picture.width) and (
        exactly or height < picture.height or width < picture.width
    ):
        raise ValueError(
            f"{printable(path)} is {width}x{height}, the benchmark recorded {picture.width}x{picture.height}; "
            "it was changed since: run the benchmark again"
        )
    return image[: picture.height, : picture.width]


def _crops(
    sides: dict[str, np.ndarray], picture: Picture, styles: dict[str, int]
) -> tuple[tuple[int, int, int, int], list[Crop]]:
    """Return the square where the results differ most, of a single result the one where it differs from HR, and it cut
    out of every side."""
    results = [sides[name] for name in picture.models]
    if len(results) == 1 and HR in sides:
        results.append(sides[HR])
    scale = picture.width / sides[LR].shape[1] if LR in sides else 1.0
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


def _percent(box: tuple[int, int, int, int], picture: Picture) -> tuple[float, float, float, float]:
    top, left, height, width = box
    return (
        100 * top / picture.height,
        100 * left / picture.width,
        100 * height / picture.height,
        100 * width / picture.width,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None else max(-ENDLESS, min(ENDLESS, value))
