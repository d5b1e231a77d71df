"""StableSR's networks as one function: the time-aware encoder looks at the LR image, the UNet is modulated by what it sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from resdiff.models.time_aware_encoder import TimeAwareEncoder
from resdiff.tiling import Box


@dataclass
class ModulatedUNet:
    """See `resdiff.pipelines.denoising.Networks`; both branches of the guidance share the features of the LR image."""

    unet: UNet2DConditionModel  # with a `SpadeModulation` attached
    structure_encoder: TimeAwareEncoder
    z: Tensor  # (B, 4, H, W), scaled latents of the LR image, without noise
    cross_attention_kwargs: Mapping[str, Any] | None = None

    def __call__(self, x: Tensor, t: Tensor, text: Tensor, boxes: list[Box]) -> Tensor:
        """Return eps or v. The encoder sees the timestep of the UNet."""
        dtype = self.unet.dtype
        seen = torch.cat([box.crop(self.z) for box in boxes]).to(self.structure_encoder.dtype)
        structure = self.structure_encoder(seen, t)
        branches = len(x) // len(seen)
        return self.unet(
            x.to(dtype),
            t,
            text.to(dtype),
            timestep_cond=tuple(features.repeat(branches, 1, 1, 1) for features in structure),
            cross_attention_kwargs=self.cross_attention_kwargs,
            return_dict=False,
        )[0]
