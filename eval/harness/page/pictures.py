"""Pictures inside the page: data URIs, and how large each may be for all to stay below a size in bytes."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from resdiff.images import read_photos, to_uint8

QUALITY = 88  # WebP, of whole pictures; crops are lossless
LARGEST = 1_500_000  # px of a picture; more does not fit on a screen beside its table
SMALLEST = 64 * 64  # px: reducing further saves nothing worth having


def read_rgb(path: Path) -> np.ndarray:
    """Return an image file as RGB (H, W, 3) uint8. Raises FileNotFoundError or ValueError in one line that names it."""
    return to_uint8(read_photos(path)[0].pixels).permute(1, 2, 0).numpy()


def data_uri(image: np.ndarray, *, lossless: bool = False, pixels: float = np.inf) -> str:
    """Return RGB (H, W, 3) uint8 as a WebP in a data URI, reduced to about `pixels` where it has more."""
    picture = Image.fromarray(image)
    ratio = (pixels / (picture.width * picture.height)) ** 0.5
    if ratio < 1:
        size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=lossless, quality=60 if lossless else QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def shared_limit(sizes: Sequence[int], total: float) -> float:
    """Return the largest limit for which the sum of min(size, limit) is at most `total`; inf where all fit whole."""
    left = total
    for i, size in enumerate(ordered := sorted(sizes)):
        share = left / (len(ordered) - i)
        if size > share:
            return share
        left -= size
    return float("inf")


def within(
    budget: int, sizes: Sequence[int], encode: Callable[[float], Iterable[list[str]]]
) -> tuple[list[list[str]], float]:
    """Encode pictures so that they stay below `budget` bytes together.

    Args:
        budget: of all data URIs, bytes.
        sizes: pixels of every picture.
        encode: makes all data URIs, in groups, from the limit of pixels of each.

    Returns:
        What `encode` made, and the limit in px. Large pictures are reduced first.
    """
    limit = min(LARGEST, shared_limit(sizes, 3 * budget))  # photographs take about a third of a byte a pixel
    while True:
        encoded = list(encode(limit))
        used = sum(len(uri) for group in encoded for uri in group)
        if used <= budget or limit <= SMALLEST:
            return encoded, limit
        pixels = sum(min(size, limit) for size in sizes)
        limit = max(SMALLEST, shared_limit(sizes, 0.9 * pixels * budget / used))
