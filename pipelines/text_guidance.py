"""What steers a chain of Stable Diffusion beside its image: embedded texts, the tiles of the latents, the call's options."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from torch import Tensor

from resdiff.tiling import Gaussian

LR_PER_LATENT = 2  # LR pixels along a latent's side: x4 and an autoencoder of factor 8


@dataclass(frozen=True, kw_only=True)
class TextGuidance:
    """What steers a chain beside its image. Tuples have an entry for each result; families add tuples of their own."""

    prompt_embeds: tuple[Tensor, ...]  # each (1, L, C)
    negative_prompt_embeds: tuple[Tensor, ...] | None  # None: no classifier-free guidance
    scale: float
    tiles: Gaussian | None  # None: untiled
    tile_batch: int
    options: Any  # of the call

    def of_images(self, indices: Sequence[int]) -> Self:
        """Return that of some of the results."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        rows: dict[str, Any] = {
            name: tuple(x[i] for i in indices) for name, x in values.items() if isinstance(x, tuple)
        }
        return replace(self, **rows)

    def of_tiles(self, count: int) -> Self:
        """The canvas is never cut, its latents are."""
        return self

    def kind(self, index: int) -> Hashable:
        """Texts of one length may run in one batch."""
        return self.prompt_embeds[index].shape[1]

    def tile_side(self, height: int, width: int) -> int | None:
        """Return the side of the latents' tiles in LR pixels, None if they are not cut."""
        latents = -(-height // LR_PER_LATENT), -(-width // LR_PER_LATENT)
        return None if self.tiles is None or not self.tiles.cuts(*latents) else self.tiles.size * LR_PER_LATENT


def latent_tiles(tile: Any, own: Gaussian, published: Gaussian) -> Gaussian | None:
    """Return the tiling of the latents that `tile` of a call means; None: untiled.

    tile: a size in LR pixels, "auto" for `own`, "off", "reference[:latents[:overlap]]" for `published` and other sizes
    of it, or a `Gaussian`, in latents. Raises ValueError for anything else.
    """
    if tile == "off" or isinstance(tile, Gaussian):
        return None if tile == "off" else tile
    if tile == "auto":
        return own
    if isinstance(tile, int) and not isinstance(tile, bool) and tile >= 2 * LR_PER_LATENT:
        size = tile // LR_PER_LATENT
        return Gaussian(size, size * own.overlap // own.size)
    name, *numbers = tile.split(":") if isinstance(tile, str) else [""]
    if name != "reference" or len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        raise ValueError(
            f'tile={tile!r} is unknown; use "auto", "off", a size in pixels of lr, "reference[:latents[:overlap]]" or a '
            "Gaussian"
        )
    size = int(numbers[0]) if numbers else published.size
    overlap = int(numbers[1]) if len(numbers) > 1 else min(published.overlap, size - 1)
    return replace(published, size=size, overlap=overlap)


def given_rows(name: str, rows: Tensor, width: int, images: int, results: int = 1) -> tuple[Tensor, ...]:
    """Return embeddings that a caller passed, (B, N, width), one for each image, as a row for each of its `results`.

    Raises ValueError unless there is one row, or one for each image.
    """
    if not isinstance(rows, Tensor) or rows.ndim != 3 or len(rows) not in (1, images) or rows.shape[2] != width:
        found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise ValueError(
            f"{name} is {found}; pass a tensor (B, N, {width}) with one row, or one for each of {images} images"
        )
    return rows.expand(images, -1, -1).repeat_interleave(results, dim=0).split(1)
