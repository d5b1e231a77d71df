"""Pictures side by side in one file, each with its caption above: what a README shows."""

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

GAP = 6  # px between the panels
HEAD = 22  # px above them, for the captions


def side_by_side(images: Mapping[str, np.ndarray], zoom: int = 1) -> Image.Image:
    """Return RGB (H, W, 3) uint8 images of one size in a row, enlarged by whole pixels, on white."""
    height, width = next(iter(images.values())).shape[:2]
    panel = width * zoom + GAP
    sheet = Image.new("RGB", (len(images) * panel - GAP, height * zoom + HEAD), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=14)
    for i, (caption, image) in enumerate(images.items()):
        enlarged = Image.fromarray(image).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
        draw.rectangle((i * panel - GAP, 0, sheet.width, HEAD), fill="white")  # where a long caption goes on
        draw.text((i * panel + 2, 2), caption, fill="black", font=font)
        sheet.paste(enlarged, (i * panel, HEAD))
    return sheet
