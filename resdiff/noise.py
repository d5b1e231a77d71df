"""Where a sampler's standard normal draws come from.

`SeededNoise` makes noise a function of (seed, draw, place on the canvas): results depend neither on the batch nor on
how the canvas is cut into tiles. `SequentialNoise` draws in order of use, as published inference scripts do.
A sampler only calls `noise(draw, shape)`.
"""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from resdiff.tiling import Box

CELL = 64  # side of a noise cell in LR pixels


class Noise(Protocol):
    """Standard normal float32 of `shape` (B, C, h, w) for the `draw`-th use: 0 starts the chain, 1.. are its steps."""

    in_order: ClassVar[bool]  # whether later draws depend on this one having been made

    def __call__(self, draw: int, shape: torch.Size) -> Tensor: ...

    def generators(self, draw: int) -> Sequence[torch.Generator] | torch.Generator | None:
        """Return what samplers that draw by themselves are given for this draw, as diffusers' `randn_tensor` takes it."""
        ...


def seeds_from(generator: torch.Generator | Sequence[torch.Generator] | None, count: int) -> list[int]:
    """Draw one 64-bit seed per image, in order; a list of generators gives one each; None uses torch's global one.

    Raises ValueError when a list has another length than `count`.
    """
    if generator is None or isinstance(generator, torch.Generator):
        generators: Sequence[torch.Generator | None] = [generator] * count
    else:
        if not isinstance(generator, Sequence):
            raise ValueError(f"generator is {generator!r}; pass a torch.Generator, such as Generator().manual_seed(0)")
        generators = generator
        if len(generators) != count:
            raise ValueError(f"generator is a list of {len(generators)} for {count} images; pass one or one per image")
        if wrong := [g for g in generators if not isinstance(g, torch.Generator)]:
            raise ValueError(f"generator holds {wrong[0]!r}; pass torch.Generators, such as Generator().manual_seed(0)")
    low, high = -(2**63), 2**63 - 1
    return [int(torch.randint(low, high, (), generator=g, device=g.device if g else "cpu")) for g in generators]


def cell_generator(seed: int, draw: int, row: int, column: int) -> torch.Generator:
    """Return the CPU generator of one cell; CPU, so that every device gets the same noise."""
    digest = hashlib.blake2b(struct.pack("<qqqq", seed, draw, row, column), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))


@dataclass(frozen=True)
class SeededNoise:
    """Noise of a canvas box: cells of 64x64 LR pixels, each with its own generator.

    `box` is in LR pixels; the shape asked for tells how many latent pixels one of them spans. `first` replaces draw 0:
    the canvas-sized noise a caller passed as `latents` (B, C, H, W).
    """

    in_order: ClassVar[bool] = False

    seeds: Sequence[int]
    device: torch.device
    first: Tensor | None
    box: Box

    def __call__(self, draw: int, shape: torch.Size) -> Tensor:
        box = self.box
        top, left = box.top * shape[-2] // box.height, box.left * shape[-1] // box.width
        if draw == 0 and self.first is not None:
            given = self.first[..., top : top + shape[-2], left : left + shape[-1]]
            if given.shape != shape:
                raise ValueError(f"latents of shape {tuple(self.first.shape)} do not cover the noise of {tuple(shape)}")
            return given.to(self.device, torch.float32)
        cell = max(1, CELL * shape[-1] // box.width)
        return torch.stack([self._one(seed, draw, shape[1:], top, left, cell) for seed in self.seeds]).to(self.device)

    def generators(self, draw: int) -> list[torch.Generator]:
        """Return a generator for each image, of the same numbers wherever its box lies."""
        return [cell_generator(seed, draw, 0, 0) for seed in self.seeds]

    def _one(self, seed: int, draw: int, shape: torch.Size, top: int, left: int, cell: int) -> Tensor:
        channels, height, width = shape
        rows = range(top // cell, (top + height - 1) // cell + 1)
        columns = range(left // cell, (left + width - 1) // cell + 1)
        noise = torch.empty(channels, len(rows) * cell, len(columns) * cell)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                block = torch.randn(channels, cell, cell, generator=cell_generator(seed, draw, row, column))
                noise[:, i * cell : (i + 1) * cell, j * cell : (j + 1) * cell] = block
        top, left = top - rows[0] * cell, left - columns[0] * cell
        return noise[:, top : top + height, left : left + width]


@dataclass(frozen=True)
class StackedNoise:
    """Noise of several tiles that run together, stacked tile-major."""

    in_order: ClassVar[bool] = False

    parts: Sequence[SeededNoise]  # one per tile

    def __call__(self, draw: int, shape: torch.Size) -> Tensor:
        one = torch.Size([shape[0] // len(self.parts), *shape[1:]])
        return torch.cat([part(draw, one) for part in self.parts])

    def generators(self, draw: int) -> list[torch.Generator]:
        """Return a generator for each tile, tile-major."""
        return [generator for part in self.parts for generator in part.generators(draw)]


@dataclass(frozen=True)
class SequentialNoise:
    """Noise in order of use from one generator on the device: the order of the published inference scripts."""

    in_order: ClassVar[bool] = True

    generator: torch.Generator | None
    device: torch.device

    def __call__(self, draw: int, shape: torch.Size) -> Tensor:
        source = self.generator.device if self.generator is not None else self.device
        return torch.randn(shape, generator=self.generator, device=source).to(self.device)

    def generators(self, draw: int) -> torch.Generator | None:
        """Return the one generator."""
        return self.generator
