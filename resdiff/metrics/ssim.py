"""Structural similarity of 8-bit images as super-resolution tables give it.

Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004: 11x11 Gaussian window of
sigma 1.5, only positions where it lies inside the image, population moments. No down-sampling beforehand and no clamp
of the contrast term; equal to MATLAB's and BasicSR's (metrics/psnr_ssim.py), here in float64.
"""

from functools import reduce

import torch
from torch import Tensor

from resdiff.metrics.psnr import comparable

WINDOW = 11
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2


def ssim(sr: Tensor, hr: Tensor, crop_border: int, y_channel: bool = True, *, round_y: bool = True) -> Tensor:
    """Mean SSIM, one value per image in [-1, 1], 1 for identical images. RGB: mean over the channels.

    Args:
        sr: (B, 3, H, W) or grey (B, 1, H, W), uint8 values in [0, 255], any dtype. A grey image is its own Y.
        hr: the same shape.
        crop_border: pixels left out on every side, the scale in the classic tables.
        y_channel: compare the BT.601 luma of RGB images, else all three channels.
        round_y: whether that luma is rounded.

    Returns:
        (B,) float64.

    Raises:
        ValueError: as `psnr`, and when fewer than 11 pixels per side remain.
    """
    x, y = comparable(sr, hr, crop_border, y_channel, round_y)
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(
            f"{x.shape[-2]}x{x.shape[-1]} pixels are left after cropping, the window needs {WINDOW}x{WINDOW}"
        )
    mu_x, mu_y = _window_mean(x), _window_mean(y)
    var_x = _window_mean(x * x) - mu_x**2
    var_y = _window_mean(y * y) - mu_y**2
    cov = _window_mean(x * y) - mu_x * mu_y
    luminance = (2 * mu_x * mu_y + C1) / (mu_x**2 + mu_y**2 + C1)
    contrast_structure = (2 * cov + C2) / (var_x + var_y + C2)
    return (luminance * contrast_structure).mean(dim=(1, 2, 3))


def _window_mean(x: Tensor) -> Tensor:
    """Gaussian-weighted mean around every position the window fits: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-(offset**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    h, w = x.shape[-2] - WINDOW + 1, x.shape[-1] - WINDOW + 1
    # shifted sums: a float64 convolution is several times slower on CPU
    x = reduce(torch.add, (g * x[..., k : k + h, :] for k, g in enumerate(weights)))
    return reduce(torch.add, (g * x[..., k : k + w] for k, g in enumerate(weights)))
