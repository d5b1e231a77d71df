"""JPEG compression and decompression without the entropy coding, which loses nothing.

DiffJPEG (Shin and Song, "JPEG-resistant Adversarial Images", 2017) as in BasicSR `basicsr/utils/diffjpeg.py`. Where it
differs from libjpeg, so do we: the luminance table is transposed against the DCT's axes, qualities are real numbers
(the tables are neither rounded nor clipped), YCbCr values and decoded chroma are not rounded, chroma is averaged over
2x2 pixels and repeated, and the borders are filled with zeros. Differs from the reference: a quality of 100 divides by
zero there and gives NaN.
"""

from math import pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.data.degradation.ragged import Ragged
from resdiff.devices import full_precision

BLOCK = 8
UNIT = 16  # a 2x2 group of luminance blocks shares one chroma block of each kind
FINEST = 1e-4  # of the tables: the step at a quality near 100, where the formula goes to zero

LUMINANCE = (  # of the JPEG standard, Annex K.1, transposed
    (16, 12, 14, 14, 18, 24, 49, 72),
    (11, 12, 13, 17, 22, 35, 64, 92),
    (10, 14, 16, 22, 37, 55, 78, 95),
    (16, 19, 24, 29, 56, 64, 87, 98),
    (24, 26, 40, 51, 68, 81, 103, 112),
    (40, 58, 57, 87, 109, 104, 121, 100),
    (51, 60, 69, 80, 103, 113, 120, 103),
    (61, 55, 56, 62, 77, 92, 101, 99),
)
CHROMINANCE_CORNER = (  # Annex K.1; all others are 99
    (17, 18, 24, 47),
    (18, 21, 26, 66),
    (24, 26, 56, 99),
    (47, 66, 99, 99),
)
TO_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
TO_RGB = (
    (1.0, 0.0, 1.402),
    (1.0, -0.344136, -0.714136),
    (1.0, 1.772, 0.0),
)


def jpeg(x: Ragged, quality: Tensor, differentiable: bool = False) -> Ragged:
    """Return the images as they look after JPEG compression.

    Args:
        x: three channels in [0, 1]; NOT clamped here, as in DiffJPEG: filters and bicubic overshoot, clamp first.
        quality: (B,) in (0, 100], the scale of libjpeg but real numbers.
        differentiable: round by round(x) + (x - round(x))^3, whose gradient does not vanish.

    Returns:
        images in [0, 1], not rounded to 8 bits.
    """
    height, width = x.pixels.shape[-2:]
    with full_precision(x.pixels.device):
        shift = torch.tensor([0.0, 128.0, 128.0], device=x.pixels.device)[:, None, None]  # of the chroma
        rgb = F.pad(x.pixels * 255, (0, -width % UNIT, 0, -height % UNIT))
        ycbcr = _mixed(rgb, TO_YCBCR) + shift
        factor = _table_factor(quality.to(rgb))
        luminance, chrominance = _tables(rgb.device)
        y = _coded(ycbcr[:, :1], luminance, factor, differentiable)
        chroma = _coded(F.avg_pool2d(ycbcr[:, 1:], 2), chrominance, factor, differentiable)
        chroma = chroma.repeat_interleave(2, -1).repeat_interleave(2, -2)
        decoded = _mixed(torch.cat([y, chroma], 1) - shift, TO_RGB).clamp(0, 255) / 255
    return x.like(decoded[..., :height, :width])


def jpeg_tensor(x: Tensor, quality: Tensor | float, differentiable: bool = False) -> Tensor:
    """Return `jpeg` of a batch (B, 3, H, W) of equal sizes; quality (B,), or one number for all.

    Raises ValueError for one that is not in (0, 100].
    """
    if not isinstance(quality, Tensor):
        if not 0 < quality <= 100:
            raise ValueError(f"quality is {quality}; JPEG knows 0 (exclusive) to 100")
        quality = torch.full((len(x),), float(quality), device=x.device)
    return jpeg(Ragged.of(x), quality, differentiable).pixels


def _coded(plane: Tensor, table: Tensor, factor: Tensor, differentiable: bool) -> Tensor:
    """Transform blocks of (B, C, H, W) less 128, quantize by factor (B,) times the table (64,), transform back."""
    # as in the reference the scale is not part of the matrix: rounding, and its gradient, see the same last digits
    cosines, scale = _dct(plane.device)
    coefficients = ((_to_blocks(plane) - 128) @ cosines) * scale  # (B, C, blocks, 64)
    step = (factor[:, None] * table)[:, None, None]  # (B, 1, 1, 64)
    rounded = _rounded(coefficients / step, differentiable)
    return _from_blocks((rounded * step * scale) @ cosines.mT + 128, plane.shape)


def _rounded(x: Tensor, differentiable: bool) -> Tensor:
    nearest = x.round()
    return nearest + (x - nearest) ** 3 if differentiable else nearest


def _to_blocks(plane: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, blocks, 64), pixels of a block row by row."""
    batch, channels, height, width = plane.shape
    blocks = plane.reshape(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    return blocks.reshape(batch, channels, -1, BLOCK * BLOCK)


def _from_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """(B, C, blocks, 64) -> (B, C, H, W)."""
    batch, channels, height, width = shape
    grid = blocks.reshape(batch, channels, height // BLOCK, width // BLOCK, BLOCK, BLOCK)
    return grid.transpose(3, 4).reshape(shape)


def _mixed(x: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    """Apply a colour matrix to the channels of (B, 3, H, W)."""
    # not as a matrix product: what that adds first depends on the library, and the last digit on it
    red, green, blue = torch.tensor(matrix, device=x.device).T[:, :, None, None]  # (3, 1, 1) each, what they go into
    return (x[:, :1] * red).addcmul(x[:, 1:2], green).addcmul(x[:, 2:], blue)


def _table_factor(quality: Tensor) -> Tensor:
    """Return libjpeg's scale of the tables: 50/q below quality 50, (100 - q)/50 from there."""
    return (torch.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100).clamp(min=FINEST)


def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the luminance and the chrominance table, (64,) each."""
    chrominance = torch.full((BLOCK, BLOCK), 99.0, device=device)
    chrominance[:4, :4] = torch.tensor(CHROMINANCE_CORNER, device=device)
    return torch.tensor(LUMINANCE, dtype=torch.float32, device=device).flatten(), chrominance.flatten()


def _dct(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the 8x8 cosines (64 pixels, 64 frequencies) and the scale (64,) that makes them orthonormal."""
    x, u = torch.arange(BLOCK, dtype=torch.float64)[:, None], torch.arange(BLOCK, dtype=torch.float64)
    cosines = ((2 * x + 1) * u * pi / 16).cos()
    scale = torch.tensor([sqrt(1 / 8)] + [1 / 2] * (BLOCK - 1), dtype=torch.float64)
    return torch.kron(cosines, cosines).float().to(device), torch.kron(scale, scale).float().to(device)
