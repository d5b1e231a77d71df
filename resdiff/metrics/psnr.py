"""Peak signal-to-noise ratio of 8-bit images, on luma (super-resolution tables) or on RGB.

Differences from BasicSR (metrics/psnr_ssim.py): float64 throughout, and the luma is rounded unless asked otherwise
(`resdiff.metrics.luma`). pyiqa, which real-world tables are made with, does not round it and adds 1e-8 to the error:
``psnr(sr, hr, 0, round_y=False, eps=1e-8)``.
"""

import torch
from torch import Tensor

from resdiff.metrics.pixels import check_pair, crop, luma_or_channels, strips


def psnr(
    sr: Tensor,
    hr: Tensor,
    crop_border: int,
    y_channel: bool = True,
    *,
    round_y: bool = True,
    eps: float = 0.0,
) -> Tensor:
    """10 log10(255^2 / MSE) in dB, one value per image; inf where the images agree. RGB: MSE over all channels jointly.

    Args:
        sr: (B, 3, H, W) or grey (B, 1, H, W), 8-bit values in [0, 255], any dtype. A grey image is its own Y.
        hr: the same shape.
        crop_border: pixels left out on every side, the scale in the classic tables.
        y_channel: compare the luma of RGB images, else all three channels.
        round_y: whether that luma is rounded.
        eps: added to the MSE of the images in [0, 1], that is eps * 255^2 to the MSE here; 1e-8 limits PSNR to 80 dB.

    Returns:
        (B,) float64.

    Raises:
        ValueError: shapes differ or are not images, values outside [0, 255], a negative eps, or the border leaves
            nothing.
    """
    check_pair(sr, hr)
    if not eps >= 0:
        raise ValueError(f"eps is {eps}, give 0 or more, such as 1e-8")
    sr, hr = crop(sr, crop_border), crop(hr, crop_border)
    on_y = y_channel and sr.shape[1] == 3
    if sr.dtype == hr.dtype == torch.uint8 and not on_y:
        error = _integer_error(sr, hr)
    else:
        pairs = zip(sr.split(1), hr.split(1), strict=True)
        error = torch.stack([_error(*pair, y_channel=on_y, round_y=round_y) for pair in pairs])
    samples = sr[0].numel() // (3 if on_y else 1)
    return -10 * torch.log10(error / (255**2 * samples) + eps)


def _integer_error(sr: Tensor, hr: Tensor) -> Tensor:
    """Sum of squared differences of uint8 images, (B,) float64."""
    total = torch.zeros((), dtype=torch.float64, device=sr.device)
    for x, y in strips(sr, hr, samples=1 << 19):
        distance = torch.maximum(x, y).sub_(torch.minimum(x, y))  # |x - y| without leaving 8 bits
        # squares below 2^16 and short sums of them are exact in float32
        total = total + distance.float().square_().sum(dim=-1).sum(dim=(1, 2), dtype=torch.float64)
    return total


def _error(sr: Tensor, hr: Tensor, y_channel: bool, round_y: bool) -> Tensor:
    """Sum of squared differences of one pair (1, C, H, W), a float64 scalar."""
    parts = []
    for strip in strips(sr, hr):
        x, y = (luma_or_channels(image, y_channel=y_channel, round_y=round_y) for image in strip)
        parts.append((x - y).square_().sum())
    return torch.stack(parts).sum()
