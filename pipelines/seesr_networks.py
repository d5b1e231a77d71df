"""SeeSR's networks as one function: the ControlNet looks at the LR image, the UNet at what it says and at the tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from resdiff.devices import is_hooked
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.tiling import Box


@dataclass
class ControlledUNet:
    """See `resdiff.pipelines.denoising.Networks`; the embedded LR image is computed once for all steps and branches."""

    unet: SeeSRUNet
    controlnet: SeeSRControlNet
    image: Tensor  # (B, 3, H, W) in [0, 1], the ControlNet's condition
    factor: int  # image side over latent side
    image_embeds: Tensor  # (B, N, 512)
    cross_attention_kwargs: Mapping[str, Any] | None = None
    _embedded: dict[Box, Tensor] = field(default_factory=dict, init=False)

    def __call__(self, x: Tensor, t: Tensor, text: Tensor, boxes: list[Box], conditioning_scale: float = 1.0) -> Tensor:
        """Return eps or v; conditioning_scale 0 leaves the ControlNet out."""
        dtype = self.unet.dtype
        tokens = self.image_embeds.repeat(len(x) // len(self.image_embeds), 1, 1)
        residuals: dict[str, Any] = {}
        if conditioning_scale:
            own = self.controlnet.dtype
            condition = torch.cat([self._condition(box) for box in boxes])
            down, mid = self.controlnet(
                x.to(own),
                t,
                text.to(own),
                condition.repeat(len(x) // len(condition), 1, 1, 1),
                conditioning_scale=conditioning_scale,
                image_encoder_hidden_states=tokens.to(own),
                return_dict=False,
            )
            residuals["down_block_additional_residuals"] = [residual.to(dtype) for residual in down]
            residuals["mid_block_additional_residual"] = mid.to(dtype)
        return self.unet(
            x.to(dtype),
            t,
            text.to(dtype),
            image_encoder_hidden_states=tokens.to(dtype),
            cross_attention_kwargs=self.cross_attention_kwargs,
            return_dict=False,
            **residuals,
        )[0]

    def _condition(self, box: Box) -> Tensor:
        crop = box.crop(self.image, self.factor).to(self.controlnet.dtype)
        if is_hooked(self.controlnet):  # offloaded weights come with a call of the network, not of a part of it
            return crop
        if box not in self._embedded:
            self._embedded[box] = self.controlnet.embed_condition(crop)
        return self._embedded[box]
