"""Where results of one image differ most: the square that is worth a look.

The measure is the variance of BT.601 luma across the results, averaged over the square. Two results that are sharp in
different ways differ there more than where both are smooth, and a colour cast alone draws no attention.
"""

from collections.abc import Sequence

import numpy as np

SIDE = 96  # px of the enlarged image; divisible by every usual scale, so that a square of LR pixels lies below it
LUMA = np.array([0.299, 0.587, 0.114])


def luma(image: np.ndarray) -> np.ndarray:
    """Full-range BT.601 luma (H, W) in [0, 255] of RGB (H, W, 3) uint8."""
    return image @ LUMA


def box_mean(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the mean of every whole `height` x `width` box of (H, W): (H - height + 1, W - width + 1), float64."""
    total = np.pad(values.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    sums = total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    return sums / (height * width)


def place(images: Sequence[np.ndarray], side: int = SIDE, step: int = 1) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the square in which `images` differ most.

    Args:
        images: RGB (H, W, 3) uint8, of one size. Of a single one, the square with most contrast is returned; of images
            that are equal everywhere, the middle.
        side: of the square, px; an image that is smaller is taken whole in that direction.
        step: top and left are multiples of it: the scale, for a square that begins with a whole LR pixel.

    Raises:
        ValueError: no image, or sizes differ.
    """
    if not images or len({image.shape for image in images}) > 1:
        raise ValueError(f"images have the shapes {[i.shape for i in images]}; pass one or more of the same size")
    lumas = np.stack([luma(image) for image in images])  # (N, H, W)
    height, width = min(side, lumas.shape[1]), min(side, lumas.shape[2])
    if len(images) > 1:
        measure = box_mean(lumas.var(axis=0), height, width)
    else:
        measure = box_mean(lumas[0] ** 2, height, width) - box_mean(lumas[0], height, width) ** 2
    measure = measure[::step, ::step]
    if np.ptp(measure) < 1e-6:
        top, left = measure.shape[0] // 2, measure.shape[1] // 2
    else:
        top, left = np.unravel_index(measure.argmax(), measure.shape)
    return int(top) * step, int(left) * step, height, width
