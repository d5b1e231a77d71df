"""Does a result still agree with the picture it was made from? Both reduced to the LR size and compared there.

The reduction is MATLAB's antialiased bicubic, whatever degraded the LR: on real photos the figures compare methods, they
have no ideal value. The reduced image stays in floats, clipped to [0, 255] for the PSNR and not rounded to 8 bits.
"""

import torch
from torch import Tensor

from resdiff.metrics.pixels import check_pixels
from resdiff.metrics.psnr import psnr
from resdiff.resize import bicubic


def color_shift(sr: Tensor, lr: Tensor) -> Tensor:
    """Mean over the channels of |mean of the reduced result - mean of the LR|, in levels of 1/255; lower is better.

    Args:
        sr: (B, 3, H, W) or grey (B, 1, H, W), 8-bit values in [0, 255], any dtype.
        lr: (B, C, h, w), the image it was made from, with H / h = W / w >= 1.

    Returns:
        (B,) float64 in [0, 255].

    Raises:
        ValueError: not images, values outside [0, 255], or sizes that are not related by one factor.
    """
    reduced = _reduced(sr, lr)
    return (reduced.mean(dim=(2, 3)) - lr.double().mean(dim=(2, 3))).abs().mean(dim=1)


def lr_consistency(sr: Tensor, lr: Tensor) -> Tensor:
    """PSNR in dB over all channels of the reduced result against the LR, (B,) float64; higher is better.

    Arguments and errors as `color_shift`.
    """
    return psnr(_reduced(sr, lr).clamp(0, 255), lr, crop_border=0, y_channel=False)


def _reduced(sr: Tensor, lr: Tensor) -> Tensor:
    """`sr` at the size of `lr`, (B, C, h, w) float64, after the checks of `color_shift`."""
    check_pixels("sr", sr)
    check_pixels("lr", lr)
    (h, w), (height, width) = lr.shape[-2:], sr.shape[-2:]
    if sr.shape[:2] != lr.shape[:2] or sr.device != lr.device:
        raise ValueError(
            f"sr {tuple(sr.shape)} on {sr.device} and lr {tuple(lr.shape)} on {lr.device} differ in images, channels or "
            "device; give pairs"
        )
    if height * w != width * h or height < h:
        raise ValueError(f"sr of {height}x{width} pixels is not lr of {h}x{w} enlarged by one factor; crop both to fit")
    return torch.cat([bicubic(image.double(), (h, w), "matlab") for image in sr.split(1)])
