"""The two-stage degradation of Real-ESRGAN (2107.10833) and what ResShift, StableSR, SeeSR and DiffBIR made of it.

Blur, resize, noise and JPEG, all of it twice, and a sinc filter at the end that rings as sharpening does. References:
Real-ESRGAN realesrgan/models/realesrgan_model.py `feed_data`; ResShift trainer.py `prepare_data`; StableSR
ldm/models/diffusion/ddpm.py `get_input`; SeeSR utils_data/make_paired_data.py and dataloaders/realesrgan.py; DiffBIR
diffbir/dataset/batch_transform.py. They are one algorithm with different numbers, so here they are one dataclass; the
numbers are in `realesrgan_presets`.

Differs from the references: every sample draws its own factors, modes, kinds of noise and final order, where they draw
these once per batch; noise fields do not depend on the batch; a JPEG quality of 100 gives no NaN. Cropping (and the
rotation or flip of HR) belongs to the data set: what is passed in is degraded and returned whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from resdiff.data.degradation.base import (
    Degradation,
    chance,
    check_probabilities,
    choose,
    draw_seed,
    on_canvases,
    round8,
    uniform,
)
from resdiff.data.degradation.filters import filter2d, usm_sharpen
from resdiff.data.degradation.jpeg import jpeg
from resdiff.data.degradation.kernels import FinalSinc, KernelRange, delta_kernel
from resdiff.data.degradation.noise import Fields, SeededFields, add_gaussian, add_poisson
from resdiff.data.degradation.ragged import Ragged
from resdiff.data.degradation.resample import Mode, resize, scaled

MODES: tuple[Mode, ...] = ("area", "bilinear", "bicubic")
FieldsOf = Callable[[Sequence[int], torch.device], Fields]  # seed of each sample, device -> noise fields


@dataclass(frozen=True, eq=False)
class StageDraw:
    """Everything random about one sample in one stage but the noise field, which `seed` makes."""

    kernel: Tensor  # (k, k) float32, of the blur
    factor: float  # of the resize, output over input
    mode: Mode
    gaussian: bool  # Gaussian noise, otherwise Poisson
    strength: float  # standard deviation in 8-bit levels, or the scale of Poisson noise
    gray: bool  # the same noise in all channels
    quality: float  # of the JPEG, a real number
    seed: int


@dataclass(frozen=True, eq=False)
class Draw:
    """Everything random about one sample."""

    first: StageDraw
    second: StageDraw  # its quality is that of the last JPEG, also where the stage is left out
    is_second_order: bool  # whether the second stage's blur, resize and noise happen
    sinc: Tensor  # (k, k) float32, of the last filter
    mode: Mode  # of the resize to the final size
    jpeg_last: bool  # resize, sinc, JPEG; otherwise JPEG, resize, sinc
    clean: bool  # LR is the target itself


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Distribution of one stage: blur, resize, noise, JPEG. Ranges are drawn from uniformly.

    Raises ValueError for an empty range, a probability outside [0, 1] or a resize range that does not hold 1.
    """

    kernels: KernelRange
    blur_prob: float = 1.0
    resize_probs: tuple[float, float, float]  # up, down, keep the size
    resize: tuple[float, float]  # factor of the side: U(1, high) up, U(low, 1) down
    gaussian_prob: float = 0.5  # Gaussian noise, otherwise Poisson
    sigma: tuple[float, float]  # standard deviation of Gaussian noise in 8-bit levels
    poisson_scale: tuple[float, float]  # strength of Poisson noise, 1 is plain shot noise
    gray_prob: float = 0.4
    jpeg: tuple[float, float]  # quality, at most 100

    def __post_init__(self) -> None:
        check_probabilities(self, "blur_prob", "gaussian_prob", "gray_prob")
        for name, lowest, highest in (
            ("resize", 0.0, float("inf")),
            ("sigma", 0.0, float("inf")),
            ("poisson_scale", 0.0, float("inf")),
            ("jpeg", 0.0, 100.0),
        ):
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise ValueError(f"{name} is {(low, high)}, give two rising numbers from {lowest:g} to {highest:g}")
        if not 0 < self.resize[0] <= 1 <= self.resize[1]:
            raise ValueError(f"resize is {self.resize}, give a factor in (0, 1] and one of at least 1")
        if self.jpeg[0] <= 0:
            raise ValueError(f"jpeg is {self.jpeg}, qualities are above 0")
        if min(self.resize_probs) < 0 or sum(self.resize_probs) <= 0:
            raise ValueError(f"resize_probs is {self.resize_probs}, give weights of up, down and keep, not all 0")

    def draw(self, generator: torch.Generator) -> StageDraw:
        """Draw one sample from its CPU generator."""
        kernel = self.kernels.draw(generator)
        if not chance(generator, self.blur_prob):
            kernel = delta_kernel(self.kernels.pad_to).float()
        low, high = choose(generator, ((1.0, self.resize[1]), (self.resize[0], 1.0), (1.0, 1.0)), self.resize_probs)
        gaussian = chance(generator, self.gaussian_prob)
        return StageDraw(
            kernel=kernel,
            factor=uniform(generator, low, high),
            mode=choose(generator, MODES),
            gaussian=gaussian,
            strength=uniform(generator, *(self.sigma if gaussian else self.poisson_scale)),
            gray=chance(generator, self.gray_prob),
            quality=uniform(generator, *self.jpeg),
            seed=draw_seed(generator),
        )


