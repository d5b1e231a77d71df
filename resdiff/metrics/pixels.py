"""What pixel metrics take: 8-bit images, checked, cropped and handed out in strips that stay in the processor's cache.

Strips hold whole rows, so that the memory a metric needs does not grow with the photo's height. Metrics walk down one
image at a time, unless sums are exact in any order, so that a figure does not depend on the batch it was computed in.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from resdiff.metrics.luma import rgb_to_y

CPU_STRIP = 1 << 17  # samples: 1 MiB of float64
GPU_STRIP = 1 << 24


def check_pixels(name: str, x: Tensor) -> None:
    """Raise ValueError unless `x` is (B, 3, H, W) or (B, 1, H, W), not empty, with all values in [0, 255]."""
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.numel() == 0:
        raise ValueError(f"{name} is of shape {tuple(x.shape)}, give (B, 3, H, W) or (B, 1, H, W)")
    if x.dtype == torch.uint8:
        return
    low, high = (float(value) for value in x.aminmax())
    if not (low >= 0 and high <= 255):  # NaN is neither
        raise ValueError(f"{name} spans {low:g}..{high:g}, give 8-bit values in 0..255")


def check_pair(sr: Tensor, hr: Tensor) -> None:
    """Raise ValueError unless both are images as `check_pixels` wants them, of one shape, on one device."""
    if sr.shape != hr.shape or sr.ndim != 4 or sr.shape[1] not in (1, 3) or sr.device != hr.device:
        raise ValueError(
            f"sr {tuple(sr.shape)} on {sr.device} and hr {tuple(hr.shape)} on {hr.device} must both be (B, 3, H, W) or "
            "(B, 1, H, W), on one device"
        )
    check_pixels("sr", sr)
    check_pixels("hr", hr)


def crop(x: Tensor, crop_border: int) -> Tensor:
    """Remove `crop_border` pixels on every side of (B, C, H, W).

    Raises ValueError when that is negative or leaves nothing.
    """
    h, w = x.shape[-2:]
    if crop_border < 0 or 2 * crop_border >= min(h, w):
        raise ValueError(f"crop_border is {crop_border}, it must be at least 0 and leave something of {h}x{w}")
    return x.narrow(-2, crop_border, h - 2 * crop_border).narrow(-1, crop_border, w - 2 * crop_border)


def luma_or_channels(x: Tensor, *, y_channel: bool = True, round_y: bool = True) -> Tensor:
    """Return the BT.601 Y (B, 1, H, W) of colour if asked, else all channels as they are; float64."""
    return rgb_to_y(x, round_y=round_y) if y_channel and x.shape[1] == 3 else x.to(torch.float64)


def strips(sr: Tensor, hr: Tensor, *, overlap: int = 0, samples: int = CPU_STRIP) -> Iterator[tuple[Tensor, Tensor]]:
    """Walk down a pair of (B, C, H, W) images in strips of whole rows, each `overlap` rows longer than its step.

    Windows of `overlap` + 1 rows fit into exactly one strip each. A strip's step has about `samples` values, more on a
    GPU, which wants few large steps.
    """
    samples = samples if sr.device.type == "cpu" else GPU_STRIP
    height, row = sr.shape[-2] - overlap, sr.numel() // sr.shape[-2]
    step = max(samples // row, overlap, 1)
    for top in range(0, height, step):
        rows = min(step, height - top) + overlap
        yield sr.narrow(-2, top, rows), hr.narrow(-2, top, rows)
