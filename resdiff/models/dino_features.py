"""`DinoFeatures`: what a frozen vision transformer sees of an image, at several depths, for a discriminator to judge.

As in StyleGAN-T (2301.09515) and, from it, AddSR (2404.01717): the class token is added to that of every patch, and the
embedded patches are a feature as well. Written from a description.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.models.ram import IMAGENET_MEAN, IMAGENET_STD
from resdiff.models.vision_transformer import VisionTransformer


class DinoFeatures(nn.Module):
    """Features of one image as a list of (B, C, N), N patches; gradients reach the image, not the transformer."""

    def __init__(
        self,
        vit: VisionTransformer,
        blocks: Sequence[int] = (2, 5, 8, 11),  # indices, ascending; the embedded patches come last in the list
    ) -> None:
        super().__init__()
        self.vit = vit.eval().requires_grad_(False)
        self.blocks = tuple(blocks)
        self.dims = (vit.config["embed_dim"],) * (len(self.blocks) + 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        """image: (B, 3, H, W) RGB in [-1, 1], resized by area to the size that the transformer was trained at."""
        image = F.interpolate(image / 2 + 0.5, (self.vit.image_size,) * 2, mode="area")
        mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        embedded, *states = self.vit.hidden_states((image - mean) / std)
        tokens = [*(states[i] for i in self.blocks), embedded]
        return [(x[:, 1:] + x[:, :1]).mT for x in tokens]
