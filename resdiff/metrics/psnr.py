"""Peak signal-to-noise ratio of 8-bit images, on luma (super-resolution tables) or on RGB, and that luma.

The luma is BT.601 studio swing, MATLAB's ``rgb2ycbcr``. The tables of Set5, Set14 and BSD100 were made with Y rounded
to integers, the default here; BasicSR (metrics/metric_util.py) leaves it unrounded, which raises PSNR by about 0.01 dB
and SSIM by 0.001. Difference from BasicSR: float64 throughout.
"""

import torch
from torch import Tensor


def rgb_to_y(x: Tensor, *, round_y: bool = True) -> Tensor:
    """Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, rounded half up to an integer unless `round_y` is False.

    Args:
        x: (B, 3, H, W), uint8 values in [0, 255], any dtype.

    Returns:
        (B, 1, H, W) float64 in [16, 235].

    Raises:
        ValueError: not (B, 3, H, W).
    """
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"image of shape {tuple(x.shape)} is not colour, give (B, 3, H, W); grey is its own Y")
    r, g, b = x.double().split(1, dim=1)
    # exact ties (x.5) occur: this order of operations decides them as the published figures do
    y = (65.481 * r + 128.553 * g + 24.966 * b) / 255 + 16
    return (y + 0.5).floor() if round_y else y


def psnr(sr: Tensor, hr: Tensor, crop_border: int, y_channel: bool = True, *, round_y: bool = True) -> Tensor:
    """10 log10(255^2 / MSE) in dB, one value per image; inf where the images agree. RGB: MSE over all channels jointly.

    Args:
        sr: (B, 3, H, W) or grey (B, 1, H, W), uint8 values in [0, 255], any dtype. A grey image is its own Y.
        hr: the same shape.
        crop_border: pixels left out on every side, the scale in the classic tables.
        y_channel: compare the luma of RGB images, else all three channels.
        round_y: whether that luma is rounded.

    Returns:
        (B,) float64.

    Raises:
        ValueError: shapes differ or are not images, values outside [0, 255], or the border leaves nothing.
    """
    sr, hr = comparable(sr, hr, crop_border, y_channel, round_y)
    mse = (sr - hr).square().mean(dim=(1, 2, 3))
    return 10 * torch.log10(255**2 / mse)


def comparable(sr: Tensor, hr: Tensor, crop_border: int, y_channel: bool, round_y: bool) -> tuple[Tensor, Tensor]:
    """Check a pair as `psnr` documents it, crop its border and convert to luma if asked: (B, 1 or 3, h, w) float64."""
    if sr.shape != hr.shape or sr.ndim != 4 or sr.shape[1] not in (1, 3):
        raise ValueError(f"sr {tuple(sr.shape)} and hr {tuple(hr.shape)} must both be (B, 3, H, W) or (B, 1, H, W)")
    h, w = sr.shape[-2:]
    if crop_border < 0 or 2 * crop_border >= min(h, w):
        raise ValueError(f"crop_border is {crop_border}, it must be at least 0 and leave something of {h}x{w}")
    for name, image in (("sr", sr), ("hr", hr)):
        if image.min() < 0 or image.max() > 255:
            raise ValueError(f"{name} spans {image.min():g}..{image.max():g}, give 8-bit values in 0..255")
    inside = (..., slice(crop_border, h - crop_border), slice(crop_border, w - crop_border))
    sr, hr = sr[inside].double(), hr[inside].double()
    if y_channel and sr.shape[1] == 3:
        return rgb_to_y(sr, round_y=round_y), rgb_to_y(hr, round_y=round_y)
    return sr, hr
