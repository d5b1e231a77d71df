"""Texture in one number each: how sharp a result is, and how much noise it put where there was nothing.

Both on the unrounded BT.601 Y (16..235), at positions where the filters lie inside the image; standard deviations are
those of the population. Neither has an ideal value: sharpness rewards noise, which `flat_noise` is there to show.

The pieces on planes (B, 1, H, W) have gradients and keep their input's dtype: training measures its crops by them too.
"""

import torch
from torch import Tensor

from resdiff.metrics.pixels import check_pair, check_pixels, luma_or_channels
from resdiff.metrics.window import gaussian_window, window_mean

FLAT_WINDOW = 9  # pixels a side
FLAT_STD = 3.0  # of HR's Y, below it a pixel's surrounding is flat
BLUR_WINDOW = 11  # 3.3 sigma on either side
BLUR_SIGMA = 1.5


def sharpness(x: Tensor) -> Tensor:
    """Standard deviation of the Laplacian [0 1 0; 1 -4 1; 0 1 0] of Y, one value per image.

    Args:
        x: (B, 3, H, W) or grey (B, 1, H, W), 8-bit values in [0, 255], any dtype. A grey image is its own Y.

    Returns:
        (B,) float64.

    Raises:
        ValueError: not images, values outside [0, 255], or smaller than 3x3.
    """
    check_pixels("x", x)
    _check_size(x, 3)
    return torch.cat([variance(laplacian(_y(image))).sqrt() for image in x.split(1)])


def flat_noise(sr: Tensor, hr: Tensor) -> Tensor:
    """Noise of the result where HR is flat: standard deviation of Y minus its Gaussian blur (sigma 1.5), lower is better.

    Flat are the pixels around which the 9x9 standard deviation of HR's Y is below 3. White noise of deviation s gives
    0.945 s; pixels nearer than 5 to the border are left out.

    Args:
        sr: (B, 3, H, W) or grey (B, 1, H, W), 8-bit values in [0, 255], any dtype. A grey image is its own Y.
        hr: the same shape.

    Returns:
        (B,) float64, NaN for an image without a flat pixel.

    Raises:
        ValueError: shapes differ or are not images, values outside [0, 255], or smaller than 11x11.
    """
    check_pair(sr, hr)
    _check_size(sr, BLUR_WINDOW)
    return torch.cat([_flat_noise(_y(s), _y(h)) for s, h in zip(sr.split(1), hr.split(1), strict=True)])


def laplacian(y: Tensor) -> Tensor:
    """Filter planes (B, 1, H, W) by [0 1 0; 1 -4 1; 0 1 0]: (B, 1, H - 2, W - 2)."""
    neighbours = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]
    return neighbours - 4 * y[..., 1:-1, 1:-1]


def grain(y: Tensor) -> Tensor:
    """Planes (B, 1, H, W) less their Gaussian blur (sigma 1.5): (B, 1, H - 10, W - 10)."""
    return _inside(y, BLUR_WINDOW // 2) - window_mean(y, gaussian_window(BLUR_WINDOW, BLUR_SIGMA))


@torch.no_grad()
def flat_pixels(y: Tensor) -> Tensor:
    """Whether the 9x9 standard deviation of planes (B, 1, H, W) is below 3, where `grain` is: (B, 1, H - 10, W - 10)."""
    box = [1 / FLAT_WINDOW] * FLAT_WINDOW
    mean, square = window_mean(torch.stack([y, y * y]), box)
    return _inside(square - mean * mean, (BLUR_WINDOW - FLAT_WINDOW) // 2) < FLAT_STD**2


def variance(x: Tensor, where: Tensor | None = None) -> Tensor:
    """Variance of each plane of (B, 1, H, W), over the pixels where a mask of that shape is true: (B,), NaN over none."""
    if where is None:
        return x.var((1, 2, 3), correction=0)
    weight = where.to(x.dtype)
    count = weight.sum((1, 2, 3))
    share = weight / count.clamp(min=1)[:, None, None, None]
    mean = (share * x).sum((1, 2, 3), keepdim=True)
    found = (share * (x - mean).square()).sum((1, 2, 3))
    return torch.where(count > 0, found, float("nan"))


def _flat_noise(sr: Tensor, hr: Tensor) -> Tensor:
    """`flat_noise` of planes (B, 1, H, W): (B,)."""
    return variance(grain(sr), flat_pixels(hr)).sqrt()


def _y(image: Tensor) -> Tensor:
    # rounding to levels would itself be noise of deviation 0.3, and 1.3 after the Laplacian
    return luma_or_channels(image, round_y=False)


def _inside(x: Tensor, edge: int) -> Tensor:
    """Leave out `edge` pixels on every side."""
    return x[..., edge : x.shape[-2] - edge, edge : x.shape[-1] - edge]


def _check_size(x: Tensor, smallest: int) -> None:
    h, w = x.shape[-2:]
    if min(h, w) < smallest:
        raise ValueError(f"image of {h}x{w} pixels is too small, give at least {smallest}x{smallest}")
