"""The two lumas that super-resolution tables are made on: studio swing (PSNR, SSIM, NIQE) and full range (NIQE).

BT.601 studio swing is MATLAB's ``rgb2ycbcr``. The tables of Set5, Set14 and BSD100 were made with Y rounded to integers,
the default here; BasicSR (metrics/metric_util.py) leaves it unrounded, which raises PSNR by about 0.01 dB and SSIM by
0.001. The full range Y of YIQ is what published real-world NIQE figures stand on. Difference from BasicSR: float64.
"""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Luma: TypeAlias = Literal["bt601", "yiq"]  # studio swing, full range


def rgb_to_y(x: Tensor, *, round_y: bool = True) -> Tensor:
    """Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255, rounded half up to an integer unless `round_y` is False.

    Args:
        x: (B, 3, H, W), 8-bit values in [0, 255], any dtype.

    Returns:
        (B, 1, H, W) float64 in [16, 235].

    Raises:
        ValueError: not (B, 3, H, W).
    """
    # exact ties (x.5) occur: this order of operations decides them as the published figures do
    y = _weighted_sum(x, 65.481, 128.553, 24.966).div_(255).add_(16)
    return _round_half_up(y) if round_y else y


def rgb_to_yiq_luma(x: Tensor, *, round_y: bool = True) -> Tensor:
    """Y = 0.299 R + 0.587 G + 0.114 B, full range, rounded half up to an integer unless `round_y` is False.

    Args:
        x: (B, 3, H, W), 8-bit values in [0, 255], any dtype.

    Returns:
        (B, 1, H, W) float64 in [0, 255].

    Raises:
        ValueError: not (B, 3, H, W).
    """
    y = _weighted_sum(x, 299, 587, 114).div_(1000)  # integers: ties of 8-bit images are met exactly
    return _round_half_up(y) if round_y else y


def _weighted_sum(x: Tensor, red: float, green: float, blue: float) -> Tensor:
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"image of shape {tuple(x.shape)} is not colour, give (B, 3, H, W); grey is its own Y")
    r, g, b = x.to(torch.float64).split(1, dim=1)
    return (red * r).add_(green * g).add_(blue * b)


def _round_half_up(y: Tensor) -> Tensor:
    return y.add_(0.5).floor_()
