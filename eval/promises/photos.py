"""Ordinary photos: LR images with JPEG blocks or noise must not come out with more of them than bicubic shows.

The LR images of the sets, saved by Pillow as JPEG of quality 30 (4:2:0), or with Gaussian noise of deviation 10 added to
each channel, rounded to 8 bits. Flat noise is measured where HR is flat, blocking on the grid that LR's 8x8 blocks make.
"""

import io
import math
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resdiff.eval.promises.part import Figures, Sets, mean, share
from resdiff.eval.promises.pictures import SCALE, Enlarger, Pair, enlarged_bicubic, to_8_bits
from resdiff.eval.promises.planes import blocking, has_flat_noise, luma_plane
from resdiff.eval.promises.promise import Promise, at_most
from resdiff.metrics.texture import flat_noise

QUALITY = 30
NOISE = 10.0  # levels of 1/255
BLOCK = 8  # of JPEG, LR pixels
INPUTS = {"jpeg": f"JPEG {QUALITY}", "noise": f"noise {NOISE:g}/255"}
FIGURES = ("flat noise", "blocking")
STEPS = {"one step": 1, "four steps": 4}


def compressed(lr: Tensor) -> Tensor:
    """Return uint8 (C, h, w) as it looks after JPEG."""
    pixels = lr[0].numpy() if lr.shape[0] == 1 else lr.permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    return decoded[None] if lr.shape[0] == 1 else decoded.permute(2, 0, 1).contiguous()


def noisy(lr: Tensor) -> Tensor:
    """Return uint8 (C, h, w) with noise, which depends on the image alone."""
    generator = torch.Generator().manual_seed(zlib.crc32(lr.contiguous().numpy().tobytes()))
    return to_8_bits(lr + NOISE * torch.randn(lr.shape, generator=generator))


def measure(pair: Pair, enlarge: Enlarger) -> dict[str, float]:
    """Return flat noise and blocking of one image, of both inputs, from bicubic and from the model."""
    figures: dict[str, float] = {}
    is_flat = has_flat_noise(pair.hr)
    for name, lr in (("jpeg", compressed(pair.lr)), ("noise", noisy(pair.lr))):
        made = {"bicubic": enlarged_bicubic(lr)} | {by: enlarge(lr, steps=steps) for by, steps in STEPS.items()}
        for by, sr in made.items():
            figures[f"blocking {name} {by}"] = blocking(luma_plane(sr), BLOCK * SCALE)
            figures[f"flat noise {name} {by}"] = float(flat_noise(sr[None], pair.hr[None])) if is_flat else math.nan
    return figures


def promises(sets: Sets) -> list[Promise]:
    """Judge every set, on means."""
    found: list[Promise] = []
    for where, images in sets.items():
        for name, words in INPUTS.items():
            for figure in FIGURES:
                found += [_no_more(figure, name, words, by, where, images) for by in STEPS]
    return found


def _no_more(figure: str, name: str, words: str, by: str, where: str, images: Sequence[Figures]) -> Promise:
    """Judge one figure against bicubic's of the same input."""
    ours, bicubic = f"{figure} {name} {by}", f"{figure} {name} bicubic"
    better = share(figures[ours] <= figures[bicubic] for figures in images if ours in figures)
    return at_most(
        f"{words}, {by}: {figure}", where, mean(images, ours), mean(images, bicubic),
        remark=f"(no higher on {100 * better:.0f} % of the images)",
    )  # fmt: skip
