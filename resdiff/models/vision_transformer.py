"""`VisionTransformer` (2010.11929) as DINO (2104.14294) and DINOv2 (2304.07193) trained it: frozen features of images.

Parameter names are those of both published files. transformers' ViTModel and Dinov2Model resize the table of positions
to an exact grid, bicubic; the models whose judgements AddSR was trained on do otherwise, see `interpolation_offset`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from resdiff.attention import attention

NORM_EPS = 1e-6


class PatchEmbed(nn.Module):
    """Patches of an image, each projected linearly."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)  # (B, C, rows, columns)


class SelfAttention(nn.Module):
    """Queries, keys and values from one layer."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, N, 3, heads, C/heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with the exact GELU between them."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned gain for each channel (CaiT, 2103.17239), of DINOv2 only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention, then perceptron, both on normalised tokens and added to the tokens."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, num_heads)
        self.ls1 = LayerScale(dim) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.ls2 = LayerScale(dim) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))


class VisionTransformer(ModelMixin, ConfigMixin):
    """Tokens of images: a class token, then one for each patch, row by row. The defaults are DINO's ViT-S/16.

    Raises ValueError where `embed_dim` is not a multiple of `num_heads`, or `image_size` of `patch_size`.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 224,  # side whose patches the table of positions is for
        patch_size: int = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        layer_scale: bool = False,
        interpolation: Literal["bilinear", "bicubic"] = "bilinear",  # of positions, for images of another size
        interpolation_offset: float = 0.0,  # patches added to the grid in the scale of the resizing only; DINOv2: 0.1
    ):
        super().__init__()
        if embed_dim % num_heads or image_size % patch_size:
            raise ValueError(
                f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}, "
                f"and image_size={image_size} of patch_size={patch_size}"
            )
        self.image_size, self.patch_size = image_size, patch_size
        self.interpolation, self.interpolation_offset = interpolation, interpolation_offset
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + (image_size // patch_size) ** 2, embed_dim))
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, mlp_ratio, layer_scale) for _ in range(depth))
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)

    def positions(self, rows: int, columns: int) -> Tensor:
        """Return the table of positions for a grid of patches, (1, 1 + rows * columns, C)."""
        side = self.image_size // self.patch_size
        if (rows, columns) == (side, side):
            return self.pos_embed
        table = self.pos_embed[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        if self.interpolation_offset:  # moves the points that are sampled, by less than a patch
            scale = tuple((n + self.interpolation_offset) / side for n in (rows, columns))
            table = F.interpolate(table, scale_factor=scale, mode=self.interpolation)
        else:
            table = F.interpolate(table, (rows, columns), mode=self.interpolation)
        return torch.cat([self.pos_embed[:, :1], table.flatten(2).mT], dim=1)

    def embed(self, image: Tensor) -> Tensor:
        """Return the tokens before the first block, positions added; see `forward`."""
        height, width = image.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"image is {height}x{width}; resize it to multiples of {self.patch_size}")
        patches = self.patch_embed(image)
        positions = self.positions(*patches.shape[-2:])
        cls_token = self.cls_token.expand(len(image), -1, -1)
        return torch.cat([cls_token, patches.flatten(2).mT], dim=1) + positions

    def hidden_states(self, image: Tensor) -> list[Tensor]:
        """Return the embedded tokens and those behind each block, not normalised: depth + 1 tensors; see `forward`."""
        states = [self.embed(image)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def forward(self, image: Tensor) -> Tensor:
        """Return the normalised tokens (B, 1 + N, C) of images (B, 3, H, W), in whatever range the caller wants seen.

        Raises ValueError where a side is not a multiple of `patch_size`.
        """
        return self.norm(self.hidden_states(image)[-1])
