"""Make the before/after picture: nearest and bicubic enlargement of a reduced photo, the model's, and the original.

python eval/before_after.py --photo tests/data/photo_hr.png --output eval/before_after.png --crop 130 60 160 120
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from resdiff.resize import matlab_legacy

GAP = 6  # px between the panels


def panels(photo: Image.Image, model: str | None, steps: int, seed: int) -> dict[str, Image.Image]:
    """Return the panels by their caption; `photo` is reduced x4 by MATLAB's bicubic first, and is not seen otherwise."""
    from resdiff import SRPipeline

    pipe = SRPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pixels = np.asarray(photo.convert("RGB"))
    height, width = (side // 4 * 4 for side in pixels.shape[:2])
    lr = Image.fromarray(matlab_legacy(pixels[:height, :width], 0.25))
    generator = torch.Generator().manual_seed(seed)
    return {
        "input": lr.resize((width, height), Image.Resampling.NEAREST),
        "bicubic": lr.resize((width, height), Image.Resampling.BICUBIC),
        "resdiff": pipe(lr, num_inference_steps=steps, generator=generator).images[0],
        "original": Image.fromarray(pixels[:height, :width]),
    }


def side_by_side(images: dict[str, Image.Image], crop: tuple[int, int, int, int], zoom: int) -> Image.Image:
    """Return one crop (left, top, width, height) of every panel in a row, enlarged by whole pixels and captioned."""
    left, top, width, height = crop
    sheet = Image.new("RGB", (len(images) * (width * zoom + GAP) - GAP, height * zoom + 18), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (caption, image) in enumerate(images.items()):
        x = i * (width * zoom + GAP)
        part = image.crop((left, top, left + width, top + height))
        sheet.paste(part.resize((width * zoom, height * zoom), Image.Resampling.NEAREST), (x, 18))
        draw.text((x + 4, 3), caption, fill="black")
    return sheet


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--crop", type=int, nargs=4, metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"), required=True)
    parser.add_argument("--zoom", type=int, default=2)
    parser.add_argument("--model", help="default: the bundled model")
    parser.add_argument("--num_inference_steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Write the picture."""
    with Image.open(args.photo) as photo:
        images = panels(photo, args.model, args.num_inference_steps, args.seed)
    side_by_side(images, tuple(args.crop), args.zoom).save(args.output, optimize=True)


if __name__ == "__main__":
    main(parse_args())
