"""Options that several commands have, and the checks that turn what was typed into values. ValueError, one line."""

import math
import re
from typing import Annotated

import typer

from resdiff.sizes import LARGEST_SCALE

TILES = ("auto", "off", "reference[:size[:stride]]")
COLOR_FIXES = ("auto", "none", "adain", "wavelet", "luma")

Debug = Annotated[bool, typer.Option("--debug", envvar="RESDIFF_DEBUG", help="Show tracebacks and library messages.")]
KnownAs = Annotated[str | None, typer.Option("--as", help="Treat the published file(s) as this model of `models`.")]
Base = Annotated[
    str | None,
    typer.Option(help="Stable Diffusion that is adapted: folder, file or repository of the Hugging Face hub."),
]
PredictionType = Annotated[
    str | None,
    typer.Option(help="What StableSR's network predicts, where that is not the known model's: epsilon, v_prediction."),
]
MaxPixels = Annotated[
    int | None, typer.Option(min=1, help="Of an input; against files made to exhaust memory. [89478485]")
]


def positive_scale(value: float | None) -> float | None:
    """Return `value`, as an integer where it is one."""
    if value is None:
        return None
    if not 0 < value <= LARGEST_SCALE:
        raise ValueError(f"scale is {value}; pass a positive number up to {LARGEST_SCALE}")
    return int(value) if value.is_integer() else value


def positive_steps(value: int | None) -> int | None:
    """Return `value` if it is None or positive."""
    if value is not None and value < 1:
        raise ValueError(f"steps is {value}; pass a positive number")
    return value


def dial(name: str, value: float | None, most: float = math.inf) -> float | None:
    """Return `value` if it is None or a number from 0 to `most`, any finite one where that is infinite."""
    if value is not None and not (0 <= value <= most and math.isfinite(value)):
        raise ValueError(f"{name} is {value}; pass a number from 0{'' if math.isinf(most) else f' to {most:g}'}")
    return value


def one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose {', '.join(choices)}")
    return value


def seed_64(value: int) -> int:
    """Return `value` if a generator of torch takes it."""
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"seed is {value}; pass a 64-bit integer")
    return value


def crop(value: str) -> tuple[int, int]:
    """Return (height, width) of "64" or "96,64"."""
    sides = [side.strip() for side in value.split(",")]
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"resolution is {value!r}; pass a side in pixels, or height,width")
    return int(sides[0]), int(sides[-1])


def tiling(value: str) -> str | int:
    """Return a size as a number, one of `TILES` as it is."""
    if value in ("auto", "off") or re.fullmatch(r"reference(:\d+){0,2}", value):
        return value
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"tile is {value!r}; choose {', '.join(TILES)} or a size in pixels")
    return int(value)


def set_max_pixels(limit: int | None) -> None:
    """Let images of `limit` pixels be read; None leaves Pillow's own limit."""
    if limit is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = limit
