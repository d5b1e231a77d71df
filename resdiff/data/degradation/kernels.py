"""Blur kernels: six Gaussian-like shapes and the circular low-pass (sinc) filter, and how they are drawn.

Real-ESRGAN (2107.10833), BasicSR `basicsr/data/degradations.py`. Kernels are float64, odd and of sum 1; coordinates are
(column, row) pixels from the centre. Differs from the reference: a kernel is drawn from the sample's own generator, and
its multiplicative kernel noise, which every published setting turns off, is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, isclose, pi, sin
from typing import Literal, get_args

import torch
from torch import Tensor

from resdiff.data.degradation.base import check_probabilities, uniform

Shape = Literal["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
SHAPES: tuple[Shape, ...] = get_args(Shape)

SMALL_SINC = 13  # sides below it are not drawn with the lowest cutoffs: the kernel would be cut off
SMALL_SINC_CUTOFF = (pi / 3, pi)
SINC_CUTOFF = (pi / 5, pi)


def gaussian_kernel(
    size: int,
    shape: Shape,
    sigma_x: float,
    sigma_y: float | None = None,
    theta: float = 0.0,
    beta: float | None = None,
) -> Tensor:
    """Return exp(-q/2), exp(-q^beta/2) (generalized) or 1/(1 + q^beta) (plateau), q = x^T Sigma^-1 x, over its sum.

    Args:
        size: odd side in pixels.
        shape: the iso shapes use `sigma_x` for both axes and no angle.
        sigma_x: standard deviation in pixels along the first axis of Sigma, which lies at `theta`.
        sigma_y: the same along the second; aniso shapes need it.
        theta: angle of the first axis in radians, from the column axis towards the row axis.
        beta: exponent; generalized and plateau shapes need it.

    Returns:
        (size, size) float64.

    Raises:
        ValueError: an even size, an unknown shape, a sigma that is not positive, a missing sigma_y or beta.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}; choose one of {', '.join(SHAPES)}")
    x, y = _grid(size)
    if shape.endswith("aniso"):
        if sigma_y is None:
            raise ValueError(f"sigma_y is None; {shape} needs the standard deviation along the second axis")
    else:
        sigma_y, theta = sigma_x, 0.0
    if min(sigma_x, sigma_y) <= 0:
        raise ValueError(f"sigma is {sigma_x}, {sigma_y} pixels; give positive numbers")
    u, v = cos(theta) * x + sin(theta) * y, cos(theta) * y - sin(theta) * x
    q = (u / sigma_x) ** 2 + (v / sigma_y) ** 2
    if shape in ("iso", "aniso"):
        return _normalized((-q / 2).exp())
    if beta is None:
        raise ValueError(f"beta is None; {shape} needs an exponent")
    if shape.startswith("generalized"):
        return _normalized((-(q**beta) / 2).exp())
    return _normalized(1 / (1 + q**beta))


def sinc_kernel(size: int, cutoff: float, pad_to: int = 0) -> Tensor:
    """Return the circular low pass K(r) = w J1(w r) / (2 pi r), K(0) = w^2 / (4 pi), over its sum.

    Args:
        size: odd side in pixels.
        cutoff: w in radians per pixel, in (0, pi].
        pad_to: odd side of the result, zeros around the kernel; nothing is added where it is not larger than `size`.

    Returns:
        (max(size, pad_to),) * 2 float64.
    """
    if not 0 < cutoff <= pi:
        raise ValueError(f"cutoff is {cutoff} radians per pixel; give one in (0, pi]")
    x, y = _grid(size)
    r = (x**2 + y**2).sqrt()
    kernel = cutoff * _bessel_j1(cutoff * r) / (2 * pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * pi)
    return _padded(_normalized(kernel), max(size, pad_to))


def delta_kernel(size: int) -> Tensor:
    """Return the (size, size) float64 kernel that changes nothing: 1 in the centre."""
    return _padded(torch.ones(1, 1, dtype=torch.float64), size)