@dataclass(frozen=True, kw_only=True)
class RealESRGAN(Degradation[Draw]):
    """Two stages, a last resize with a sinc filter before or after the second JPEG, and how LR is handed over.

    Raises ValueError when settings contradict each other.
    """

    first: Stage
    second: Stage  # its resize is relative to the final size, not to what the first stage left
    second_prob: float = 1.0  # otherwise only the JPEG of the second stage is kept
    sinc: FinalSinc
    factor: float = 4.0  # HR side over the side that the degradation ends at; a whole number unless resize_back
    sharpen: bool  # HR is sharpened first, and is the target so
    resize_back: bool = False  # LR is enlarged to the size of HR (bicubic)
    clip_before_back: bool = False  # to [0, 1], before it is enlarged; in any case at the end
    round8: bool = True  # LR is rounded to 8 bits at the end
    clean_prob: float = 0.0  # LR is the target itself; needs resize_back

    def __post_init__(self) -> None:
        check_probabilities(self, "second_prob", "clean_prob")
        if self.factor < 1 or (not self.resize_back and self.factor != int(self.factor)):
            raise ValueError(f"factor is {self.factor}, give a whole number of at least 1 (any, with resize_back)")
        if not self.resize_back and (self.clean_prob or self.clip_before_back):
            raise ValueError("clean_prob and clip_before_back are for an LR of HR's size: set resize_back")

    @property
    def scale(self) -> int:  # type: ignore[override]  # follows from two fields
        """HR side over LR side of the result."""
        return 1 if self.resize_back else int(self.factor)

    def draw(self, height: int, width: int, generator: torch.Generator) -> Draw:
        """Draw everything random about one image from its CPU generator; the size does not matter."""
        return Draw(
            first=self.first.draw(generator),
            second=self.second.draw(generator),
            is_second_order=chance(generator, self.second_prob),
            sinc=self.sinc.draw(generator),
            mode=choose(generator, MODES),
            jpeg_last=chance(generator, 0.5),
            clean=chance(generator, self.clean_prob),
        )

    @torch.no_grad()
    def pair(self, hr: Tensor, draws: Sequence[Draw], fields: FieldsOf = SeededFields) -> tuple[Tensor, Tensor]:
        """Return (target, lr), float32 in [0, 1].

        Args:
            hr: (B, 3, H, W) RGB in [0, 1].
            draws: one per image.
            fields: makes the noise fields of some samples in one stage from the seeds of their draws.

        Returns:
            target (B, 3, H, W), which is hr or sharpened hr, and lr (B, 3, H / scale, W / scale).

        Raises:
            ValueError: a shape or a number of draws that does not fit, or sides that are no multiples of `scale`.
        """
        if hr.ndim != 4 or hr.shape[1] != 3 or not hr.is_floating_point() or not 0 < len(draws) == len(hr):
            raise ValueError(
                f"hr is {hr.dtype} {tuple(hr.shape)}, give floats ({len(draws)}, 3, H, W), one for each draw"
            )
        height, width = hr.shape[-2:]
        if height % self.scale or width % self.scale or min(height, width) < self.factor:
            raise ValueError(f"hr is {height}x{width}, crop it to multiples of {self.scale}, at least {self.factor}")
        target = usm_sharpen(hr) if self.sharpen else hr.float()
        return target, on_canvases(target, draws, lambda x, some: self.degrade(x, some, fields))

    @torch.no_grad()
    def degrade(self, target: Tensor, draws: Sequence[Draw], fields: FieldsOf = SeededFields) -> Tensor:
        """Return lr of `pair` from its target, all images on one canvas; arguments are not checked again."""
        height, width = target.shape[-2:]
        small = int(height / self.factor), int(width / self.factor)
        first, second = [d.first for d in draws], [d.second for d in draws]

        # First stage
        x = _filtered(Ragged.of(target), [d.kernel for d in first])
        factors = [d.factor for d in first]
        x = resize(x, [scaled((height, width), f) for f in factors], [d.mode for d in first], factors)
        x = _compressed(_noisy(x, first, fields), first)

        # Second stage: its JPEG comes before or after the last resize
        def blur_resize_noise(x: Ragged, some: Sequence[StageDraw]) -> Ragged:
            x = _filtered(x, [d.kernel for d in some])
            x = resize(x, [scaled(small, d.factor) for d in some], [d.mode for d in some])
            return _noisy(x, some, fields)

        x = _where([d.is_second_order for d in draws], blur_resize_noise, x, second)
        x = _where([not d.jpeg_last for d in draws], _compressed, x, second)
        x = resize(x, [small] * len(draws), [d.mode for d in draws])
        x = _filtered(x, [d.sinc for d in draws])
        x = _where([d.jpeg_last for d in draws], _compressed, x, second)

        # Hand over
        if self.clip_before_back:
            x = x.map(lambda pixels: pixels.clamp(0, 1))
        if self.resize_back:
            x = resize(x, [(height, width)] * len(draws), ["bicubic"] * len(draws))
        lr = x.tensor().clamp(0, 1)
        if self.round8:
            lr = round8(lr)
        if self.clean_prob:
            clean = torch.tensor([d.clean for d in draws], device=lr.device)
            lr = torch.where(clean[:, None, None, None], target, lr)
        return lr


