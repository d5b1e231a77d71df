"""What a caller says beside the image: words, how much they count, and where on the dial the result shall lie.

Classifier-free guidance is that of Ho and Salimans (2207.12598) in the form of diffusers: what a negative prompt says
takes the place of saying nothing. Arithmetic is float32. Where nothing is said, or nothing that the encoder knows, the
network runs once, as without text.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Protocol, Self

import torch
from torch import Tensor

from resdiff.images import Photo
from resdiff.pipelines.call import Fidelity, Prompt


class Steering(Protocol):
    """What steers a chain beside its image; every family may have its own."""

    def of_images(self, indices: Sequence[int]) -> Self:
        """Return that of some of the results."""
        ...

    def of_tiles(self, count: int) -> Self:
        """Return that of `count` tiles of every image, stacked tile-major."""
        ...

    def kind(self, index: int) -> Hashable:
        """Say which results may run in one batch: those of a kind."""
        ...

    def tile_side(self, height: int, width: int) -> int | None:
        """Return the side of the tiles, in LR pixels, that the family cuts an image into by itself; None if it does not."""
        ...


@dataclass(frozen=True)
class Guidance:
    """What steers a chain beside its image. Rows of the embeddings belong to images; None: nothing was said."""

    prompt: Tensor | None = None  # (B, ...)
    negative_prompt: Tensor | None = None  # (B, ...)
    scale: float = 1.0  # 1: the prompt alone counts, 0: the negative one alone
    fidelity: float | None = None  # 0 most detail ... 1 nearest to the truth on average; None: as the chain ends

    def of_images(self, indices: Sequence[int]) -> "Guidance":
        """Return that of some of the images; where no word of theirs is known, nothing was said."""
        return self._changed(lambda rows: rows[list(indices)] if rows[list(indices)].any() else None)

    def of_tiles(self, count: int) -> "Guidance":
        """Return that of `count` tiles of every image, stacked tile-major: (count B, ...)."""
        return self._changed(lambda rows: rows.repeat(count, *[1] * (rows.ndim - 1)))

    def kind(self, index: int) -> Hashable:
        """All may run in one batch."""
        return None

    def tile_side(self, height: int, width: int) -> int | None:
        """Tiles are the pipeline's."""
        return None

    def to(self, device: torch.device, dtype: torch.dtype) -> "Guidance":
        """Return that of a network on `device` that computes in `dtype`."""
        return self._changed(lambda rows: rows.to(device, dtype))

    def _changed(self, change: Callable[[Tensor], Tensor | None]) -> "Guidance":
        prompt, negative = (None if rows is None else change(rows) for rows in (self.prompt, self.negative_prompt))
        return replace(self, prompt=prompt, negative_prompt=negative)


UNGUIDED = Guidance()


def guided(denoise: Callable[..., Tensor], guidance: Guidance) -> Tensor:
    """Return d(negative) + scale (d(prompt) - d(negative)), float32, after one call of the network where one suffices.

    denoise: called with `prompt=` rows of embeddings, or without where nothing was said.
    """

    def said(rows: Tensor | None) -> Tensor:
        return (denoise() if rows is None else denoise(prompt=rows)).float()

    if guidance.scale == 1 or (guidance.prompt is None and guidance.negative_prompt is None):
        return said(guidance.prompt)
    away = said(guidance.negative_prompt)
    return away + guidance.scale * (said(guidance.prompt) - away)


def dialled(first: Tensor, final: Tensor, fidelity: float | None) -> Tensor:
    """Return first + (1 - fidelity) (final - first); exactly `final` at 0 and None, exactly `first` at 1."""
    return final if fidelity is None else torch.lerp(final, first, fidelity)


def embedded(encode: Callable[[str], Tensor], texts: Sequence[str]) -> Tensor | None:
    """Embed texts: (B, ...), zeros where there is none; None where there is none at all.

    encode: one text -> (1, ...). Each runs alone, so that its numbers do not depend on the others of a batch.
    """
    rows = {text: encode(text) for text in dict.fromkeys(texts) if text}
    if not rows:
        return None
    nothing = torch.zeros_like(next(iter(rows.values())))
    return torch.cat([rows.get(text, nothing) for text in texts])


