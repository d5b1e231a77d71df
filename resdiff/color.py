"""Colour correction of a restored image towards its upsampled LR reference, and full-range YCbCr.

``adain`` and ``wavelet`` follow StableSR (2305.07015, scripts/wavelet_color_fix.py), which SeeSR and others share;
``luma`` keeps the restored brightness and takes both colour differences from the reference. All three take images of
any range ([-1, 1] in the pipelines) and never clamp. Difference from the reference: both wavelet blurs are one blur of
the difference of the images, which is the same by linearity and twice as fast.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

ColorFix = Literal["none", "adain", "wavelet", "luma"]

ADAIN_EPS = 1e-5  # added to the variance, in the units of the images: weighs 4x more on [0, 1] than on [-1, 1]
WAVELET_LEVELS = 5
WAVELET_HALO = 2**WAVELET_LEVELS - 1  # px around a pixel that `wavelet` looks at

# BT.601 weights of R, G, B in the luma
LUMA_RED, LUMA_GREEN, LUMA_BLUE = 0.299, 0.587, 0.114


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Give each channel of `content` the mean and standard deviation of `style`.

    Std is sqrt(unbiased variance + 1e-5), per image and channel.

    Args:
        content: (B, C, H, W), any range.
        style: (B, C, H', W'), same range, any size.

    Raises:
        ValueError: batch or channels differ, or an image has fewer than 2 pixels (no unbiased variance).
    """
    if content.ndim != 4 or style.ndim != 4 or content.shape[:2] != style.shape[:2]:
        raise ValueError(
            f"content {tuple(content.shape)} and style {tuple(style.shape)} must agree in batch and channels"
        )
    if min(content[0, 0].numel(), style[0, 0].numel()) < 2:
        raise ValueError(f"content {tuple(content.shape)} and style {tuple(style.shape)} need at least 2 pixels each")
    x, y = _at_least_float32(content), _at_least_float32(style)
    mean_x, std_x = _mean_std(x)
    mean_y, std_y = _mean_std(y)
    return ((x - mean_x) / std_x * std_y + mean_y).to(content.dtype)


def wavelet(content: Tensor, style: Tensor) -> Tensor:
    """Keep the high frequencies of `content`, take the low ones (5 levels of a-trous blur) from `style`.

    high(content) + low(style) with high = content - low(content), written as content + low(style - content).

    Args:
        content: (B, C, H, W), any range, any size from 1x1.
        style: the same shape and range.

    Raises:
        ValueError: the shapes differ.
    """
    _check_same_shape(content, style)
    x = _at_least_float32(content)
    low = _at_least_float32(style) - x
    for level in range(WAVELET_LEVELS):
        low = _blur(low, radius=2**level)
    return (x + low).to(content.dtype)


def luma_preserving(content: Tensor, style: Tensor) -> Tensor:
    """Luma Y of `content` with the chroma Cb, Cr of `style` (BT.601, full range).

    Args:
        content: (B, 3, H, W) RGB, any range.
        style: the same shape and range, the upsampled LR image.

    Raises:
        ValueError: the shapes differ, or not three channels.
    """
    _check_same_shape(content, style)
    y = rgb_to_ycbcr(content)[:, :1]
    cbcr = rgb_to_ycbcr(style)[:, 1:]
    return ycbcr_to_rgb(torch.cat([y, cbcr], dim=1))


def luma(rgb: Tensor) -> Tensor:
    """BT.601 Y = 0.299 R + 0.587 G + 0.114 B of (..., 3, H, W), as (..., 1, H, W); images of any range."""
    r, g, b = rgb.split(1, dim=-3)
    return LUMA_RED * r + LUMA_GREEN * g + LUMA_BLUE * b


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """BT.601 full range (JPEG): Y = 0.299 R + 0.587 G + 0.114 B, Cb = (B - Y) / 1.772, Cr = (R - Y) / 1.402.

    Chroma is centred at 0, not at half the range, which makes the transform linear: valid for images of any range.

    Args:
        rgb: (B, 3, H, W) floating point.

    Raises:
        ValueError: not (B, 3, H, W).
    """
    r, _, b = _three_channels(rgb)
    y = luma(rgb)
    return torch.cat([y, (b - y) / (2 * (1 - LUMA_BLUE)), (r - y) / (2 * (1 - LUMA_RED))], dim=1)


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Inverse of `rgb_to_ycbcr`. Raises ValueError if not (B, 3, H, W)."""
    y, cb, cr = _three_channels(ycbcr)
    r = y + 2 * (1 - LUMA_RED) * cr
    b = y + 2 * (1 - LUMA_BLUE) * cb
    g = (y - LUMA_RED * r - LUMA_BLUE * b) / LUMA_GREEN
    return torch.cat([r, g, b], dim=1)


def _keep(content: Tensor, style: Tensor) -> Tensor:
    return content


COLOR_FIXES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": _keep,
    "adain": adain,
    "wavelet": wavelet,
    "luma": luma_preserving,
}


def color_fix(content: Tensor, style: Tensor, method: ColorFix) -> Tensor:
    """Correct `content` (B, 3, H, W) towards `style`, the upsampled LR of the same shape and range. Not clamped.

    Raises:
        ValueError: unknown method, or shapes the method cannot take.
    """
    if method not in COLOR_FIXES:
        raise ValueError(f"method is {method!r}, choose one of {', '.join(COLOR_FIXES)}")
    return COLOR_FIXES[method](content, style)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _mean_std(x: Tensor) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, dim=(-2, -1), keepdim=True)  # (B, C, 1, 1)
    return mean, (var + ADAIN_EPS).sqrt()


class Moments:
    """Mean and standard deviation of an image that comes in parts, as `adain` uses them.

    Parts are joined by the pairwise rule of Chan, Golub and LeVeque (1983), in float64 on the CPU.
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._squares = torch.zeros((), dtype=torch.float64)  # of the deviations from the mean

    def add(self, part: Tensor) -> Tensor:
        """Count `part`, (B, C, rows, W), in; returns it."""
        statistics = torch.var_mean(_at_least_float32(part), dim=(-2, -1), correction=0, keepdim=True)
        variance, mean = (x.cpu().double() for x in statistics)  # (B, C, 1, 1)
        count = part[0, 0].numel()
        before, self._count = self._count, self._count + count
        step = mean - self._mean
        self._mean = self._mean + step * count / self._count
        self._squares = self._squares + variance * count + step.square() * before * count / self._count
        return part

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Return both, (B, C, 1, 1), float32 on the CPU. Of a single pixel the variance is 0."""
        variance = self._squares / max(1, self._count - 1)
        return self._mean.float(), (variance + ADAIN_EPS).sqrt().float()


def _blur(x: Tensor, radius: int) -> Tensor:
    """[1 2 1] (x) [1 2 1] / 16 with its taps `radius` apart, edges replicated."""
    rows = F.pad(x, (0, 0, radius, radius), mode="replicate")
    x = (rows[..., : -2 * radius, :] + rows[..., 2 * radius :, :] + 2 * x) / 4
    columns = F.pad(x, (radius, radius, 0, 0), mode="replicate")
    return (columns[..., : -2 * radius] + columns[..., 2 * radius :] + 2 * x) / 4


def _check_same_shape(content: Tensor, style: Tensor) -> None:
    if content.shape != style.shape:
        raise ValueError(
            f"content {tuple(content.shape)} and style {tuple(style.shape)} differ, resize one to the other"
        )


def _three_channels(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"image of shape {tuple(x.shape)} is not colour, give (B, 3, H, W)")
    first, second, third = x.split(1, dim=1)
    return first, second, third
