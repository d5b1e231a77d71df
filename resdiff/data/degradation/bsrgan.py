"""BSRGAN degradation ("Designing a Practical Degradation Model for Deep Blind Image Super-Resolution", 2103.14006).

Blur, resizing, noise of four kinds and JPEG in two rounds of steps, sometimes in random order, then the reduction to
LR's size and a last JPEG. Follows `degradation_bsrgan_plus` of cszn/BSRGAN utils/utils_blindsr.py (8a3f2e8), which
keeps the paper's idea of shuffled steps as `shuffle_prob`: 0.1 there, 0.5 in KAIR, 1 shuffles always.

Differences: everything is drawn from the sample's own generator; JPEG is the formula of `jpeg.py` instead of OpenCV's
encoder, rounded to 8 bits like its result; KAIR's camera step is left out. As the order of steps differs from sample
to sample, a batch runs sample by sample: slower on a GPU than the other families, whose batches run as one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from resdiff.color import luma
from resdiff.data.degradation.base import Degradation, chance, check_probabilities, choose, draw_seed, round8, uniform
from resdiff.data.degradation.filters import filter2d, usm_sharpen
from resdiff.data.degradation.jpeg import jpeg
from resdiff.data.degradation.kernels import gaussian_kernel
from resdiff.data.degradation.noise import Fields, SeededFields
from resdiff.data.degradation.ragged import Ragged
from resdiff.data.degradation.resample import Mode, resize
from resdiff.devices import full_precision

MODES: tuple[Mode, ...] = ("bilinear", "bicubic", "coverage")  # OpenCV's INTER_LINEAR, INTER_CUBIC, INTER_AREA
NARROWEST = 1e-2  # blur sigma in pixels; anything narrower is a delta too, and 0 would divide by zero


class Step(Protocol):
    """One step with its numbers drawn: a single image (1, 3, h, w) in [0, 1] in a `Ragged` -> the same."""

    def __call__(self, x: Ragged, fields: Fields) -> Ragged: ...


@dataclass(frozen=True, eq=False)
class Blur:
    """Correlation with a kernel (k, k), k odd, mirrored borders."""

    kernel: Tensor

    def __call__(self, x: Ragged, fields: Fields) -> Ragged:
        return filter2d(x, self.kernel.to(x.pixels.device))


@dataclass(frozen=True)
class Resize:
    """Both sides times `factor`, cut to whole pixels, then clipped."""

    factor: float
    mode: Mode

    def __call__(self, x: Ragged, fields: Fields) -> Ragged:
        height, width = x.sizes[0]
        size = max(1, int(self.factor * height)), max(1, int(self.factor * width))
        return resize(x, [size], [self.mode]).map(lambda p: p.clamp(0, 1))


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal noise mixed from independent fields by `mix` (3, 1 or 3), in [0, 1]: grey, colour or correlated."""

    mix: Tensor
    speckle: bool  # multiplied by the image

    def __call__(self, x: Ragged, fields: Fields) -> Ragged:
        image = x.pixels[0]
        field = fields.normal(0, (self.mix.shape[1], *image.shape[-2:]))
        noise = torch.einsum("cf,fhw->chw", self.mix.to(image), field)
        return Ragged.of((image + (image * noise if self.speckle else noise)).clamp(0, 1)[None])


@dataclass(frozen=True)
class Poisson:
    """Shot noise of the image rounded to 8 bits, whose brightest pixel counts `peak` photons."""

    peak: float
    gray: bool  # the noise of the grey image, added to each channel

    def __call__(self, x: Ragged, fields: Fields) -> Ragged:
        image = round8(x.pixels[0])
        counted = round8(luma(image)) if self.gray else image
        noise = fields.poisson(0, counted * self.peak) / self.peak - counted
        return Ragged.of((image + noise).clamp(0, 1)[None])


@dataclass(frozen=True)
class Jpeg:
    """Compression of the image rounded to 8 bits, back to 8 bits."""

    quality: int

    def __call__(self, x: Ragged, fields: Fields) -> Ragged:
        return jpeg(x.map(round8), torch.tensor([float(self.quality)])).map(round8)


@dataclass(frozen=True)
class BSRGANDraw:
    """The steps of one sample in their order; the noise fields are drawn later from `seed`."""

    steps: tuple[Step, ...]
    last_mode: Mode  # of the reduction to LR's size
    last_jpeg: Jpeg
    seed: int


