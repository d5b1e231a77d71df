"""NIQE: how far the statistics of an image's blocks lie from those of pristine photographs; needs no reference.

Mittal, Soundararajan, Bovik, "Making a 'completely blind' image quality analyzer", 2013. The pristine statistics are
BasicSR's (metrics/niqe_pris_params.npz). Differences from BasicSR (metrics/niqe.py): float64 throughout, where its luma
and its resize are float32 (up to 0.002 of the score); all blocks at once. ``luma="bt601"`` is BasicSR's figure, "yiq"
that of pyiqa (archs/niqe_arch.py), which published real-world tables contain; they differ by up to 0.3.
"""

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

import resdiff
from resdiff.metrics.luma import Luma, rgb_to_yiq_luma
from resdiff.metrics.pixels import check_pixels, crop
from resdiff.metrics.window import gaussian_window, window_mean
from resdiff.resize import bicubic

BLOCK = 96  # pixels a side
WINDOW = 7
SIGMA = 7 / 6
ROUNDING = 1e-9  # of means of values up to 255
SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns) of the neighbour in a product
PRISTINE = Path(resdiff.__file__).parent / "weights" / "metrics" / "niqe.safetensors"


def niqe(x: Tensor, *, luma: Luma = "bt601", crop_border: int = 0) -> Tensor:
    """NIQE, one value per image, lower is better, about 2 to 15.

    NaN for an image with fewer than two blocks that have any texture (flat pictures), which has no score. Below about
    seven blocks the score is unstable.

    Args:
        x: (B, 3, H, W) or grey (B, 1, H, W), 8-bit values in [0, 255], any dtype. A grey image is its own luma.
        luma: "bt601", studio swing, or "yiq", full range; both rounded to integers.
        crop_border: pixels left out on every side first.

    Returns:
        (B,) float64.

    Raises:
        ValueError: not images, values outside [0, 255], an unknown luma, or fewer than two blocks of 96x96 pixels.
    """
    check_pixels("x", x)
    if luma not in ("bt601", "yiq"):
        raise ValueError(f"luma is {luma!r}, choose 'bt601' or 'yiq'")
    x = crop(x, crop_border)
    h, w = x.shape[-2:]
    if (h // BLOCK) * (w // BLOCK) < 2:
        raise ValueError(f"{h}x{w} pixels are fewer than two blocks of {BLOCK}x{BLOCK}, give at least 96x192 or 192x96")
    planes = luma_plane(x, luma)
    return torch.stack([distance_to_pristine(block_features(plane)) for plane in planes[:, 0]])


def luma_plane(x: Tensor, luma: Luma) -> Tensor:
    """Return the rounded luma (B, 1, H, W) that the published figures stand on; a grey image is its own.

    "bt601" is float32 and rounds its ties as BasicSR's float32 does: in an image of two blocks one tie in another
    direction can move the score by 1 %. "yiq" is float64, ties half up.
    """
    if luma == "yiq":
        return rgb_to_yiq_luma(x) if x.shape[1] == 3 else x.to(torch.float64).add(0.5).floor_()
    if x.shape[1] == 1:
        return x.float().round()
    r, g, b = (x.float() / 255).double().split(1, dim=1)
    return (((65.481 * r + 128.553 * g + 24.966 * b + 16) / 255).float() * 255).round()


def block_features(plane: Tensor) -> Tensor:
    """18 features of every 96x96 block of a luma plane (H, W) at full and at half size, blocks row by row.

    Returns:
        (N, 36) float64, NaN where a block is flat.
    """
    plane = plane[: plane.shape[0] // BLOCK * BLOCK, : plane.shape[1] // BLOCK * BLOCK]
    size = (plane.shape[0] // 2, plane.shape[1] // 2)
    half = bicubic(plane.double()[None, None], size, "matlab")[0, 0].to(plane)
    scales = ((normalized(plane), BLOCK), (normalized(half), BLOCK // 2))
    # one row of blocks after the other stays in the processor's cache
    return torch.cat([torch.cat([_features(_blocks(row, size)) for row in n.split(size)]) for n, size in scales], dim=1)


def normalized(plane: Tensor) -> Tensor:
    """Mean-subtracted, contrast-normalised plane (H, W): (x - mu) / (sd + 1), Eq. (1); edges replicated.

    Local moments are rounded to the plane's own precision, float64 results. BasicSR's are float32, which in flat parts
    decides the sign of what is left.
    """
    reach = WINDOW // 2
    padded = F.pad(plane[None, None], (reach,) * 4, mode="replicate")[0, 0]
    moments = window_mean(torch.stack([padded, padded * padded]).double(), gaussian_window(WINDOW, SIGMA))
    mean, square = moments.to(plane.dtype)
    centred = plane - mean
    # what rounding leaves of a flat surrounding has a sign, and would count as a sample of one side
    centred[centred.abs() < ROUNDING] = 0
    return (centred / ((square - mean * mean).abs().sqrt() + 1)).double()


def distance_to_pristine(features: Tensor) -> Tensor:
    """Distance of the blocks' Gaussian to the pristine one, Eq. (10): (N, 36) -> float64 scalar, NaN if undefined."""
    complete = features[~features.isnan().any(dim=1)]
    if len(complete) < 2:
        return features.new_full((), float("nan"))
    pristine_mean, pristine_cov = (t.to(features.device) for t in _pristine())
    difference = pristine_mean - features.nanmean(dim=0)
    inverse = torch.linalg.pinv((pristine_cov + torch.cov(complete.T)) / 2)
    return (difference @ inverse @ difference).sqrt()


@lru_cache(maxsize=1)
def _pristine() -> tuple[Tensor, Tensor]:
    """Mean (36,) and covariance (36, 36) of the features of pristine photographs."""
    tensors = load_file(PRISTINE)
    return tensors["mu"], tensors["cov"]


def _blocks(row: Tensor, size: int) -> Tensor:
    """(size, W) -> (W / size, size, size)."""
    return row.unflatten(1, (-1, size)).transpose(0, 1).contiguous()


def _features(blocks: Tensor) -> Tensor:
    """(N, s, s) normalised blocks -> (N, 18): the fit of the samples and of four products of neighbours."""
    alpha, left, right = _fit(blocks)
    columns = [alpha, (left + right) / 2]
    for shift in SHIFTS:
        alpha, left, right = _fit(blocks * blocks.roll(shift, dims=(1, 2)))
        mean = (right - left) * (torch.lgamma(2 / alpha) - torch.lgamma(1 / alpha)).exp()  # Eq. (8)
        columns += [alpha, mean, left, right]
    return torch.stack(columns, dim=1)


def _fit(samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Moment fit of asymmetric generalised Gaussians to (N, s, s): shape alpha, scales beta_l and beta_r, (N,) each."""
    x = samples.flatten(1)
    magnitude = x.abs()
    squares = x * x
    below, above = (x < 0).to(x.dtype), (x > 0).to(x.dtype)
    left = ((squares * below).sum(1) / below.sum(1)).sqrt()  # 0 / 0: no sample on this side
    right = ((squares * above).sum(1) / above.sum(1)).sqrt()
    g = left / right
    r = magnitude.mean(1).square() / squares.mean(1)
    r = r * (g**3 + 1) * (g + 1) / (g**2 + 1) ** 2
    alphas, ratios = (t.to(x.device) for t in _shape_table())
    # the ratio grows with alpha: the nearest entry changes half way between two; NaN takes the first, as in BasicSR
    nearest = torch.searchsorted((ratios[1:] + ratios[:-1]) / 2, r.nan_to_num(nan=0.0))
    alpha = alphas[nearest]
    to_beta = (torch.lgamma(1 / alpha) - torch.lgamma(3 / alpha)).div(2).exp()
    return alpha, left * to_beta, right * to_beta


@lru_cache(maxsize=1)
def _shape_table() -> tuple[Tensor, Tensor]:
    """Shapes alpha of 0.2, 0.201 ... 10 and Gamma(2/alpha)^2 / (Gamma(1/alpha) Gamma(3/alpha)) of each."""
    alphas = torch.arange(200, 10001, dtype=torch.float64) / 1000
    log_ratio = 2 * torch.lgamma(2 / alphas) - torch.lgamma(1 / alphas) - torch.lgamma(3 / alphas)
    return alphas, log_ratio.exp()
