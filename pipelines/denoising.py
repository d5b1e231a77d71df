"""One evaluation of a Stable Diffusion on a canvas of latents: tile by tile, with classifier-free guidance."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from resdiff.diffusion.gaussian import classifier_free
from resdiff.tiling import Box, Gaussian, tiled


class Networks(Protocol):
    """A family's networks as one function; every family has its own."""

    def __call__(self, x: Tensor, t: Tensor, text: Tensor, boxes: list[Box], **each_step: Any) -> Tensor:
        """Return eps or v of x (R T B, 4, h, w), T places on the canvas for each of the R branches of the guidance.

        text: (R T B, L, C). boxes: the T places, in latents. each_step: what changes from step to step.
        """
        ...


@dataclass
class Denoiser:
    """eps (or v) of x_t. The branches of classifier-free guidance run in one batch."""

    networks: Networks
    prompt_embeds: Tensor  # (B, L, C)
    negative_prompt_embeds: Tensor | None  # None: no guidance
    guidance_scale: float
    guidance_rescale: float
    tiles: Gaussian | None  # None: untiled
    tile_batch: int = 1

    def __call__(self, x: Tensor, t: Tensor, **each_step: Any) -> Tensor:
        """Return the prediction at x (B, 4, h, w), scaled for the network, float32; each_step: see `Networks`."""

        def branches(tiles: Tensor, boxes: list[Box]) -> Tensor:
            return self._branches(tiles, boxes, t, each_step)

        height, width = x.shape[-2:]
        if self.tiles is None or not self.tiles.cuts(height, width):
            out = branches(x, [Box(0, 0, height, width)])
        else:
            out = tiled(branches, x, self.tiles.on(height, width), tile_batch=self.tile_batch)
        if self.negative_prompt_embeds is None:
            return out
        negative, positive = out.chunk(2, dim=1)
        return classifier_free(negative, positive, self.guidance_scale, self.guidance_rescale)

    def _branches(self, tiles: Tensor, boxes: list[Box], t: Tensor, each_step: dict[str, Any]) -> Tensor:
        """Return (T B, 4 or 8, h, w) float32: the predictions of the negative branch, if any, before the positive."""
        texts = [rows for rows in (self.negative_prompt_embeds, self.prompt_embeds) if rows is not None]
        text = torch.cat([rows.repeat(len(boxes), 1, 1) for rows in texts])
        out = self.networks(tiles.repeat(len(texts), 1, 1, 1), t, text, boxes, **each_step)
        return torch.cat(out.float().chunk(len(texts)), dim=1)
