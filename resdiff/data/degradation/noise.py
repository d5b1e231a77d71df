"""Gaussian and Poisson (shot) noise, in colour or the same in all channels.

Real-ESRGAN (2107.10833), BasicSR `random_add_gaussian_noise_pt` and `random_add_poisson_noise_pt`. Differs from the
reference: the fields of a sample come from its own generator, so they do not depend on the batch. (There the gray field
is one for the whole batch, and colour fields are drawn also where they are not used.)
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from resdiff.data.degradation.ragged import Ragged
from resdiff.devices import full_precision

LUMA = (0.2989, 0.587, 0.114)  # ITU-R 601 grey, to the digits of the reference


class Fields(Protocol):
    """The random fields of each sample of a batch, in the order in which they are asked for."""

    def normal(self, i: int, shape: tuple[int, int, int]) -> Tensor:
        """Return standard normal float32 of `shape` for sample `i`: (1, h, w) if gray, else (C, h, w)."""
        ...

    def poisson(self, i: int, rate: Tensor) -> Tensor:
        """Return Poisson counts, float32, of mean `rate` for sample `i`: (1, h, w) if gray, else (C, h, w)."""
        ...


class SeededFields:
    """Fields from one generator per sample, on the device that the noise is added on.

    The same seed gives other numbers on another kind of device.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def normal(self, i: int, shape: tuple[int, int, int]) -> Tensor:
        """Return standard normal float32 of `shape` for sample `i`."""
        generator = self.generators[i]
        return torch.randn(shape, generator=generator, device=generator.device)

    def poisson(self, i: int, rate: Tensor) -> Tensor:
        """Return Poisson counts, float32, of mean `rate` for sample `i`."""
        return torch.poisson(rate, generator=self.generators[i])


def add_gaussian(x: Ragged, sigma: Tensor, gray: Tensor, fields: Fields, active: Tensor | None = None) -> Ragged:
    """Add N(0, (sigma / 255)^2) to each value and clip to [0, 1].

    Args:
        x: in [0, 1].
        sigma: (B,) standard deviation in 8-bit levels.
        gray: (B,) bool: one field for all channels of the image. Best kept on the CPU, as `active`: both steer the loop.
        fields: where the noise comes from.
        active: (B,) bool: the other images pass unchanged, and nothing is drawn for them. None: all are.

    Returns:
        the noisy images, not rounded.
    """

    def field(i: int) -> Tensor:
        channels, h, w = x.image(i).shape
        return fields.normal(i, (1 if gray[i] else channels, h, w))

    noise = _on_canvas(x, active, field) * _per_image(sigma, x) / 255
    return _added(x, noise, active)


def add_poisson(x: Ragged, scale: Tensor, gray: Tensor, fields: Fields, active: Tensor | None = None) -> Ragged:
    """Add `scale` times the difference between Poisson counts of the image and the image, and clip to [0, 1].

    The counts are of the image rounded to 8 bits, v of them for white: v is the least power of two that is not below
    the number of different values in the image. (So the noise is relative to the picture's own number of tones.)

    Args:
        x: in [0, 1], three channels.
        scale: (B,) strength; 1 is plain shot noise.
        gray: (B,) bool: noise of the grey image, the same in all channels. Best kept on the CPU, as `active`.
        fields: where the counts come from.
        active: (B,) bool: the other images pass unchanged, and nothing is drawn for them. None: all are.

    Returns:
        the noisy images, not rounded.
    """
    with full_precision(x.pixels.device):
        grey = sum(weight * channel for weight, channel in zip(LUMA, x.pixels.split(1, dim=1), strict=True))
        source = torch.where(_per_image(gray, x), grey, x.pixels)
        levels = (source * 255).round().clamp(0, 255)
        clean, white = levels / 255, _counts_for_white(x.like(levels))
        rate = clean * white

    def field(i: int) -> Tensor:
        h, w = x.sizes[i]
        return fields.poisson(i, rate[i, : 1 if gray[i] else None, :h, :w].contiguous())

    noise = (_on_canvas(x, active, field) / white - clean) * _per_image(scale, x)
    return _added(x, noise, active)


def _counts_for_white(levels: Ragged) -> Tensor:
    """Return (B, 1, 1, 1): the least power of two that is not below the number of different 8-bit values of each image."""
    outside = 256
    values = levels.pixels.long()
    if not levels.is_even:
        values = values.where(levels.mask(), outside)
    seen = torch.zeros(len(values), outside + 1, device=values.device).scatter_(1, values.flatten(1), 1.0)
    unique = seen[:, :outside].sum(1)
    powers = 2.0 ** torch.arange(9, device=values.device)
    return powers[torch.searchsorted(powers, unique)][:, None, None, None]


def _on_canvas(x: Ragged, active: Tensor | None, field: Callable[[int], Tensor]) -> Tensor:
    """Return (B, C, H, W) with the field of each active image at its place."""
    noise = torch.zeros_like(x.pixels)
    for i, (h, w) in enumerate(x.sizes):
        if active is None or active[i]:
            noise[i, :, :h, :w] = field(i)
    return noise


def _added(x: Ragged, noise: Tensor, active: Tensor | None) -> Ragged:
    """Return x + noise, clipped to [0, 1], where active."""
    noisy = (x.pixels + noise).clamp(0, 1)
    return x.like(noisy if active is None else torch.where(_per_image(active, x), noisy, x.pixels))


def _per_image(values: Tensor, x: Ragged) -> Tensor:
    """Return (B,) as (B, 1, 1, 1) on the images' device."""
    if values.shape != (len(x.sizes),):
        raise ValueError(f"{tuple(values.shape)} values for {len(x.sizes)} images; give one per image")
    return values.to(x.pixels.device)[:, None, None, None]
