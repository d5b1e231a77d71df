"""`PatchDiscriminator`: judges what an enlargement adds to the bicubic one, at the cost of the low resolution.

Five convolutions on space-to-depth pixels, as `PixelUNet` works. It sees the residual to the bicubic enlargement, which
a judge of whole images has to find first, beside that enlargement and the embedding of the prompt: a photo must look
real for its low-resolution image and for what was said about it. Trained from scratch with a hinge loss
(`resdiff.losses.adversarial`), it needs no pretrained network. Spectral norms keep so small a judge from learning.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

RESIDUAL_GAIN = 6.0  # brings the residual of natural photos in [-1, 1] to unit scale


class PatchDiscriminator(ModelMixin, ConfigMixin):
    """Logits of small patches: the larger, the more real."""

    @register_to_config
    def __init__(
        self,
        scale: int = 4,  # high over low resolution
        channels: Sequence[int] = (96, 96, 192, 192),
        prompt_dim: int = 0,  # of the embedding of the prompt; 0: it is not shown
        image_channels: int = 3,
    ):
        super().__init__()
        self.scale, self.prompt_dim = scale, prompt_dim
        inputs = [2 * image_channels * scale**2 + prompt_dim, *channels]
        strides = [1, 1, 2, *[1] * len(channels)]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=stride, padding=1)
            for a, b, stride in zip(inputs, channels, strides, strict=False)
        )
        self.head = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, image: Tensor, y: Tensor, prompt: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Judge images (B, 3, H, W) beside their bicubic enlargements y, both in [-1, 1].

        prompt: (B, prompt_dim), None: zeros. Returns logits (B, 1, h, w) and the features of each layer.
        """
        parts = [F.pixel_unshuffle(RESIDUAL_GAIN * (image - y), self.scale), F.pixel_unshuffle(y, self.scale)]
        if self.prompt_dim:
            height, width = parts[0].shape[-2:]
            prompt = y.new_zeros(len(y), self.prompt_dim) if prompt is None else prompt.to(y)
            parts.append(prompt[:, :, None, None].expand(-1, -1, height, width))
        h = torch.cat(parts, dim=1).contiguous(memory_format=torch.channels_last)
        features = []
        for conv in self.convs:
            h = F.leaky_relu(conv(h), 0.2)
            features.append(h)
        return self.head(h), features
