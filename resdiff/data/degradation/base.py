"""What every degradation is: HR images in, (target, LR) pairs out, and where its random numbers come from.

A degradation works on float32 RGB (B, 3, H, W) in [0, 1]. Everything random about one sample is drawn from the
sample's own CPU generator by `draw`, in a data worker; `pair` does the arithmetic on the device, where noise fields
come from generators seeded by a number that `draw` drew. A sample therefore depends neither on its batch nor on how
many workers or processes there are. (The references draw resize factors, modes, the kind of noise and the final order
once for a whole batch, and vary a batch through a pool of pairs only; that difference is deliberate.)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Generic, TypeVar

import torch
from torch import Tensor

from resdiff.noise import seeds_from

DrawT = TypeVar("DrawT")  # what one sample needs to know: plain numbers and small CPU tensors, picklable
T = TypeVar("T")


class Degradation(ABC, Generic[DrawT]):
    """Makes training pairs. Subclasses are frozen dataclasses of plain numbers and tuples."""

    scale: int  # HR side over LR side of the result; 1 where LR is brought back to HR's size

    @abstractmethod
    def draw(self, height: int, width: int, generator: torch.Generator) -> DrawT:
        """Draw everything random about one HR image of height x width from its CPU generator."""

    @abstractmethod
    def pair(self, hr: Tensor, draws: Sequence[DrawT]) -> tuple[Tensor, Tensor]:
        """Return (target, lr) for hr (B, 3, H, W) RGB in [0, 1] and one draw per image, without gradients.

        target is (B, 3, H, W): hr, or hr sharpened where the method trains on that; lr is (B, 3, H / scale, W / scale).
        """

    @torch.no_grad()
    def __call__(self, hr: Tensor, generator: torch.Generator | Sequence[torch.Generator]) -> Tensor:
        """Degrade hr (B, 3, H, W) in [0, 1]; return lr (B, 3, H / scale, W / scale).

        One generator gives each image a seed, in order; a list gives each image its own (`resdiff.noise.seeds_from`).
        """
        height, width = hr.shape[-2:]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds_from(generator, len(hr))]
        return self.pair(hr, [self.draw(height, width, g) for g in generators])[1]


def on_canvases(hr: Tensor, draws: Sequence[DrawT], degrade: Callable[[Tensor, Sequence[DrawT]], Tensor]) -> Tensor:
    """Degrade a batch whose images get different sizes midway: whole on a GPU, image by image on a CPU.

    On a canvas (`Ragged`) each image costs as much as the largest. What that saves is kernel launches, and a CPU has none.
    """
    count = 1 if hr.device.type == "cpu" else len(hr)
    return torch.cat([degrade(hr[i : i + count], draws[i : i + count]) for i in range(0, len(hr), count)])


def check_probabilities(settings: object, *names: str) -> None:
    """Raise ValueError unless these fields of a degradation are probabilities."""
    for name in names:
        if not 0 <= (value := getattr(settings, name)) <= 1:
            raise ValueError(f"{name} is {value}; a probability lies in [0, 1]")


def round8(x: Tensor) -> Tensor:
    """Round values of [0, 1] to the 256 that 8 bits hold; what lies outside is clipped."""
    return (x * 255).round().clamp(0, 255) / 255


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    """Draw a number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def chance(generator: torch.Generator, probability: float) -> bool:
    """Draw whether something of this probability happens: never at 0, always at 1."""
    return uniform(generator, 0, 1) < probability


def choose(generator: torch.Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Draw one of the options, in proportion to `weights` (all alike without)."""
    edges = list(accumulate(weights or [1.0] * len(options)))
    point = uniform(generator, 0, edges[-1])
    return next(option for option, edge in zip(options, edges, strict=True) if point < edge)


def draw_seed(generator: torch.Generator) -> int:
    """Draw a seed for the generator of a noise field."""
    return int(torch.randint(2**63 - 1, (), generator=generator))