@dataclass(frozen=True, kw_only=True)
class BSRGAN(Degradation[BSRGANDraw]):
    """Two rounds of blur, resizing, Gaussian, Poisson and speckle noise, a JPEG between them; uniform draws."""

    scale: int = 4  # HR side over LR side
    shuffle_prob: float = 0.1  # all eleven steps in random order
    sharpen: bool = True  # USM on HR, target included
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21, 23, 25)
    aniso_prob: float = 0.5
    resize_probs: tuple[float, float, float] = (0.2, 0.7, 0.1)  # enlarge up to 2, reduce down to 0.5 / scale, keep
    noise: tuple[int, int] = (2, 25)  # standard deviation in 8-bit levels, whole numbers, both ends included
    noise_probs: tuple[float, float, float] = (0.4, 0.4, 0.2)  # independent channels, all the same, correlated
    poisson_prob: float = 0.1
    speckle_prob: float = 0.1
    jpeg: tuple[int, int] = (30, 95)  # quality, whole numbers, both ends included; 100 counts as 99

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale is {self.scale}, give a whole factor of at least 1")
        if any(size % 2 == 0 or size < 1 for size in self.kernel_sizes) or not self.kernel_sizes:
            raise ValueError(f"kernel_sizes is {self.kernel_sizes}, give odd numbers such as (7, 9, 11)")
        check_probabilities(self, "shuffle_prob", "aniso_prob", "poisson_prob", "speckle_prob")
        for name in ("resize_probs", "noise_probs"):
            if min(weights := getattr(self, name)) < 0 or sum(weights) <= 0:
                raise ValueError(f"{name} is {weights}, give three weights of at least 0, not all 0")
        for name in ("noise", "jpeg"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(
                    f"{name} is {(low, high)}, give a lowest value of at least 1 and a highest not below it"
                )

    def draw(self, height: int, width: int, generator: torch.Generator) -> BSRGANDraw:
        """Draw the steps of one sample, their numbers and their order from its own generator."""
        steps = [*self._draw_round(generator), self._draw_jpeg(generator), *self._draw_round(generator)]
        if chance(generator, self.shuffle_prob):
            steps = [steps[i] for i in torch.randperm(len(steps), generator=generator)]
        return BSRGANDraw(
            steps=tuple(steps),
            last_mode=choose(generator, MODES),
            last_jpeg=self._draw_jpeg(generator),
            seed=draw_seed(generator),
        )

    @torch.no_grad()
    def pair(self, hr: Tensor, draws: Sequence[BSRGANDraw]) -> tuple[Tensor, Tensor]:
        """Return (target, lr): hr, sharpened if `sharpen`, and lr (B, 3, H // scale, W // scale) in 8-bit steps."""
        with full_precision(hr.device):
            target = usm_sharpen(hr) if self.sharpen else hr
            lr = [self._degrade(image[None].float(), draw) for image, draw in zip(target, draws, strict=True)]
        return target, torch.cat(lr)

    def _degrade(self, hr: Tensor, draw: BSRGANDraw) -> Tensor:
        """(1, 3, H, W) -> (1, 3, H // scale, W // scale)."""
        fields = SeededFields([draw.seed], hr.device)
        x = Ragged.of(hr)
        for step in draw.steps:
            x = step(x, fields)
        x = resize(x, [(hr.shape[-2] // self.scale, hr.shape[-1] // self.scale)], [draw.last_mode])
        return draw.last_jpeg(x, fields).tensor()

    def _draw_round(self, generator: torch.Generator) -> list[Step]:
        """Blur, resize, Gaussian noise, perhaps Poisson, perhaps speckle."""
        steps: list[Step] = [self._draw_blur(generator), self._draw_resize(generator)]
        steps.append(self._draw_normal(generator, speckle=False))
        if chance(generator, self.poisson_prob):
            steps.append(Poisson(10 ** uniform(generator, 2, 4), gray=chance(generator, 0.5)))
        if chance(generator, self.speckle_prob):
            steps.append(self._draw_normal(generator, speckle=True))
        return steps

    def _draw_blur(self, generator: torch.Generator) -> Blur:
        size = choose(generator, self.kernel_sizes)
        if chance(generator, self.aniso_prob):
            # the reference draws the variances, eigenvalues of the covariance
            sigma_x, sigma_y = (max(math.sqrt(uniform(generator, 0, 4 + self.scale)), NARROWEST) for _ in range(2))
            kernel = gaussian_kernel(size, "aniso", sigma_x, sigma_y, uniform(generator, 0, math.pi))
        else:
            kernel = gaussian_kernel(size, "iso", max(uniform(generator, 0, 2 + 0.2 * self.scale), NARROWEST))
        return Blur(kernel.float())

    def _draw_resize(self, generator: torch.Generator) -> Resize:
        spans = ((1.0, 2.0), (0.5 / self.scale, 1.0), (1.0, 1.0))
        factor = uniform(generator, *choose(generator, spans, self.resize_probs))
        return Resize(factor, choose(generator, MODES))

    def _draw_normal(self, generator: torch.Generator, speckle: bool) -> Normal:
        level = _whole(generator, *self.noise) / 255
        kind = choose(generator, ("independent", "same", "correlated"), self.noise_probs)
        if kind == "independent":
            return Normal(level * torch.eye(3), speckle)
        if kind == "same":
            return Normal(level * torch.ones(3, 1), speckle)
        # as in the reference, correlated noise always has the highest level
        return Normal(self.noise[1] / 255 * _correlation_root(generator), speckle)

    def _draw_jpeg(self, generator: torch.Generator) -> Jpeg:
        return Jpeg(min(_whole(generator, *self.jpeg), 99))


def _correlation_root(generator: torch.Generator) -> Tensor:
    """Return the square root (3, 3) of |U^T D U|, U an orthonormal basis and D diagonal, both random."""
    variances = torch.rand(3, generator=generator, dtype=torch.float64)
    basis = torch.linalg.svd(torch.rand(3, 3, generator=generator, dtype=torch.float64)).U
    # the moduli of a positive semidefinite 3 x 3 matrix are one again: its determinant does not fall
    values, vectors = torch.linalg.eigh((basis.T @ variances.diag() @ basis).abs())
    return (vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T).float()


def _whole(generator: torch.Generator, low: int, high: int) -> int:
    """Draw a whole number, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


BSRGAN_PLUS = BSRGAN()