def _filtered(x: Ragged, kernels: Sequence[Tensor]) -> Ragged:
    return filter2d(x, torch.stack(list(kernels)).to(x.pixels.device))


def _noisy(x: Ragged, draws: Sequence[StageDraw], fields_of: FieldsOf) -> Ragged:
    """Add Gaussian noise to some and Poisson noise to the others; clips to [0, 1]."""
    fields = fields_of([d.seed for d in draws], x.pixels.device)
    strength, gray = torch.tensor([d.strength for d in draws]), torch.tensor([d.gray for d in draws])
    gaussian = torch.tensor([d.gaussian for d in draws])
    if gaussian.any():
        x = add_gaussian(x, strength, gray, fields, gaussian)
    if not gaussian.all():
        x = add_poisson(x, strength, gray, fields, ~gaussian)
    return x


def _compressed(x: Ragged, draws: Sequence[StageDraw]) -> Ragged:
    """Clip to [0, 1], which JPEG needs, and compress."""
    return jpeg(x.map(lambda pixels: pixels.clamp(0, 1)), torch.tensor([d.quality for d in draws]))


def _where(
    chosen: Sequence[bool],
    f: Callable[[Ragged, Sequence[StageDraw]], Ragged],
    x: Ragged,
    draws: Sequence[StageDraw],
) -> Ragged:
    """Apply f to the chosen images and their draws; the others pass unchanged."""
    some, others = ([i for i, c in enumerate(chosen) if c is wanted] for wanted in (True, False))
    if not some:
        return x
    if not others:
        return f(x, draws)
    changed, kept = f(_select(x, some), [draws[i] for i in some]), _select(x, others)
    height, width = (max(sides) for sides in zip(*changed.sizes, *kept.sizes, strict=True))
    pixels = x.pixels.new_zeros(len(chosen), x.pixels.shape[1], height, width)
    sizes = list(x.sizes)
    for indices, part in ((some, changed), (others, kept)):
        part_height, part_width = part.pixels.shape[-2:]
        pixels[indices, :, :part_height, :part_width] = part.pixels
        for i, size in zip(indices, part.sizes, strict=True):
            sizes[i] = size
    return Ragged(pixels, tuple(sizes))


def _select(x: Ragged, indices: Sequence[int]) -> Ragged:
    """Return some images of a batch on a canvas of their own."""
    sizes = tuple(x.sizes[i] for i in indices)
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    return Ragged(x.pixels[list(indices), :, :height, :width], sizes)
