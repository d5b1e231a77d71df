"""A light degradation for ordinary photographs: mostly a clean bicubic reduction, sometimes a little more.

A model trained on clean reductions alone sharpens the JPEG blocks and the grain of an ordinary photo; one trained on
Real-ESRGAN's degradations smooths fine detail away. This mixture is the project's own, for its bundled model: it costs
0.1 to 0.3 dB on the clean benchmarks. With the probabilities below 1 its parts also come alone, as in photos that are only
noisy or only compressed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from resdiff.data.degradation.base import Degradation, chance, check_probabilities, draw_seed, round8, uniform
from resdiff.data.degradation.filters import filter2d
from resdiff.data.degradation.jpeg import jpeg
from resdiff.data.degradation.kernels import delta_kernel, gaussian_kernel
from resdiff.data.degradation.noise import SeededFields, add_gaussian
from resdiff.data.degradation.ragged import Ragged
from resdiff.data.degradation.resample import resize
from resdiff.devices import full_precision
from resdiff.resize import bicubic

KERNEL_SIZE = 7  # holds a Gaussian of sigma 1


@dataclass(frozen=True, eq=False)
class Extra:
    """What is done beyond a clean reduction; the noise field is made later from `seed`."""

    kernel: Tensor  # (7, 7) float32
    area: bool  # reduced by area averages instead of the bicubic kernel
    sigma: float  # of the noise, in 8-bit levels
    gray: bool  # the same noise in the three channels
    quality: float | None  # None: no JPEG
    seed: int


@dataclass(frozen=True, eq=False)
class LightDraw:
    """Everything random about one sample."""

    extra: Extra | None  # None: a clean reduction


@dataclass(frozen=True, kw_only=True)
class Light(Degradation[LightDraw]):
    """Antialiased bicubic (Pillow's kernel) to 8 bits; with 1 - clean_prob blur, another kernel, noise and JPEG too."""

    scale: int = 4  # HR side over LR side
    clean_prob: float = 0.6
    blur_prob: float = 1.0  # of what is not clean
    blur: tuple[float, float] = (0.1, 1.0)  # sigma in pixels of HR, drawn for two axes at a random angle
    area_prob: float = 0.3  # reduction by area averages: photographs are not all made small by the same kernel
    noise_prob: float = 1.0
    noise: tuple[float, float] = (0.0, 4.0)  # standard deviation in 8-bit levels
    gray_prob: float = 0.4
    jpeg_prob: float = 1.0
    jpeg: tuple[float, float] = (70.0, 95.0)  # quality, below 100

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise ValueError(f"scale is {self.scale}, give a whole factor of at least 1")
        check_probabilities(self, "clean_prob", "blur_prob", "area_prob", "noise_prob", "gray_prob", "jpeg_prob")
        if not 0 <= self.noise[0] <= self.noise[1]:
            raise ValueError(f"noise is {self.noise}, give levels of at least 0, the lower first")
        if not 0 < self.blur[0] <= self.blur[1]:
            raise ValueError(f"blur is {self.blur}, give a lowest sigma above 0 and a highest not below it")
        if not 0 < self.jpeg[0] <= self.jpeg[1] < 100:
            raise ValueError(f"jpeg is {self.jpeg}, give qualities above 0 and below 100, the lower first")

    def draw(self, height: int, width: int, generator: torch.Generator) -> LightDraw:
        """Draw one sample from its own generator; a clean one draws nothing further."""
        if chance(generator, self.clean_prob):
            return LightDraw(extra=None)
        sigma_x, sigma_y = uniform(generator, *self.blur), uniform(generator, *self.blur)
        kernel = gaussian_kernel(KERNEL_SIZE, "aniso", sigma_x, sigma_y, uniform(generator, -math.pi, math.pi))
        extra = Extra(
            kernel=kernel.float(),
            area=chance(generator, self.area_prob),
            sigma=uniform(generator, *self.noise),
            gray=chance(generator, self.gray_prob),
            quality=uniform(generator, *self.jpeg),
            seed=draw_seed(generator),
        )
        if not chance(generator, self.blur_prob):
            extra = replace(extra, kernel=delta_kernel(KERNEL_SIZE).float())
        if not chance(generator, self.noise_prob):
            extra = replace(extra, sigma=0.0)
        if not chance(generator, self.jpeg_prob):
            extra = replace(extra, quality=None)
        return LightDraw(extra)

    @torch.no_grad()
    def pair(self, hr: Tensor, draws: Sequence[LightDraw]) -> tuple[Tensor, Tensor]:
        """Return (hr, lr), lr (B, 3, H // scale, W // scale) in [0, 1], rounded to 8 bits."""
        size = hr.shape[-2] // self.scale, hr.shape[-1] // self.scale
        with full_precision(hr.device):
            lr = bicubic(hr.float(), size, "pil").clamp(0, 1)
            extras = {i: d.extra for i, d in enumerate(draws) if d.extra is not None}
            if extras:
                lr[[*extras]] = _degrade(hr[[*extras]].float(), size, [*extras.values()])
        return hr, round8(lr)


def _degrade(hr: Tensor, size: tuple[int, int], extras: Sequence[Extra]) -> Tensor:
    """Blur, reduce to `size`, noise, JPEG."""
    area = torch.tensor([e.area for e in extras], device=hr.device)[:, None, None, None]
    fields = SeededFields([e.seed for e in extras], hr.device)
    blurred = filter2d(Ragged.of(hr), torch.stack([e.kernel for e in extras]).to(hr.device))
    averaged = resize(blurred, [size] * len(extras), ["coverage"] * len(extras)).tensor()
    x = Ragged.of(torch.where(area, averaged, bicubic(blurred.tensor(), size, "pil")))
    x = add_gaussian(x, torch.tensor([e.sigma for e in extras]), torch.tensor([e.gray for e in extras]), fields)
    lr = x.tensor().clone()
    coded = [i for i, e in enumerate(extras) if e.quality is not None]
    if coded:
        qualities = torch.tensor([e.quality for e in extras if e.quality is not None])
        lr[coded] = jpeg(Ragged.of(lr[coded]), qualities).tensor()
    return lr.clamp(0, 1)


LIGHT = Light()
