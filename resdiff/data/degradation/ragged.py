"""Batches of images of different sizes.

Every sample draws its own resize factor, so the images of one batch get different sizes midway. They then lie at the
top left of one canvas, zero elsewhere, and each primitive works on the whole canvas at once: the number of kernel
launches does not depend on the batch. (The references draw one factor per batch and need nothing of the kind.) On a CPU,
which has no launches to save, batches of one are faster: the canvas is larger than most of its images.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Ragged:
    """B images of different sizes on one canvas: zero outside each image."""

    pixels: Tensor  # (B, C, H, W) float32 in [0, 1], H and W the largest height and width
    sizes: tuple[tuple[int, int], ...]  # (h, w) of each image

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes is empty; a batch has at least one image")
        heights, widths = zip(*self.sizes, strict=True)
        batch, height, width = len(self.sizes), max(heights), max(widths)
        shape = tuple(self.pixels.shape)
        if len(shape) != 4 or (shape[0], *shape[2:]) != (batch, height, width):
            raise ValueError(
                f"pixels is {shape}; images of the sizes {self.sizes} lie on ({batch}, C, {height}, {width})"
            )

    @classmethod
    def of(cls, x: Tensor) -> "Ragged":
        """Return a batch (B, C, H, W) of equal sizes as it is, in float32."""
        if x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}, a batch is (B, C, H, W)")
        return cls(x.float(), ((x.shape[-2], x.shape[-1]),) * len(x))

    @property
    def is_even(self) -> bool:
        """Whether all images have the same size, so that nothing of the canvas is outside."""
        return len(set(self.sizes)) == 1

    def mask(self) -> Tensor:
        """Return (B, 1, H, W) bool: inside each image."""
        height, width = self.pixels.shape[-2:]
        sides = torch.tensor(self.sizes, device=self.pixels.device)  # (B, 2)
        rows = torch.arange(height, device=self.pixels.device) < sides[:, :1]  # (B, H)
        columns = torch.arange(width, device=self.pixels.device) < sides[:, 1:]  # (B, W)
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def image(self, i: int) -> Tensor:
        """Return image `i` alone: a view (C, h, w)."""
        h, w = self.sizes[i]
        return self.pixels[i, :, :h, :w]

    def tensor(self) -> Tensor:
        """Return the batch (B, C, H, W).

        Raises ValueError when the images have different sizes.
        """
        if not self.is_even:
            raise ValueError(f"images have the sizes {self.sizes}; resize them to one size first")
        return self.pixels

    def map(self, f: Callable[[Tensor], Tensor]) -> "Ragged":
        """Return f(pixels) for an elementwise f, zero outside each image again."""
        return self.like(f(self.pixels))

    def like(self, pixels: Tensor) -> "Ragged":
        """Return other pixels (B, C, H, W) of the same sizes; what lies outside each image is set to zero."""
        return Ragged(pixels if self.is_even else pixels.where(self.mask(), pixels.new_zeros(())), self.sizes)
