"""A block of controllable feature wrapping (`cfw`) in bands of rows, as `vae_bands` computes the layers around it."""

from dataclasses import dataclass
from typing import cast

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor

from resdiff.models.cfw import RESIDUAL_SCALE, RRDB, ControllableFeatureWrapping
from resdiff.models.strips import Bands, Strips
from resdiff.models.vae_bands import convolve, residual_block


@dataclass(frozen=True)
class SideBySide:
    """Two activations of one shape, concatenated along the channels where they are looked at.

    Only the first is freed: the second is wanted once more.
    """

    first: Strips
    second: Strips

    @property
    def height(self) -> int:
        """Rows of either."""
        return self.first.height

    @property
    def width(self) -> int:
        """Columns of either."""
        return self.first.width

    def window(self, start: int, stop: int, device: torch.device) -> Tensor:
        """Return rows `start` to `stop` (exclusive), (B, 2 C, rows, W)."""
        return torch.cat([part.window(start, stop, device) for part in (self.first, self.second)], dim=1)

    def forget(self, row: int) -> None:
        """Free what of the first lies above `row`."""
        self.first.forget(row)

    def statistics(self, groups: int) -> tuple[Tensor, Tensor]:
        """As `Strips.statistics`; `groups` is even, so that none has channels of both."""
        halves = [part.statistics(groups // 2) for part in (self.first, self.second)]
        mean, var = (torch.cat(parts, dim=1) for parts in zip(*halves, strict=True))
        return mean, var


def add_scaled(x: Strips, y: Strips, scale: float | Tensor, bands: Bands) -> Strips:
    """Return x + scale y; both are freed."""
    out = Strips()
    for start, stop in bands.spans(x.height, x.width):
        added = scale * y.window(start, stop, bands.device)
        out.append(x.window(start, stop, bands.device) + added, bands.hold)
        x.forget(stop)
        y.forget(stop)
    return out


def residual_in_residual(block: RRDB, x: Strips, bands: Bands) -> Strips:
    """Compute an RRDB. A dense block is one layer: every band computes the rows again that its convolutions reach."""
    h = convolve(block.rdb1, x, bands, keep=True)
    h = convolve(block.rdb2, h, bands)
    h = convolve(block.rdb3, h, bands)
    return add_scaled(x, h, RESIDUAL_SCALE, bands)


@apply_forward_hook  # not called itself, the network would not be brought in from where it is offloaded to
def fuse_in_bands(
    cfw: ControllableFeatureWrapping,
    features: Strips,  # of the encoder
    h: Strips,  # the decoder's activation
    level: int,
    w: Tensor,  # (B, 1, 1, 1)
    bands: Bands,
) -> Strips:
    """Return h + w C(features, h); features and h are freed."""
    block = cfw.fusion_layer(level)
    c = residual_block(block.encode_enc_1, SideBySide(features, h), bands)
    for rrdb in block.encode_enc_2:
        c = residual_in_residual(cast(RRDB, rrdb), c, bands)
    c = residual_block(block.encode_enc_3, c, bands)
    return add_scaled(h, c, w, bands)
