"""What a call is given, brought into the order in which it is worked on."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from resdiff.images import Photo, read_photos


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


def same_size_batches(items: list[Item], pixels: int, multiple: int = 1) -> Iterator[list[Item]]:
    """Yield runs of consecutive items of one size that have about `pixels` LR pixels together, padded to `multiple`."""
    for (height, width), group in groupby(items, key=lambda item: item.photo.pixels.shape[-2:]):
        padded = math.ceil(height / multiple) * math.ceil(width / multiple) * multiple**2
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