@dataclass(frozen=True, kw_only=True)
class KernelRange:
    """Distribution of the blur kernel of one stage (Real-ESRGAN, `realesrgan_dataset.py`).

    With `sinc_prob` a sinc kernel, its cutoff U(pi/5, pi), or U(pi/3, pi) for sides below 13; else one of the six shapes.
    Both sigmas are U(sigma), the angle U(-pi, pi), an exponent U(low, 1) or U(1, high), each with probability 1/2.
    Raises ValueError for even sides, sides above `pad_to`, and numbers that are no such distribution.
    """

    sizes: tuple[int, ...]  # odd, each equally likely
    pad_to: int  # side of the result, odd
    sinc_prob: float
    shape_probs: tuple[float, ...]  # of the six `Shape`s in their order, sum 1
    sigma: tuple[float, float]  # pixels
    betag: tuple[float, float]  # exponent of the generalized shapes
    betap: tuple[float, float]  # exponent of the plateau shapes

    def __post_init__(self) -> None:
        _check_sizes(self.sizes, self.pad_to)
        check_probabilities(self, "sinc_prob")
        probs = self.shape_probs
        if len(probs) != len(SHAPES) or min(probs) < 0 or not isclose(sum(probs), 1, abs_tol=1e-6):
            raise ValueError(f"shape_probs is {probs}; give six probabilities of sum 1: {', '.join(SHAPES)}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma is {self.sigma}; give two rising positive numbers of pixels")
        for name, (low, high), weights in (("betag", self.betag, probs[2:4]), ("betap", self.betap, probs[4:])):
            if any(weights) and not 0 < low <= 1 <= high:
                raise ValueError(f"{name} is {(low, high)}; give an exponent in (0, 1] and one of at least 1")

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return a (pad_to, pad_to) float32 kernel from a CPU generator."""
        size = self.sizes[_index(len(self.sizes), generator)]
        if uniform(generator, 0, 1) < self.sinc_prob:
            cutoff = SMALL_SINC_CUTOFF if size < SMALL_SINC else SINC_CUTOFF
            return sinc_kernel(size, uniform(generator, *cutoff), self.pad_to).float()
        shape = SHAPES[int(torch.multinomial(torch.tensor(self.shape_probs), 1, generator=generator))]
        sigma_x, sigma_y = uniform(generator, *self.sigma), uniform(generator, *self.sigma)
        theta = uniform(generator, -pi, pi)
        low, high = self.betap if shape.startswith("plateau") else self.betag
        beta = uniform(generator, low, 1) if uniform(generator, 0, 1) < 0.5 else uniform(generator, 1, high)
        return _padded(gaussian_kernel(size, shape, sigma_x, sigma_y, theta, beta), self.pad_to).float()


@dataclass(frozen=True, kw_only=True)
class FinalSinc:
    """Distribution of the last filter: a sinc kernel with probability `prob`, else one that changes nothing."""

    sizes: tuple[int, ...]  # odd, each equally likely
    pad_to: int  # side of the result, odd
    prob: float
    cutoff: tuple[float, float] = (pi / 3, pi)  # radians per pixel

    def __post_init__(self) -> None:
        _check_sizes(self.sizes, self.pad_to)
        check_probabilities(self, "prob")
        if not 0 < self.cutoff[0] <= self.cutoff[1] <= pi:
            raise ValueError(f"cutoff is {self.cutoff}; give two rising numbers of radians per pixel in (0, pi]")

    def draw(self, generator: torch.Generator) -> Tensor:
        """Return a (pad_to, pad_to) float32 kernel from a CPU generator."""
        if uniform(generator, 0, 1) >= self.prob:
            return delta_kernel(self.pad_to).float()
        size = self.sizes[_index(len(self.sizes), generator)]
        return sinc_kernel(size, uniform(generator, *self.cutoff), self.pad_to).float()


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Return column (1, size) and row (size, 1) coordinates from the centre, float64."""
    if size < 1 or size % 2 == 0:
        raise ValueError(f"size is {size}; a kernel has an odd side")
    along = torch.arange(size, dtype=torch.float64) - size // 2
    return along[None, :], along[:, None]


def _bessel_j1(x: Tensor) -> Tensor:
    """J1(x), the mean of cos(t - x sin t) over a period; torch's own is off by 1e-8.

    The midpoint rule converges faster than any power once there are more points than x, so it gives every digit.
    """
    points = int(x.max()) + 32
    t = (torch.arange(points, dtype=x.dtype) + 0.5) * pi / points
    return (t - x[..., None] * t.sin()).cos().mean(-1)


def _normalized(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


def _padded(kernel: Tensor, size: int) -> Tensor:
    margin = (size - len(kernel)) // 2
    return torch.nn.functional.pad(kernel, (margin,) * 4)


def _index(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _check_sizes(sizes: Sequence[int], pad_to: int) -> None:
    if not sizes or any(size % 2 == 0 or not 0 < size <= pad_to for size in sizes) or pad_to % 2 == 0:
        raise ValueError(f"sizes is {sizes}, pad_to {pad_to}; sides are odd and not larger than pad_to")
