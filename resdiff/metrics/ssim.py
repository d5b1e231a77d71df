"""Structural similarity of 8-bit images as super-resolution tables give it.

Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004: 11x11 Gaussian window of
sigma 1.5, only positions where it lies inside the image, population moments. No down-sampling beforehand; equal to
MATLAB's and BasicSR's (metrics/psnr_ssim.py), here in float64. pyiqa (archs/ssim_arch.py), which real-world tables are
made with, counts negative contrast-structure terms as zero: ``clamp=True``.

Difference in method: the moments are taken of the sum and the difference of the two images instead of the images and
their product, which needs four windowed means instead of five, and strip by strip in the processor's cache.
"""

import torch
from torch import Tensor

from resdiff.metrics.pixels import check_pair, crop, luma_or_channels, strips
from resdiff.metrics.window import gaussian_window, window_mean

WINDOW = 11
SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2


@torch.no_grad()
def ssim(
    sr: Tensor,
    hr: Tensor,
    crop_border: int,
    y_channel: bool = True,
    *,
    round_y: bool = True,
    clamp: bool = False,
) -> Tensor:
    """Mean SSIM, one value per image in [-1, 1], 1 for identical images. RGB: mean over the channels.

    Args:
        sr: (B, 3, H, W) or grey (B, 1, H, W), 8-bit values in [0, 255], any dtype. A grey image is its own Y.
        hr: the same shape.
        crop_border: pixels left out on every side, the scale in the classic tables.
        y_channel: compare the BT.601 luma of RGB images, else all three channels.
        round_y: whether that luma is rounded.
        clamp: count negative contrast-structure terms as zero, as pyiqa does; the range is [0, 1] then.

    Returns:
        (B,) float64.

    Raises:
        ValueError: as `psnr`, and when fewer than 11 pixels per side remain.
    """
    check_pair(sr, hr)
    sr, hr = crop(sr, crop_border), crop(hr, crop_border)
    h, w = sr.shape[-2:]
    if min(h, w) < WINDOW:
        raise ValueError(f"{h}x{w} pixels are left after cropping, the window needs {WINDOW}x{WINDOW}")
    values = []
    for pair in zip(sr.split(1), hr.split(1), strict=True):
        total, count = torch.zeros((), dtype=torch.float64, device=sr.device), 0
        for strip in strips(*pair, overlap=WINDOW - 1):
            x, y = (luma_or_channels(image, y_channel=y_channel, round_y=round_y) for image in strip)
            similarity = _ssim_map(x, y, clamp)
            total, count = total + similarity.sum(), count + similarity.numel()
        values.append(total / count)
    return torch.stack(values)


def _ssim_map(x: Tensor, y: Tensor, clamp: bool) -> Tensor:
    """SSIM at every position of the window, Eq. (13) of the paper, from the moments of x + y and x - y.

    With s, d their local means: 4 mu_x mu_y = s^2 - d^2 and 2 (mu_x^2 + mu_y^2) = s^2 + d^2; with p, q their local
    variances: 4 cov = p - q and 2 (var_x + var_y) = p + q.
    """
    both = torch.stack([x + y, x - y])
    mean, square = window_mean(torch.stack([both, both * both]), gaussian_window(WINDOW, SIGMA))
    mean = mean.square_()
    (s2, d2), (p, q) = mean, square.sub_(mean)
    luminance = (s2 - d2 + 2 * C1) / (s2 + d2 + 2 * C1)
    contrast_structure = (p - q + 2 * C2) / (p + q + 2 * C2)
    if clamp:
        contrast_structure.clamp_(min=0)
    return luminance * contrast_structure
