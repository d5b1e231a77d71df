"""Face degradation: y = [(x * k) reduced by s + noise, JPEG] enlarged back, as GFPGAN (2101.04061), CodeFormer
(2206.11253), stage 1 of DiffBIR v2 and the face restoration of ResShift train on.

One heavy blur, one strong bilinear reduction by a *factor drawn continuously*, Gaussian noise, JPEG, and bilinear
enlargement to the size of HR, so `scale` is 1. References: GFPGAN gfpgan/data/ffhq_degradation_dataset.py, DiffBIR
diffbir/dataset/codeformer.py, ResShift configs/faceir_gfpgan512_lpips.yaml.

Differences: JPEG is the formula of `jpeg.py` between 8-bit images instead of OpenCV's encoder, which smooths the
chroma it enlarges (on a photo at quality 60 they lie 2.4 grey levels apart, each 3.5 from the original); GFPGAN's
colour jitter is left out (its configuration names that choice for training without colourisation).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resdiff.color import luma
from resdiff.data.degradation.base import (
    Degradation,
    chance,
    check_probabilities,
    draw_seed,
    on_canvases,
    round8,
    uniform,
)
from resdiff.data.degradation.filters import filter2d
from resdiff.data.degradation.jpeg import jpeg
from resdiff.data.degradation.kernels import gaussian_kernel
from resdiff.data.degradation.noise import SeededFields, add_gaussian
from resdiff.data.degradation.ragged import Ragged
from resdiff.data.degradation.resample import Mode, resize
from resdiff.devices import full_precision


@dataclass(frozen=True, eq=False)
class FaceDraw:
    """Everything random about one face but the noise field, which `seed` makes."""

    kernel: Tensor  # (k, k) float32
    reduction: float  # HR side over the small image's side
    sigma: float  # of the noise, in 8-bit levels
    quality: int  # of the JPEG, below 100
    gray: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class Face(Degradation[FaceDraw]):
    """Blur, reduce, noise, JPEG, enlarge; ranges are drawn uniformly."""

    scale: int = 1  # LR is brought back to the size of HR
    kernel_size: int = 41  # odd
    aniso_prob: float = 0.5  # an anisotropic Gaussian; otherwise isotropic
    sigma: tuple[float, float]  # of the blur, in pixels of HR
    reduction: tuple[float, float]  # HR side over the small image's side; below 1 enlarges
    noise: tuple[float, float]  # standard deviation in 8-bit levels, independent in each channel
    jpeg: tuple[float, float]  # quality, cut to a whole number; 100 counts as 99, where the tables would be zero
    gray_prob: float = 0.0  # the result is made grey
    gray_target: bool = False  # and the target with it
    round8: bool = True  # whether LR is rounded to 8 bits

    def __post_init__(self) -> None:
        if self.scale != 1:
            raise ValueError(f"scale is {self.scale}, faces come back at the size of HR: use 1")
        if self.kernel_size % 2 == 0 or self.kernel_size < 1:
            raise ValueError(f"kernel_size is {self.kernel_size}, give an odd number such as 41")
        check_probabilities(self, "aniso_prob", "gray_prob")
        if not 0 <= self.noise[0] <= self.noise[1]:
            raise ValueError(f"noise is {self.noise}, give levels of at least 0, the lower first")
        for name in ("sigma", "reduction", "jpeg"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} is {(low, high)}, give a lowest value above 0 and a highest not below it")

    def draw(self, height: int, width: int, generator: torch.Generator) -> FaceDraw:
        """Draw blur, factor, noise level, quality and greyness of one image from its own generator."""
        sigma_x = uniform(generator, *self.sigma)
        if chance(generator, self.aniso_prob):
            sigma_y, theta = uniform(generator, *self.sigma), uniform(generator, -math.pi, math.pi)
            kernel = gaussian_kernel(self.kernel_size, "aniso", sigma_x, sigma_y, theta)
        else:
            kernel = gaussian_kernel(self.kernel_size, "iso", sigma_x)
        return FaceDraw(
            kernel=kernel.float(),
            reduction=uniform(generator, *self.reduction),
            sigma=uniform(generator, *self.noise),
            quality=min(int(uniform(generator, *self.jpeg)), 99),
            gray=chance(generator, self.gray_prob),
            seed=draw_seed(generator),
        )

    @torch.no_grad()
    def pair(self, hr: Tensor, draws: Sequence[FaceDraw]) -> tuple[Tensor, Tensor]:
        """Return (target, lr), both (B, 3, H, W) in [0, 1]; target is hr, or grey where `gray_target` says so."""
        lr = on_canvases(hr, draws, self._degrade)
        gray = torch.tensor([d.gray for d in draws], device=hr.device)[:, None, None, None]
        lr = torch.where(gray, luma(lr), lr)
        target = torch.where(gray, luma(hr), hr) if self.gray_target else hr
        return target, round8(lr) if self.round8 else lr

    def _degrade(self, hr: Tensor, draws: Sequence[FaceDraw]) -> Tensor:
        height, width = hr.shape[-2:]
        small = [(max(1, int(height // d.reduction)), max(1, int(width // d.reduction))) for d in draws]
        bilinear: list[Mode] = ["bilinear"] * len(draws)
        colour = torch.zeros(len(draws), dtype=torch.bool)
        fields = SeededFields([d.seed for d in draws], hr.device)
        with full_precision(hr.device):
            x = filter2d(Ragged.of(hr), torch.stack([d.kernel for d in draws]).to(hr.device))
            x = resize(x, small, bilinear)
            x = add_gaussian(x, torch.tensor([d.sigma for d in draws]), colour, fields)
            x = jpeg(x.map(round8), torch.tensor([float(d.quality) for d in draws])).map(round8)
            return resize(x, [(height, width)] * len(draws), bilinear).tensor().clamp(0, 1)


# GFPGAN options/train_gfpgan_v1.yml without colour jitter, hence with a grey target for a grey input
GFPGAN = Face(
    sigma=(0.1, 10.0), reduction=(0.8, 8.0), noise=(0.0, 20.0), jpeg=(60.0, 100.0), gray_prob=0.01, gray_target=True
)

# the numbers of CodeFormer's last stage, as stage 1 of DiffBIR v1 and v2 uses them
CODEFORMER = Face(sigma=(0.1, 12.0), reduction=(1.0, 12.0), noise=(0.0, 15.0), jpeg=(30.0, 100.0), round8=False)

# ResShift configs/faceir_gfpgan512_lpips.yaml
RESSHIFT_FACE = Face(
    sigma=(0.1, 15.0), reduction=(0.8, 32.0), noise=(0.0, 20.0), jpeg=(30.0, 100.0), gray_prob=0.01, gray_target=True
)
