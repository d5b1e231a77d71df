"""Bicubic resampling with the kernel named, and padding to a multiple.

"Bicubic" is three different things in the literature this package meets:

==========  =====  ==================  ===========================  ====================================
kernel      a      when shrinking      taps outside the image       used by
==========  =====  ==================  ===========================  ====================================
``matlab``  -0.5   kernel stretched    mirrored                     MATLAB / BasicSR ``imresize``
``pil``     -0.5   kernel stretched    dropped, rest renormalised   Pillow ``Image.BICUBIC`` on floats
``torch``   -0.75  kernel unchanged    clamped to the edge          ``F.interpolate(mode="bicubic")``
==========  =====  ==================  ===========================  ====================================

The cubic kernel is Keys, "Cubic Convolution Interpolation for Digital Image Processing", 1981. Nothing here clamps:
a bicubic kernel overshoots, and whether that may be cut off is the caller's knowledge. `matlab_legacy` is the one
8-bit function: MATLAB's old ``imresize`` with its rounding, which made the x4 images of Set5, Set14 and BSD100.
"""

import math
from functools import lru_cache, reduce
from typing import Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BicubicKernel = Literal["matlab", "pil", "torch"]
STRONGEST = 16  # reduction that torch's kernel is asked for; on CUDA its weights must fit into a block's memory
Image8 = TypeVar("Image8", np.ndarray, Tensor)


def bicubic(x: Tensor, size: tuple[int, int], kernel: BicubicKernel) -> Tensor:
    """Resize to `size` = (height, width), each axis with its own scale out/in. Differentiable; never clamps.

    Args:
        x: (B, C, H, W), floating point, any range. Half precisions are computed in float32 and cast back.
        size: (H', W') in pixels.
        kernel: which bicubic, see the table of this module.

    Returns:
        (B, C, H', W') in the dtype of `x`. ``pil`` equals Pillow on float images of range [0, 1] to 1e-6 at whole
        factors and to 2e-5 at others, where torch forms the sampling positions in the dtype of `x` (float64: exact).

    Raises:
        ValueError: not four axes, not floating point, an empty size, or an unknown kernel.
    """
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"x is {x.dtype} of shape {tuple(x.shape)}, bicubic needs a floating (B, C, H, W)")
    if min(size) < 1:
        raise ValueError(f"size is {tuple(size)}, give a height and a width of at least 1")
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if kernel == "torch":
        y = F.interpolate(wide, size=tuple(size), mode="bicubic", align_corners=False)
    elif kernel == "pil":
        y = _pil_width(_pil_width(wide, size[1]).mT, size[0]).mT if _is_strong(wide, size) else _antialiased(wide, size)
    elif kernel == "matlab":
        y = _resample_mirrored(_resample_mirrored(wide, size[0], dim=-2), size[1], dim=-1)
    else:
        raise ValueError(f"kernel is {kernel!r}, choose one of 'matlab', 'pil', 'torch'")
    return y.to(x.dtype)


def row_support(length: int, out_length: int, start: int, stop: int) -> tuple[int, int]:
    """Return the first and last (exclusive) row of `length` that output rows `start` to `stop` of `out_length` need."""
    indices, weights = _dropped_taps(length, out_length)
    used = indices[start:stop][weights[start:stop] != 0]
    return int(used.min()), int(used.max()) + 1


