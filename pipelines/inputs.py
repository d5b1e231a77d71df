"""What a call is given, brought into the order in which it is worked on."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from resdiff.images import Photo, read_photos
from resdiff.noise import Noise, SeededNoise, SequentialNoise, StackedNoise
from resdiff.resize import bicubic
from resdiff.sizes import LARGEST_SCALE
from resdiff.tiling import Box

EXACT = 1e-9  # that a product of sides may fall short of a whole number


@dataclass(frozen=True)
class Item:
    """One result to make: its number, photo and mask (1, h, w)."""

    index: int
    photo: Photo
    mask: Tensor | None


def read_photos_and_masks(lr: Any, mask: Any) -> tuple[list[Photo], list[Tensor | None]]:
    """Return the photos and, for each, its mask (1, h, w) in [0, 1] or None. Raises ValueError where they do not fit."""
    photos = read_photos(lr)
    if mask is None:
        return photos, [None] * len(photos)
    masks = [photo.pixels.mean(dim=0, keepdim=True) / 2 + 0.5 for photo in read_photos(mask, "mask")]
    if len(masks) != len(photos):
        raise ValueError(f"{len(masks)} masks for {len(photos)} images; pass one each")
    for m, photo in zip(masks, photos, strict=True):
        if m.shape[1:] != photo.pixels.shape[1:]:
            raise ValueError(
                f"mask is {tuple(m.shape[1:])}, its image {tuple(photo.pixels.shape[1:])}; sizes must agree"
            )
    return photos, list(masks)


def same_size_batches(
    items: list[Item],
    pixels: int,
    multiple: int = 1,
    smallest: int = 1,
    kind: Callable[[int], Hashable] = lambda index: None,
) -> Iterator[list[Item]]:
    """Yield runs of consecutive items of one size that have about `pixels` LR pixels together, as they will be.

    That is enlarged to a shorter side of `smallest` px and padded to `multiple`. Items whose indices are of another
    `kind` are in other runs.
    """
    sizes = groupby(items, key=lambda item: (*item.photo.pixels.shape[-2:], kind(item.index)))
    for (height, width, _), group in sizes:
        rows, columns = enlarged_size(height, width, smallest)
        padded = math.ceil(rows / multiple) * math.ceil(columns / multiple) * multiple**2
        run, limit = list(group), max(1, pixels // padded)
        yield from (run[start : start + limit] for start in range(0, len(run), limit))


def sequential_generator(generator: torch.Generator | Sequence[torch.Generator] | None) -> torch.Generator | None:
    """Return the one generator of the published order of draws; raise ValueError for several."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    raise ValueError('tile="reference" draws from one generator in the published order; pass one, not a list')


def check_latents(latents: Tensor, count: int, shapes: Sequence[tuple[int, int, int]]) -> None:
    """Raise ValueError unless `latents` are finite noises, one for each of `count` results, of the photos' `shapes`."""
    if not isinstance(latents, Tensor) or latents.ndim != 4:
        found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"latents is {found}; pass a tensor (B, C, H, W)")
    if len(latents) != count:
        raise ValueError(f"latents holds {len(latents)} noises for {count} results; pass one each")
    if not torch.isfinite(latents).all():
        raise ValueError("latents hold NaN or Inf; pass standard normal noise")
    if wrong := next((shape for shape in shapes if shape != tuple(latents.shape[1:])), None):
        raise ValueError(
            f"latents are of {tuple(latents.shape[1:])} but the image needs {wrong}; see latent_shape(height, width)"
        )


def check_scale(scale: float, native_scale: float) -> None:
    """Raise ValueError unless `scale` is a positive number in bounds."""
    if not isinstance(scale, Real) or not 0 < scale <= LARGEST_SCALE:
        raise ValueError(f"scale={scale!r} must be a positive number up to {LARGEST_SCALE}, such as {native_scale}")


def check_mask(mask: Any, takes_mask: bool, scale: float) -> None:
    """Raise ValueError unless there is a mask for models that take one, and then no other size."""
    if takes_mask and mask is None:
        raise ValueError("this is an inpainting model; pass mask=, a grey image that is white where lr is unknown")
    if mask is not None and not takes_mask:
        raise ValueError("mask is for inpainting models; this one takes none")
    if mask is not None and scale != 1:
        raise ValueError(f"scale={scale} with a mask: inpainting keeps the size, leave scale out")


def check_steps(steps: int, most: int | None) -> None:
    """Raise ValueError unless `num_inference_steps` is a whole number from 1 to `most`, None: any."""
    if not isinstance(steps, Integral):
        raise ValueError(f"num_inference_steps={steps!r} must be a whole number")
    if steps < 1 or (most is not None and steps > most):
        raise ValueError(f"num_inference_steps={steps} must lie between 1 and {most or 'any number'}")


def check_counts(counts: Mapping[str, Any]) -> None:
    """Raise ValueError unless every argument, by its name, is a whole number from 1."""
    for name, count in counts.items():
        if not isinstance(count, Integral):
            raise ValueError(f"{name}={count!r} must be a whole number")
        if count < 1:
            raise ValueError(f"{name}={count} must be at least 1")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")


def check_fraction(name: str, value: Any, least: str, most: str) -> None:
    """Raise ValueError unless `value` is a number from 0 (which means `least`) to 1 (`most`)."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name}={value!r} must lie between 0 ({least}) and 1 ({most})")


def enlarged(lq: Tensor, smallest: int) -> Tensor:
    """Return images (B, 3, h, w) whose shorter side is at least `smallest` px: smaller ones enlarged by bicubic."""
    height, width = lq.shape[-2:]
    if min(height, width) >= smallest:
        return lq
    return bicubic(lq, enlarged_size(height, width, smallest), "pil").clamp(-1, 1)


def enlarged_size(height: int, width: int, smallest: int) -> tuple[int, int]:
    """Return the size of `enlarged`; sides are rounded down, as SeeSR's test script does."""
    factor = max(1.0, smallest / min(height, width))
    return int(height * factor + EXACT), int(width * factor + EXACT)


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Stack images; a single one, which may be large, without a copy."""
    return images[0][None] if len(images) == 1 else torch.stack(list(images))


def seeded_noise(seeds: Sequence[int], device: torch.device, first: Tensor | None, boxes: list[Box]) -> Noise:
    """Return the noise of stacked tiles that depends on seeds and places only."""
    return StackedNoise([SeededNoise(seeds, device, first, box) for box in boxes])


def sequential_noise(
    generator: torch.Generator | Sequence[torch.Generator] | None, device: torch.device, boxes: list[Box]
) -> Noise:
    """Return the noise of stacked tiles in the published order of draws; raise ValueError for several generators."""
    return SequentialNoise(sequential_generator(generator), device)
