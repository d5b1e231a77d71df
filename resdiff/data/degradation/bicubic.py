"""Bicubic reduction alone: the classical benchmark's degradation and the "bicsr" task of ResShift.

"Bicubic" has four meanings (the table of `resdiff.resize`); the kernel is therefore named. Set5, Set14 and BSD100 x4
were made with ``matlab_legacy``; ResShift's bicsr (basicsr/data, MATLAB-style ``imresize`` on floats) with ``matlab``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from resdiff.data.degradation.base import Degradation, round8
from resdiff.resize import bicubic, matlab_legacy

Kernel = Literal["matlab", "matlab_legacy", "pil", "torch"]


@dataclass(frozen=True)
class BicubicDraw:
    """Nothing is random here."""


@dataclass(frozen=True, kw_only=True)
class Bicubic(Degradation[BicubicDraw]):
    """HR reduced by a bicubic kernel; the target is HR itself."""

    kernel: Kernel = "matlab"  # see `resdiff.resize`
    scale: int = 4  # HR side over LR side
    round8: bool = True  # whether LR is rounded to 8 bits; matlab_legacy is 8-bit anyway

    def __post_init__(self) -> None:
        if self.kernel not in ("matlab", "matlab_legacy", "pil", "torch"):
            raise ValueError(f"kernel is {self.kernel!r}, choose one of 'matlab', 'matlab_legacy', 'pil', 'torch'")
        if self.scale < 1:
            raise ValueError(f"scale is {self.scale}, give a whole factor of at least 1")
        if self.kernel == "matlab_legacy" and not self.round8:
            raise ValueError("round8 is False, but matlab_legacy rounds to 8 bits by definition: use kernel='matlab'")

    def draw(self, height: int, width: int, generator: torch.Generator) -> BicubicDraw:
        """Return the empty draw; the generator is not used."""
        return BicubicDraw()

    @torch.no_grad()
    def pair(self, hr: Tensor, draws: Sequence[BicubicDraw]) -> tuple[Tensor, Tensor]:
        """Return (hr, lr), lr (B, 3, H / scale, W / scale) in [0, 1].

        Args:
            hr: (B, 3, H, W) RGB in [0, 1]; ``matlab_legacy`` rounds it to 8 bits first and runs on the CPU.
            draws: one for each image.

        Raises:
            ValueError: sides that are no multiples of `scale`, where a bicubic grid would not align with HR's.
        """
        height, width = hr.shape[-2:]
        if height % self.scale or width % self.scale:
            raise ValueError(f"hr is {height}x{width}, crop it to multiples of the scale {self.scale}")
        if self.kernel == "matlab_legacy":
            return hr, torch.stack([_matlab_legacy(image, self.scale) for image in hr])
        with torch.autocast(hr.device.type, enabled=False):
            lr = bicubic(hr.float(), (height // self.scale, width // self.scale), self.kernel).clamp(0, 1)
        return hr, round8(lr) if self.round8 else lr


def _matlab_legacy(image: Tensor, scale: int) -> Tensor:
    """(3, H, W) in [0, 1] -> (3, H / scale, W / scale) in [0, 1], both through 8 bits."""
    image8 = (image.float() * 255).round().clamp(0, 255).to(torch.uint8)
    return matlab_legacy(image8.permute(1, 2, 0), 1 / scale).permute(2, 0, 1) / 255
