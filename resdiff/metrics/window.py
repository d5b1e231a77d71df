"""Separable windows that slide over images: the local means of SSIM, NIQE and the texture figures."""

import math
from collections.abc import Sequence

from torch import Tensor


def gaussian_window(size: int, sigma: float) -> list[float]:
    """Return `size` (odd) samples of a Gaussian, `sigma` in pixels, of sum 1; their outer product is the 2-D window."""
    samples = [math.exp(-((i - size // 2) ** 2) / (2 * sigma**2)) for i in range(size)]
    return [sample / math.fsum(samples) for sample in samples]


def window_mean(x: Tensor, window: Sequence[float]) -> Tensor:
    """Weighted mean around every position that the K x K window fits: (..., H, W) -> (..., H - K + 1, W - K + 1)."""
    return _along(_along(x, window, -2), window, -1)


def _along(x: Tensor, window: Sequence[float], dim: int) -> Tensor:
    # shifted sums in place: torch's float64 convolution is ten times slower on a CPU
    length = x.shape[dim] - len(window) + 1
    result = x.narrow(dim, 0, length) * window[0]
    for k, weight in enumerate(window[1:], start=1):
        result.add_(x.narrow(dim, k, length), alpha=weight)
    return result
