"""Blur, sinc and other small filters, one per image, and unsharp masking.

Real-ESRGAN (2107.10833), BasicSR `filter2D` and `basicsr/utils/img_process_util.py: USMSharp`. On the CPU, images and
windows of moderate size are convolved directly, which gives the reference's result to the last bit: JPEG and the
rounding to 8 bits make a whole step of a last digit. Otherwise by FFT (error 3e-7), whose cost does not grow with the
window. One CPU core, one image of 256 px: 21 taps take 3.3 ms directly and 1.7 ms by FFT, 51 taps 14 and 1.8 ms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.data.degradation.kernels import gaussian_kernel
from resdiff.data.degradation.ragged import Ragged
from resdiff.devices import full_precision

DIRECT = 2**26  # products per channel up to which a CPU convolves directly: 21 taps to 390 px, 51 taps to 160 px
LANES = 16  # channels that the CPU's depthwise convolution computes at a time, whether they are there or not


def filter2d(x: Ragged, kernels: Tensor) -> Ragged:
    """Correlate every channel with its image's kernel; beyond the border lies the mirror image, border not repeated.

    Args:
        x: any number of channels, any range.
        kernels: (B, k, k), or (1, k, k) or (k, k) for all images; k odd, at least 1; not flipped.

    Returns:
        the filtered images, not clipped.

    Raises:
        ValueError: an even k, or another number of kernels than of images.
    """
    kernels = kernels[None] if kernels.ndim == 2 else kernels
    count, k = kernels.shape[0], kernels.shape[-1]
    if kernels.ndim != 3 or kernels.shape[-2] != k or k % 2 == 0 or count not in (1, len(x.sizes)):
        raise ValueError(f"kernels is {tuple(kernels.shape)}; give (k, k) or ({len(x.sizes)}, k, k) with an odd k")
    height, width = x.pixels.shape[-2:]
    padded = _reflect_pad(x, k // 2)
    kernels = kernels.to(padded)
    direct = padded.device.type == "cpu" and k * k * height * width <= DIRECT
    filtered = _convolved(padded, kernels) if direct else _convolved_by_fft(padded, kernels)
    return x.like(filtered)


def usm_sharpen(x: Tensor, weight: float = 0.5, radius: int = 50, threshold: float = 10.0) -> Tensor:
    """Sharpen by unsharp masking, only where the image differs from its blurred self, with a soft transition.

    Args:
        x: (B, C, H, W) in [0, 1].
        weight: how much of the difference is added.
        radius: side of the Gaussian window in pixels, made odd by adding one; its sigma is OpenCV's rule,
            0.3 ((side - 1) / 2 - 1) + 0.8, which is 8 for 51.
        threshold: difference in 8-bit levels above which a value is sharpened; each channel for itself.

    Returns:
        (B, C, H, W) float32 in [0, 1].
    """
    side = radius + 1 - radius % 2
    window = gaussian_kernel(side, "iso", 0.3 * ((side - 1) / 2 - 1) + 0.8)
    image = Ragged.of(x)
    residual = image.pixels - filter2d(image, window).pixels
    mask = (residual.abs() * 255 > threshold).float()
    soft = filter2d(Ragged.of(mask), window).pixels
    sharp = (image.pixels + weight * residual).clamp(0, 1)
    return soft * sharp + (1 - soft) * image.pixels


def _reflect_pad(x: Ragged, margin: int) -> Tensor:
    """Mirror each image at its own borders, to and fro where it is smaller than the margin."""
    if x.is_even and margin < min(x.sizes[0]):
        return F.pad(x.pixels, (margin,) * 4, mode="reflect")
    height, width = x.pixels.shape[-2:]
    sides = torch.tensor(x.sizes, device=x.pixels.device)  # (B, 2)
    rows = _reflected(sides[:, :1], height, margin)[:, None, :, None]
    columns = _reflected(sides[:, 1:], width, margin)[:, None, None, :]
    batch, channels = x.pixels.shape[:2]
    tall = x.pixels.gather(2, rows.expand(batch, channels, -1, width))
    return tall.gather(3, columns.expand(batch, channels, rows.shape[2], -1))


def _reflected(sides: Tensor, length: int, margin: int) -> Tensor:
    """Return which pixel (B, length + 2 margin) each place takes, for images of `sides` (B, 1) pixels."""
    place = torch.arange(-margin, length + margin, device=sides.device)
    period = (2 * (sides - 1)).clamp(min=1)
    folded = place.remainder(period)
    return torch.minimum(folded, period - folded)


def _convolved(padded: Tensor, kernels: Tensor) -> Tensor:
    """Correlate (B, C, H + k - 1, W + k - 1) with (B or 1, k, k) by a depthwise convolution; return (B, C, H, W)."""
    batch, channels, height, width = padded.shape
    k = kernels.shape[-1]
    height, width = height - k + 1, width - k + 1
    # a few images are cut into strips that fill the lanes: one photograph then takes a fifth of the time
    strips = max(1, LANES // (batch * channels))
    rows = -(-height // strips)
    windows = F.pad(padded, (0, 0, 0, strips * rows - height)).unfold(2, rows + k - 1, rows)
    windows = windows.transpose(-1, -2).reshape(1, -1, rows + k - 1, width + k - 1)  # (1, B * C * strips, ..)
    weights = kernels[:, None].expand(batch, channels * strips, k, k).reshape(-1, 1, k, k)
    with full_precision(padded.device):
        filtered = F.conv2d(windows, weights, groups=len(weights))
    return filtered.view(batch, channels, strips * rows, width)[:, :, :height].contiguous()


def _convolved_by_fft(padded: Tensor, kernels: Tensor) -> Tensor:
    """Return the same by FFT: what circular correlation gets wrong are the last k - 1 rows and columns."""
    k = kernels.shape[-1]
    height, width = padded.shape[-2] - k + 1, padded.shape[-1] - k + 1
    sides = [_fft_length(side) for side in padded.shape[-2:]]
    with full_precision(padded.device):
        spectrum = torch.fft.rfft2(padded, s=sides)
        response = torch.fft.rfft2(kernels[:, None], s=sides)
        return torch.fft.irfft2(spectrum * response.conj(), s=sides)[..., :height, :width].contiguous()


def _fft_length(side: int) -> int:
    """Return the next even length that has no prime factor above 7: others take two to three times as long."""
    side += side % 2
    while (2 * 3 * 5 * 7) ** 16 % side:
        side += 2
    return side
