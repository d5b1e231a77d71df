"""Photos as one HTML page: a slider between bicubic and the model, and below it the same square of every variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from resdiff.eval.harness.page.crops import place
from resdiff.eval.harness.page.pictures import data_uri, within
from resdiff.eval.harness.page.template import render_page
from resdiff.eval.harness.shown_photos import ShownPhoto
from resdiff.eval.harness.variants import Variants

SIDE = 160  # px of a square
DIAL = "Fidelity, from most detail (0) to most faithful (1)"
BUDGET = 32 * 2**20  # bytes of all pictures as they stand in the page

Box = tuple[int, int, int, int]  # top, left, height, width in px of the result


@dataclass(frozen=True, kw_only=True)
class PhotoRow:
    """One photo: pictures are data URIs by their captions."""

    photo: ShownPhoto
    size: tuple[int, int]  # height and width of the result
    sides: dict[str, str]  # of the slider: bicubic, the model, the original
    box: Box
    strips: dict[str, dict[str, str]]  # heading -> squares
    reduced: bool  # whether the whole pictures are

    @property
    def marked(self) -> tuple[float, float, float, float]:
        """Top, left, height and width of the square in % of the picture."""
        height, width = self.size
        top, left, tall, wide = self.box
        return 100 * top / height, 100 * left / width, 100 * tall / height, 100 * wide / width

    @property
    def bytes(self) -> int:
        """Size of all its pictures in the page."""
        return sum(len(uri) for strip in (self.sides, *self.strips.values()) for uri in strip.values())


def chosen_box(variants: Variants, asked: Box | None, step: int, name: str) -> Box:
    """Return `asked`, or else the square in which the results differ most; its corner is a multiple of `step`.

    Raises ValueError when `asked` does not lie in the picture of the photo `name`.
    """
    results = variants.results
    if asked is None:
        return place(results, SIDE, step)
    height, width = results[0].shape[:2]
    top, left, tall, wide = asked
    if top + tall > height or left + wide > width:
        raise ValueError(
            f"crop {left},{top},{wide},{tall} does not lie in the {width}x{height} px of {name}; "
            "it is LEFT,TOP,WIDTH,HEIGHT in px of the result"
        )
    return asked


def cut(images: Mapping[str, np.ndarray], box: Box) -> dict[str, np.ndarray]:
    """Return the same square of every image."""
    top, left, height, width = box
    return {caption: image[top : top + height, left : left + width] for caption, image in images.items()}


def photo_row(photo: ShownPhoto, variants: Variants, box: Box, budget: int) -> PhotoRow:
    """Encode one photo in about `budget` bytes: squares pixel by pixel if they fit in half, whole pictures in the rest."""
    shown = {"Enlarged": variants.enlarged, "Prompts": variants.prompts, DIAL: variants.dial}
    squares = {heading: cut(images, box) for heading, images in shown.items() if images}
    strips = _encoded(squares, lossless=True)
    if (used := _bytes(strips)) > budget / 2:
        strips = _encoded(squares, lossless=False)
        used = _bytes(strips)
    wholes = list(variants.enlarged.values())
    sizes = [image.shape[0] * image.shape[1] for image in wholes]
    (uris,), limit = within(
        max(0, budget - used), sizes, lambda pixels: [[data_uri(image, pixels=pixels) for image in wholes]]
    )
    return PhotoRow(
        photo=photo,
        size=wholes[0].shape[:2],
        sides=dict(zip(variants.enlarged, uris, strict=True)),
        box=box,
        strips=strips,
        reduced=max(sizes) > limit,
    )


def render_photos(rows: Sequence[PhotoRow], *, facts: Mapping[str, str], skipped: Sequence[str], left_out: int) -> str:
    """Return the page. Every text is escaped.

    Args:
        rows: the photos in order.
        facts: what the pictures depend on, by name.
        skipped: one line for each photo that could not be read.
        left_out: photos beyond the limit.
    """
    megabytes = sum(row.bytes for row in rows) / 1e6
    return render_page("photos", rows=rows, facts=facts, skipped=skipped, left_out=left_out, megabytes=megabytes)


def _encoded(squares: Mapping[str, Mapping[str, np.ndarray]], *, lossless: bool) -> dict[str, dict[str, str]]:
    return {
        heading: {caption: data_uri(image, lossless=lossless) for caption, image in images.items()}
        for heading, images in squares.items()
    }


def _bytes(strips: Mapping[str, Mapping[str, str]]) -> int:
    return sum(len(uri) for strip in strips.values() for uri in strip.values())
