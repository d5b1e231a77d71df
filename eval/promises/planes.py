"""Figures of luma planes that the promises need beside those of `resdiff.metrics`.

Planes are (H, W) float64, unrounded BT.601 Y of 8-bit images (a grey image is its own Y), unless said otherwise.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.metrics.pixels import luma_or_channels
from resdiff.metrics.texture import flat_noise, flat_pixels, laplacian
from resdiff.metrics.window import gaussian_window, window_mean

LEAST_FLAT = 0.02  # share of flat pixels under which flat noise says nothing
EXACTLY_FLAT = 0.05  # levels of HR's own flat noise under which a ratio to it says nothing
MOST_GRID = 1.0  # geometric mean of grid_excess over images: no picture needs more of it than the photo had
ROUNDING = 1 / 12  # variance of rounding to 8 bits, in levels squared
PERIODS = 8  # of a grid, in each direction of the windows that look for it
STRIP = 64  # rows whose neighbourhoods are laid out at once


def luma_plane(image: Tensor) -> Tensor:
    """Return the unrounded Y (H, W) float64 of an 8-bit image (1 or 3, H, W)."""
    return luma_or_channels(image[None], round_y=False)[0, 0]


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, H, W) or (H, W), edges replicated; `sigma` in pixels, cut off at four of them."""
    reach = math.ceil(4 * sigma)
    planes = x.reshape(1, -1, *x.shape[-2:])
    padded = F.pad(planes, (reach,) * 4, mode="replicate")
    return window_mean(padded, gaussian_window(2 * reach + 1, sigma)).reshape(x.shape)


def unsharp_mask(x: Tensor, sigma: float, amount: float) -> Tensor:
    """x + amount (x - G_sigma * x), not clamped; x: (C, H, W) or (H, W), floating point."""
    return x + amount * (x - blurred(x, sigma))


def unsharp_mask_of_sharpness(y: Tensor, sigma: float, sharpness: float) -> Tensor:
    """Return the unsharp mask of a plane whose amount gives it that standard deviation of the Laplacian.

    That deviation squared is quadratic in the amount: var(L y) + 2 a cov(L y, L d) + a^2 var(L d), d = y - G y. Where no
    amount reaches it, the nearest.
    """
    detail = y - blurred(y, sigma)
    own, added = laplacian(y[None, None]), laplacian(detail[None, None])
    own, added = own - own.mean(), added - added.mean()
    cov, var = float((own * added).mean()), float((added * added).mean())
    if var == 0:
        return y
    discriminant = cov**2 - var * (float((own * own).mean()) - sharpness**2)
    return y + (math.sqrt(max(discriminant, 0.0)) - cov) / var * detail


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson correlation of two planes; NaN where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else math.nan


def linear_filter_share(x: Tensor, change: Tensor, size: int = 9) -> float:
    """Share (R^2) of a change that the best linear filter of the plane explains: least squares, with a constant.

    Args:
        x: (H, W) the plane before the change.
        change: (H, W).
        size: side of the filter, odd; only positions where it fits are looked at.

    Returns:
        1: the change is a linear filter of x; 0: nothing like it; NaN where nothing changes.
    """
    reach = size // 2
    target = change[reach : change.shape[0] - reach, reach : change.shape[1] - reach]
    target = target - target.mean()
    total = float((target * target).sum())
    if total == 0:
        return math.nan
    around = (x - x.mean()).unfold(0, size, 1).unfold(1, size, 1)  # (h, w, size, size), a view
    gram, moment = x.new_zeros(1 + size * size, 1 + size * size), x.new_zeros(1 + size * size)
    for rows, wanted in zip(around.split(STRIP), target.split(STRIP), strict=True):
        flat = F.pad(rows.reshape(-1, size * size), (1, 0), value=1.0)  # the constant comes first
        gram += flat.T @ flat
        moment += flat.T @ wanted.reshape(-1)
    solution = torch.linalg.lstsq(gram, moment[:, None], driver="gelsd").solution[:, 0]
    return min(max(float(solution @ moment) / total, 0.0), 1.0)


def blocking(y: Tensor, period: int) -> float:
    """Mean |step| across the lines between blocks of `period` pixels, over the mean |step| elsewhere, both directions.

    1: the grid does not show. NaN where nothing steps elsewhere, or no grid line lies inside.
    """
    on, off = [], []
    for plane in (y, y.mT):
        steps = plane.diff(dim=1).abs()  # step k lies between the columns k and k + 1
        is_grid = torch.arange(1, plane.shape[1]) % period == 0
        on.append(steps[:, is_grid].reshape(-1))
        off.append(steps[:, ~is_grid].reshape(-1))
    across, elsewhere = torch.cat(on), torch.cat(off)
    if len(across) == 0 or not elsewhere.any():
        return math.nan
    return float(across.mean() / elsewhere.mean())


def grid_excess(y: Tensor, hr: Tensor, period: int) -> float:
    """Power over HR's (H, W) at the wavelength `period` and its harmonics, the checkerboard among them: the largest.

    What a pixel shuffle leaves lies there; a picture without it has less power than HR at each of these frequencies. What
    rounding to 8 bits alone would give is added to both. NaN for planes of less than eight periods a side.
    """
    if min(hr.shape) < PERIODS * period:
        return math.nan
    return float((_grid_power(y, period) / _grid_power(hr, period)).max())


def _grid_power(y: Tensor, period: int) -> Tensor:
    """Mean over Hann windows of eight periods a side, half of one apart; two directions, without the mean itself."""
    side = PERIODS * period
    window = torch.hann_window(side, dtype=y.dtype)
    window = window[:, None] * window
    blocks = y.unfold(0, side, side // 2).unfold(1, side, side // 2)
    blocks = blocks - blocks.mean((-2, -1), keepdim=True)
    power = torch.fft.rfft2(blocks * window).abs().square().mean((0, 1))
    return power[::PERIODS, ::PERIODS].flatten()[1:] + ROUNDING * window.square().sum()


def flat_share(hr: Tensor) -> float:
    """Share of pixels of an 8-bit image (1 or 3, H, W) that are flat."""
    return float(flat_pixels(luma_plane(hr)[None, None]).double().mean())


def has_flat_noise(hr: Tensor) -> bool:
    """Whether flat noise says something of images like this HR: enough flat pixels, and not exactly flat ones."""
    return flat_share(hr) >= LEAST_FLAT and float(flat_noise(hr[None], hr[None])) >= EXACTLY_FLAT


def rises(values: list[float]) -> float:
    """Return the smallest step from one value to the next: above zero where the values rise strictly."""
    return min(later - earlier for earlier, later in pairwise(values))
