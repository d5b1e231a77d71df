"""One evaluation of SeeSR's networks on a canvas of latents: ControlNet and UNet, tile by tile, with guidance."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resdiff.devices import is_hooked
from resdiff.diffusion.gaussian import classifier_free
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.tiling import Box, Gaussian, tiled


@dataclass
class Denoiser:
    """eps (or v) of x_t; what does not change from step to step is computed once.

    The two branches of classifier-free guidance run in one batch and share the embedded LR image.
    """

    unet: SeeSRUNet
    controlnet: SeeSRControlNet
    image: Tensor  # (B, 3, H, W) in [0, 1], the ControlNet's condition
    factor: int  # image side over latent side
    prompt_embeds: Tensor  # (B, L, C)
    negative_prompt_embeds: Tensor | None  # None: no guidance
    image_embeds: Tensor  # (B, N, 512)
    guidance_scale: float
    guidance_rescale: float
    tiles: Gaussian | None  # None: untiled
    tile_batch: int = 1
    cross_attention_kwargs: Mapping[str, Any] | None = None
    _embedded: dict[Box, Tensor] = field(default_factory=dict, init=False)

    def __call__(self, x: Tensor, t: Tensor, conditioning_scale: float) -> Tensor:
        """Return the prediction at x (B, 4, h, w), scaled for the network, float32; conditioning_scale 0 leaves the ControlNet out."""

        def branches(tiles: Tensor, boxes: list[Box]) -> Tensor:
            return self._branches(tiles, boxes, t, conditioning_scale)

        height, width = x.shape[-2:]
        if self.tiles is None or not self.tiles.cuts(height, width):
            out = branches(x, [Box(0, 0, height, width)])
        else:
            out = tiled(branches, x, self.tiles.on(height, width), tile_batch=self.tile_batch)
        if self.negative_prompt_embeds is None:
            return out
        negative, positive = out.chunk(2, dim=1)
        return classifier_free(negative, positive, self.guidance_scale, self.guidance_rescale)

    def _branches(self, tiles: Tensor, boxes: list[Box], t: Tensor, conditioning_scale: float) -> Tensor:
        """Return (T B, 4 or 8, h, w) float32: the predictions of the negative branch, if any, before the positive."""
        texts = [rows for rows in (self.negative_prompt_embeds, self.prompt_embeds) if rows is not None]
        count, dtype = len(texts), self.unet.dtype
        x = tiles.repeat(count, 1, 1, 1)
        text = torch.cat([rows.repeat(len(boxes), 1, 1) for rows in texts])
        tokens = self.image_embeds.repeat(count * len(boxes), 1, 1)
        residuals: dict[str, Any] = {}
        if conditioning_scale:
            own = self.controlnet.dtype
            down, mid = self.controlnet(
                x.to(own),
                t,
                text.to(own),
                torch.cat([self._condition(box) for box in boxes]).repeat(count, 1, 1, 1),
                conditioning_scale=conditioning_scale,
                image_encoder_hidden_states=tokens.to(own),
                return_dict=False,
            )
            residuals["down_block_additional_residuals"] = [residual.to(dtype) for residual in down]
            residuals["mid_block_additional_residual"] = mid.to(dtype)
        out = self.unet(
            x.to(dtype),
            t,
            text.to(dtype),
            image_encoder_hidden_states=tokens.to(dtype),
            cross_attention_kwargs=self.cross_attention_kwargs,
            return_dict=False,
            **residuals,
        )[0]
        return torch.cat(out.float().chunk(count), dim=1)

    def _condition(self, box: Box) -> Tensor:
        crop = box.crop(self.image, self.factor).to(self.controlnet.dtype)
        if is_hooked(self.controlnet):  # offloaded weights come with a call of the network, not of a part of it
            return crop
        if box not in self._embedded:
            self._embedded[box] = self.controlnet.embed_condition(crop)
        return self._embedded[box]