def bicubic_rows(
    x: Tensor,  # (B, C, rows, W): rows `top` to `top + rows` of an image of `height` rows
    size: tuple[int, int],  # of the whole output
    start: int,  # output rows wanted
    stop: int,
    top: int,
    height: int,
) -> Tensor:
    """Return rows `start` to `stop` of ``bicubic(image, size, "pil")``, (B, C, stop - start, size[1]), from a part of it.

    `x` must hold the rows of `row_support`. float32, or float64 where x is.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    if x.shape[-1] != size[1]:
        x = _pil_width(x, size[1])
    if height == size[0]:
        return x[..., start - top : stop - top, :]
    indices, weights = (torch.from_numpy(table[start:stop].T.copy()) for table in _dropped_taps(height, size[0]))
    return _weighted_rows(x, indices - top, weights)


def matlab_legacy(image: Image8, scale: float) -> Image8:
    """Resize as MATLAB's old ``imresize(uint8, scale, 'bicubic')``: a = -0.5, stretched when shrinking, borders clamped.

    Rows first, then columns, and the result of *each* pass is rounded (half up) and clipped to 8 bits.

    Args:
        image: (H, W) or (H, W, C), uint8, array or tensor.
        scale: output size is ceil(scale * input size) per axis.

    Returns:
        uint8 of the resized shape, array or tensor as given.

    Raises:
        ValueError: another dtype or number of axes, or a scale that is not positive.
    """
    array = image.cpu().numpy() if isinstance(image, Tensor) else image
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise ValueError(
            f"image is {array.dtype} of shape {array.shape}, matlab_legacy needs uint8 (H, W) or (H, W, C)"
        )
    if not scale > 0:
        raise ValueError(f"scale is {scale}, give a positive factor such as 0.25")
    for axis in (0, 1):
        length = array.shape[axis]
        indices, weights = cubic_taps(length, math.ceil(scale * length), scale)
        per_output = (-1,) + (1,) * (array.ndim - 1 - axis)
        total = sum(
            w.reshape(per_output) * np.take(array, i, axis=axis)
            for i, w in zip(np.clip(indices, 0, length - 1).T, weights.T, strict=True)
        )
        array = np.clip(np.floor(total + 0.5), 0, 255).astype(np.uint8)
    return torch.from_numpy(array).to(image.device) if isinstance(image, Tensor) else array


def cubic_taps(length: int, out_length: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Taps of every output sample along one axis, a = -0.5, antialiased: the kernel is stretched when scale < 1.

    Output sample i (from 0) is centred at (i + 0.5) / scale - 0.5 of the input.

    Returns:
        indices (out_length, P), which may lie outside 0..length-1 (the border rule is the caller's), and
        weights (out_length, P) in float64, each row summing to 1.
    """
    stretch = min(scale, 1.0)
    width = 4.0 / stretch
    centre = (np.arange(out_length) + 0.5) / scale - 0.5
    first = np.floor(centre - width / 2).astype(np.int64)
    indices = first[:, None] + np.arange(math.ceil(width) + 2)  # (out_length, P)
    weights = _cubic((centre[:, None] - indices) * stretch)
    used = np.any(weights != 0, axis=0)
    indices, weights = indices[:, used], weights[:, used]
    return indices, weights / weights.sum(axis=1, keepdims=True)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Reflect at the bottom and right until both sides are multiples; nothing is added where they already are.

    Equals torch's ``reflect`` where torch allows it (pad smaller than the side) and goes on reflecting to and fro where
    it does not, down to a side of 1.

    Args:
        x: (..., H, W), any dtype, H and W at least 1.
        multiple: at least 1.

    Returns:
        the padded tensor and the (H, W) to crop back to with ``y[..., :H, :W]``.

    Raises:
        ValueError: an empty side, or a multiple below 1.
    """
    h, w = x.shape[-2:]
    if multiple < 1 or min(h, w) < 1:
        raise ValueError(f"cannot pad {h}x{w} to multiples of {multiple}: sides and multiple must be at least 1")
    for dim, side in ((-2, h), (-1, w)):
        if side % multiple:
            x = x.index_select(dim, _reflected_indices(side, side + -side % multiple).to(x.device))
    return x, (h, w)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5, his Eq. (15); zero outside (-2, 2)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


@lru_cache(maxsize=16)
def _dropped_taps(length: int, out_length: int) -> tuple[np.ndarray, np.ndarray]:
    """(out_length, P) indices and float64 weights; samples beyond the edge are dropped and the rest renormalised."""
    indices, weights = cubic_taps(length, out_length, out_length / length)
    weights = np.where((indices >= 0) & (indices < length), weights, 0.0)
    return indices, weights / weights.sum(axis=1, keepdims=True)


@lru_cache(maxsize=64)
def _mirrored_taps(length: int, out_length: int) -> tuple[Tensor, Tensor]:
    """(P, out_length) indices and float64 weights; samples beyond the edge are the mirror image, edge included."""
    indices, weights = cubic_taps(length, out_length, out_length / length)
    folded = np.mod(indices, 2 * length)
    folded = np.where(folded < length, folded, 2 * length - 1 - folded)
    return torch.from_numpy(folded.T.copy()), torch.from_numpy(weights.T.copy())


def _resample_mirrored(x: Tensor, out_length: int, dim: Literal[-2, -1]) -> Tensor:
    """One pass of the ``matlab`` kernel along `dim`: a weighted sum of P shifted samplings."""
    if dim == -1:
        # whole rows are gathered much faster than columns
        return _resample_mirrored(x.mT.contiguous(), out_length, dim=-2).mT.contiguous()
    return _weighted_rows(x, *_mirrored_taps(x.shape[dim], out_length))


def _weighted_rows(x: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
    """Return weighted sums of rows, (..., out, W), for (P, out) tables; a tap of weight 0 may point outside."""
    indices = indices.clamp(0, x.shape[-2] - 1).to(x.device)
    taps = zip(indices, weights.to(x.dtype).to(x.device), strict=True)
    return reduce(torch.add, (x.index_select(-2, index) * weight[:, None] for index, weight in taps))


def _pil_width(x: Tensor, width: int) -> Tensor:
    """One pass of the ``pil`` kernel along the last axis."""
    if not _is_strong(x, (x.shape[-2], width)):
        return _antialiased(x, (x.shape[-2], width))
    indices, weights = (torch.from_numpy(table.T.copy()) for table in _dropped_taps(x.shape[-1], width))
    return _weighted_rows(x.mT.contiguous(), indices, weights).mT.contiguous()


def _is_strong(x: Tensor, size: tuple[int, int]) -> bool:
    return x.shape[-2] > STRONGEST * size[0] or x.shape[-1] > STRONGEST * size[1]


def _antialiased(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bicubic", align_corners=False, antialias=True)


def _reflected_indices(side: int, padded: int) -> Tensor:
    """Source index of each of the `padded` positions; those from `side` on lie beyond the edge."""
    period = max(2 * (side - 1), 1)
    i = torch.arange(padded) % period
    return torch.minimum(i, period - i) if side > 1 else i
