"""Resizing every image of a batch to its own size by its own method, as two products with weight matrices.

"area", "bilinear" and "bicubic" are those of `torch.nn.functional.interpolate` without antialiasing, which Real-ESRGAN
(2107.10833) draws from; "coverage" is OpenCV's INTER_AREA, "bilinear" is also its INTER_LINEAR. Differs from the
reference: one method and one factor per image, where the reference has one per batch.
"""

from collections.abc import Sequence
from math import floor
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.data.degradation.ragged import Ragged
from resdiff.devices import full_precision

Mode = Literal["area", "bilinear", "bicubic", "coverage"]
MODES: tuple[Mode, ...] = get_args(Mode)
CUBIC = -0.75  # Keys' parameter a in torch and OpenCV


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (floor(h scale), floor(w scale)), the size that interpolating by a factor gives; at least one pixel."""
    return max(1, floor(size[0] * scale)), max(1, floor(size[1] * scale))


def resize(
    x: Ragged,
    sizes: Sequence[tuple[int, int]],
    modes: Sequence[Mode],
    scales: Sequence[float | None] | None = None,
) -> Ragged:
    """Resize image i to `sizes[i]` by `modes[i]`.

    Args:
        x: any number of channels, any range.
        sizes: (h, w) of each result.
        modes: "area": mean of the pixels that an output pixel touches (adaptive average pooling). "coverage": mean
            weighted by how much of each pixel it covers. "bilinear", "bicubic" (a = -0.75): interpolation at the
            pixel's centre, without antialiasing.
        scales: `scales[i]` given: bilinear and bicubic sample at steps of exactly 1 / scale input pixels, as
            ``interpolate(scale_factor=scale)`` does. None: at steps of input size over output size, as with ``size=``.

    Returns:
        the resized images, not clipped: bicubic overshoots.

    Raises:
        ValueError: a list of another length than the batch, an unknown mode, an empty size.
    """
    scales = [None] * len(x.sizes) if scales is None else scales
    if not len(sizes) == len(modes) == len(scales) == len(x.sizes):
        lengths = f"{len(sizes)} sizes, {len(modes)} modes, {len(scales)} scales"
        raise ValueError(f"{lengths} for {len(x.sizes)} images; give one of each per image")
    if unknown := set(modes) - set(MODES):
        raise ValueError(f"mode is {unknown.pop()!r}; choose one of {', '.join(MODES)}")
    if min(min(size) for size in sizes) < 1:
        raise ValueError(f"sizes is {sizes}; every side must be at least 1")
    with full_precision(x.pixels.device):
        if _is_plain(x.sizes, sizes, modes, scales):
            size = sizes[0] if scales[0] is None else None
            pixels = F.interpolate(x.pixels, size, scales[0], modes[0])
        else:
            rows, columns = (
                _weights([s[axis] for s in x.sizes], [s[axis] for s in sizes], modes, scales, x.pixels.device)
                for axis in (0, 1)
            )
            pixels = rows[:, None] @ (x.pixels @ columns[:, None].mT)
    return Ragged(pixels, tuple((h, w) for h, w in sizes))


def _is_plain(
    sizes: Sequence[tuple[int, int]],
    out_sizes: Sequence[tuple[int, int]],
    modes: Sequence[Mode],
    scales: Sequence[float | None],
) -> bool:
    """Whether one call of torch's interpolate does it: the same to the last bit as the reference, and faster."""
    (h, w), scale = sizes[0], scales[0]
    alike = len({*zip(sizes, out_sizes, modes, scales, strict=True)}) == 1
    usual_size = scale is None or out_sizes[0] == (floor(h * scale), floor(w * scale))
    return alike and usual_size and modes[0] != "coverage"


def _weights(
    lengths: Sequence[int],
    out_lengths: Sequence[int],
    modes: Sequence[Mode],
    scales: Sequence[float | None],
    device: torch.device,
) -> Tensor:
    """Return the weight (B, largest output, largest input) of every input sample in every output sample of one axis."""
    weights = torch.zeros(len(lengths), max(out_lengths), max(lengths), device=device)
    for mode in set(modes):
        of_mode = [i for i, m in enumerate(modes) if m == mode]
        n = torch.tensor([lengths[i] for i in of_mode], device=device)[:, None]  # (b, 1)
        n_out = torch.tensor([out_lengths[i] for i in of_mode], device=device)[:, None]
        i = torch.arange(max(out_lengths), device=device)[None]  # (1, outputs)
        if mode in ("area", "coverage"):
            made = _means(i, n, n_out, max(lengths), whole_pixels=mode == "area")
        else:
            given = torch.tensor([1 / (scales[j] or float("inf")) for j in of_mode], device=device)[:, None]
            ratio = torch.where(given > 0, given, n / n_out)
            made = (_linear if mode == "bilinear" else _cubic)(i, n, ratio, max(lengths))
        weights[of_mode] = made * (i < n_out)[..., None]
    return weights


def _means(i: Tensor, n: Tensor, n_out: Tensor, length: int, whole_pixels: bool) -> Tensor:
    """Weights (b, outputs, length) of means over [i n / n_out, (i + 1) n / n_out), widened to whole pixels or not."""
    if whole_pixels:
        start, end = (i * n) // n_out, -((-(i + 1) * n) // n_out)
    else:
        start, end = (i * n).double() / n_out, ((i + 1) * n).double() / n_out
    j = torch.arange(length, device=n.device)
    covered = (end[..., None].clamp(max=j + 1) - start[..., None].clamp(min=j)).clamp(min=0)
    return (covered / covered.sum(-1, keepdim=True).clamp(min=1e-12)).float()


def _linear(i: Tensor, n: Tensor, ratio: Tensor, length: int) -> Tensor:
    """Weights (b, outputs, length) of linear interpolation at ratio (i + 1/2) - 1/2; the edge pixel goes on outside."""
    centre = (ratio * (i + 0.5) - 0.5).clamp(min=0)
    first = centre.floor()
    t = (centre - first).clamp(0, 1)
    return _dense([(first, 1 - t), (first + 1, t)], n, length)


def _cubic(i: Tensor, n: Tensor, ratio: Tensor, length: int) -> Tensor:
    """Weights (b, outputs, length) of Keys' cubic convolution at ratio (i + 1/2) - 1/2; edge pixels go on outside."""
    centre = ratio * (i + 0.5) - 0.5
    first = centre.floor()
    t = centre - first
    near = [((CUBIC + 2) * u - (CUBIC + 3)) * u * u + 1 for u in (t, 1 - t)]
    far = [((CUBIC * u - 5 * CUBIC) * u + 8 * CUBIC) * u - 4 * CUBIC for u in (1 + t, 2 - t)]
    return _dense([(first - 1, far[0]), (first, near[0]), (first + 1, near[1]), (first + 2, far[1])], n, length)


def _dense(taps: Sequence[tuple[Tensor, Tensor]], n: Tensor, length: int) -> Tensor:
    """Return taps (position, weight), each (b, outputs), as weights (b, outputs, length); positions are clamped."""
    dense = torch.zeros(*taps[0][1].shape, length, device=n.device)
    for position, weight in taps:
        index = position.long().clamp(min=0).minimum(n - 1)
        dense.scatter_add_(-1, index[..., None], weight[..., None])
    return dense
