"""`ProjectedDiscriminator`: small heads on the features of a frozen network (2111.01007), the critic of AddSR.

AddSR (2404.01717) takes that of StyleGAN-T (2301.09515), with group norms in place of its virtual batch norms, and shows
it an embedding of the low-resolution image. Written from a description; the parameters are called as in AddSR. Which
network it looks through is not its business.
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm  # its parametrised successor iterates in another order: other numbers

GROUPS = 4


class EqualizedLinear(nn.Linear):
    """Linear layer whose weight, of unit variance, is scaled when it is used (1710.10196)."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight / math.sqrt(self.in_features), self.bias)


class Residual(nn.Module):
    """(fn(x) + x) / sqrt(2), which keeps the variance."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return (self.fn(x) + x) / math.sqrt(2)


def conv_block(channels: int, kernel_size: int) -> nn.Sequential:
    """Convolve along the tokens, which close to a ring; normalise; leaky ReLU. (B, C, N) -> (B, C, N)."""
    conv = nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2, padding_mode="circular")
    return nn.Sequential(spectral_norm(conv), nn.GroupNorm(GROUPS, channels), nn.LeakyReLU(0.2))


class Head(nn.Module):
    """Logits of tokens, the projection of what they show onto the condition (1802.05637)."""

    def __init__(self, channels: int, condition_dim: int, projection_dim: int) -> None:
        super().__init__()
        self.main = nn.Sequential(conv_block(channels, 1), Residual(conv_block(channels, 9)))
        self.cls = spectral_norm(nn.Conv1d(channels, projection_dim, 1))
        self.cmapper = EqualizedLinear(condition_dim, projection_dim)

    def forward(self, feature: Tensor, condition: Tensor) -> Tensor:
        """feature: (B, C, N), condition: (B, condition_dim). Returns (B, N)."""
        projection = self.cmapper(condition)[:, :, None]  # (B, D, 1)
        return (self.cls(self.main(feature)) * projection).sum(dim=1) / math.sqrt(projection.shape[1])


class Heads(nn.ModuleList):
    """One head for each feature: all that is trained of the discriminator, and called alone where it is trained."""

    def __init__(self, dims: Sequence[int], condition_dim: int, projection_dim: int) -> None:
        super().__init__(Head(dim, condition_dim, projection_dim) for dim in dims)

    def forward(self, features: Sequence[Tensor], condition: Tensor) -> list[Tensor]:
        """Return the logits (B, N) of each feature (B, C, N), for a condition (B, condition_dim)."""
        return [head(feature, condition) for head, feature in zip(self, features, strict=True)]


class ProjectedDiscriminator(nn.Module):
    """Logits of every token of every feature: the larger, the more real for this condition.

    Trained and saved are only the `heads`. In training mode each call refines their spectral norms; the features stay
    in evaluation mode.
    """

    def __init__(
        self,
        features: nn.Module,  # image -> list of (B, C, N); frozen here
        dims: Sequence[int],  # C of each feature, multiples of 4
        condition_dim: int = 384,  # DINOv2 ViT-S
        projection_dim: int = 64,
    ) -> None:
        super().__init__()
        self.features = features.eval().requires_grad_(False)
        self.heads = Heads(dims, condition_dim, projection_dim)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of the heads."""
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Judge images (B, 3, H, W), in the range that the features want, by a condition (B, condition_dim).

        Returns the logits of all features, (B, sum of N).
        """
        return torch.cat(self.heads(self.features(image), condition), dim=1)
