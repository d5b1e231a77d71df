"""Activations (B, C, H, W) as horizontal strips, so that a layer can be computed in bands and its input freed behind it.

Mean and variance of the channels are gathered when a strip is written: GroupNorm (1803.08494) needs them over the whole
canvas before the first row can be normalised.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BAND_POSITIONS = 2**16  # of a band, where the caller does not say how many rows
LEAST_ROWS = 16  # of such a band: two rows more are convolved than are kept


@dataclass(frozen=True)
class Bands:
    """How a layer is cut: how high a band is, where it is computed and where the activation is held."""

    rows: int | None  # None: about BAND_POSITIONS
    device: torch.device
    hold: torch.device

    def spans(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) of consecutive bands that cover `height` rows."""
        rows = self.rows or max(LEAST_ROWS, BAND_POSITIONS // width)
        yield from ((start, min(start + rows, height)) for start in range(0, height, rows))


class Activation(Protocol):
    """What a layer needs of its input."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    def window(self, start: int, stop: int, device: torch.device) -> Tensor: ...
    def forget(self, row: int) -> None: ...
    def statistics(self, groups: int) -> tuple[Tensor, Tensor]: ...


class Strips:
    """An activation (B, C, H, W) as consecutive strips (B, C, rows, W), with mean and variance of their channels."""

    def __init__(self, whole: Tensor | None = None) -> None:
        self.height = 0
        self.width = 0
        self._outer = (0, 0)  # B, C
        self._strips: list[tuple[int, Tensor]] = []  # with the row that each begins at
        self._moments: list[tuple[int, Tensor]] = []  # positions, and (2, B, C): mean and variance
        if whole is not None:
            self._add(whole)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, C, H, W) of what was appended, freed or not."""
        return (*self._outer, self.height, self.width)

    def append(self, strip: Tensor, hold: torch.device) -> None:
        """Add a strip at the bottom, held on `hold`."""
        var, mean = torch.var_mean(strip.float(), dim=(2, 3), correction=0)
        self._moments.append((strip.shape[2] * strip.shape[3], torch.stack([mean, var])))
        self._add(strip.contiguous().to(hold))  # contiguous: a view would keep the rows around it alive

    def _add(self, strip: Tensor) -> None:
        self._strips.append((self.height, strip))
        self._outer = (strip.shape[0], strip.shape[1])
        self.height += strip.shape[2]
        self.width = strip.shape[3]

    def window(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Return rows `start` to `stop` (exclusive), as far as there are any, on `device`."""
        parts = [
            strip[:, :, max(start - top, 0) : stop - top].to(device)
            for top, strip in self._strips
            if top < stop and start < top + strip.shape[2]
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def forget(self, row: int) -> None:
        """Free the strips that lie above `row`."""
        self._strips = [(top, strip) for top, strip in self._strips if top + strip.shape[2] > row]

    def statistics(self, groups: int) -> tuple[Tensor, Tensor]:
        """Return mean and biased variance of each group of channels over the canvas, (B, groups) float64 on the CPU."""
        n = torch.tensor([count for count, _ in self._moments], dtype=torch.float64)[:, None, None, None]
        moments = torch.stack([moments for _, moments in self._moments]).cpu().double()
        mean, var = moments.unflatten(3, (groups, -1)).unbind(1)  # each (strips, B, groups, C / groups)
        n = n.expand_as(mean)
        total = n.sum((0, 3))
        overall = (n * mean).sum((0, 3)) / total
        return overall, (n * (var + (mean - overall[None, :, :, None]).square())).sum((0, 3)) / total
