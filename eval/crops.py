"""The same square of several models' images, side by side: pictures for a README, from the folder of a benchmark.

    python eval/crops.py --run runs/d1 --hr DATA --models bicubic teacher student --out eval/gallery/students.png \\
        --crops bsd100/253027=180,110,96 set14/baboon=200,40,96

A crop is SET/NAME=left,top,side, in px of the enlarged image. Each crop is a row, in the order given; the original
(DATA/SET/HR/NAME.png) comes first.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from resdiff.eval.harness.sheets import side_by_side
from resdiff.files.formats import printable
from resdiff.pictures import save_picture
from resdiff.runs.launcher import run_script

ZOOM = 2  # of the pixels
ORIGINAL = "original"


@dataclass(frozen=True)
class Crop:
    """A square of one image."""

    set: str
    name: str
    left: int
    top: int
    side: int


def crop(text: str) -> Crop:
    """Read SET/NAME=left,top,side. Raises argparse.ArgumentTypeError for anything else."""
    match = re.fullmatch(r"([^/=]+)/([^/=]+)=(\d+),(\d+),([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no crop; write SET/NAME=left,top,side")
    return Crop(match[1], match[2], *(int(number) for number in match.groups()[2:]))


def cut(path: Path, crop: Crop) -> np.ndarray:
    """Return the square of an image file, RGB. Raises ValueError where there is none, or it is too small."""
    if not path.is_file():
        raise ValueError(f"{printable(path)} does not exist; --run is the --out of eval/benchmark.py")
    image = Image.open(path).convert("RGB")
    box = (crop.left, crop.top, crop.left + crop.side, crop.top + crop.side)
    if box[2] > image.width or box[3] > image.height:
        raise ValueError(f"{crop.set}/{crop.name} is {image.width}x{image.height}; the crop {box} is not in it")
    return np.array(image.crop(box))


def sheet(run: Path, hr: Path, models: list[str], crops: list[Crop]) -> Image.Image:
    """Return the rows below each other, RGB. Raises ValueError in one line for images that are missing or too small."""
    rows = []
    for one in crops:
        images = {ORIGINAL: cut(hr / one.set / "HR" / f"{one.name}.png", one)}
        images |= {model: cut(run / one.set / model / f"{one.name}.png", one) for model in models}
        rows.append(side_by_side(images, ZOOM))
    whole = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        whole.paste(row, (0, top))
        top += row.height
    return whole


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that eval/benchmark.py wrote")
    parser.add_argument("--hr", type=Path, required=True, metavar="DATA", help="folder of the test sets")
    parser.add_argument("--models", nargs="+", required=True, help="as the benchmark calls their folders")
    parser.add_argument("--crops", nargs="+", type=crop, required=True, metavar="SET/NAME=left,top,side")
    parser.add_argument("--out", type=Path, required=True, help="a PNG file")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Write the picture."""
    picture = sheet(args.run, args.hr, args.models, args.crops)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_picture(picture, args.out, compress_level=9)


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse_args()), "interrupted; nothing was written"))