def embedded_guidance(
    encode: Callable[[str], Tensor],
    texts: Mapping[str, Sequence[str]],  # "prompt" and "negative_prompt", a text for each result
    scale: float | None,
    default_scale: Callable[[bool], float],  # of images with a negative prompt, and without
    fidelity: float | None,
) -> tuple[Guidance, list[str]]:
    """Embed what was said; return also the texts of which the encoder knows no word.

    Where the scale is not said, that of each image is its own: the same alone and in a batch.
    """
    rows = {name: embedded(encode, said) for name, said in texts.items()}
    ignored = [text for name, said in texts.items() for text in unknown(said, rows[name])]
    if scale is None:
        rows["negative_prompt"] = steered_away(**rows)
        scale = default_scale(rows["negative_prompt"] is not None)
    return Guidance(**rows, scale=scale, fidelity=fidelity), ignored


def steered_away(prompt: Tensor | None, negative_prompt: Tensor | None) -> Tensor | None:
    """Return the negative rows, those of the prompt where they are zero, and None where all are.

    Away from itself leads nowhere, whatever the scale: an image of which nothing negative is said stays as it is beside
    others of which something is.
    """
    if negative_prompt is None or not negative_prompt.any():
        return None
    said = negative_prompt.flatten(1).any(dim=1).reshape(-1, *[1] * (negative_prompt.ndim - 1))
    return torch.where(said, negative_prompt, torch.zeros_like(negative_prompt) if prompt is None else prompt)


def unknown(texts: Sequence[str], rows: Tensor | None) -> list[str]:
    """Return the texts of which nothing is left in their embeddings."""
    return [] if rows is None else [text for text, row in zip(texts, rows, strict=True) if text and not row.any()]


def one_per_result(name: str, said: Prompt, photos: Sequence[Photo], results: int) -> list[str]:
    """Return a text for each of the results, as many of every photo and consecutive; "" where nothing was said.

    Raises ValueError when a list has another length than there are photos, or a function returns no text.
    """
    if callable(said):
        texts = [said(photo.to_pil()) for photo in photos]
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"{name} is a function that returned {wrong[0]!r}; it must return a str")
    else:
        texts = [said or ""] * len(photos) if said is None or isinstance(said, str) else list(said)
    if len(texts) != len(photos):
        raise ValueError(f"{name} is a list of {len(texts)} for {len(photos)} images; pass one text, or one per image")
    return [text.strip() for text in texts for _ in range(results // len(photos))]


def check_guidance(prompt: Prompt, negative_prompt: Prompt, guidance_scale: float | None, fidelity: Fidelity) -> None:
    """Raise ValueError unless prompts are text, the scale is finite and not negative, and fidelity lies in [0, 1]."""
    for name, said in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        texts = [] if said is None or callable(said) else list(said) if isinstance(said, (list, tuple)) else [said]
        if wrong := [text for text in texts if not isinstance(text, str)]:
            raise ValueError(f"{name} is or holds {wrong[0]!r}, which is no text; pass a str, or one per image")
    if guidance_scale is not None and not (_is_number(guidance_scale) and 0 <= guidance_scale < math.inf):
        raise ValueError(f"guidance_scale={guidance_scale!r} must be a number from 0, such as 1 or 2.5")
    values = fidelity.flatten().tolist() if isinstance(fidelity, Tensor) else fidelity
    values = list(values) if isinstance(values, (list, tuple)) else [] if values is None else [values]
    if wrong_values := [value for value in values if not (_is_number(value) and 0 <= value <= 1)]:
        raise ValueError(f"fidelity={wrong_values[0]!r} must lie between 0 (most detail) and 1 (nearest to the input)")


def fidelity_per_result(fidelity: Fidelity, images: int, results: int, default: float) -> tuple[float, ...]:
    """Return the fidelity of each of the results, as many of every image and consecutive; `default` where none is said.

    Raises ValueError for a list or tensor that has another length than there are images.
    """
    if fidelity is None or _is_number(fidelity):
        return (float(default if fidelity is None else fidelity),) * results
    values = torch.as_tensor(fidelity, dtype=torch.float64)
    if values.ndim > 1 or values.numel() not in (1, images) or (values.ndim == 1 and len(values) != images):
        raise ValueError(
            f"fidelity is of shape {tuple(values.shape)} for {images} images; pass a number, or one for each image"
        )
    return tuple(values.expand(images).repeat_interleave(results // images).tolist())


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
