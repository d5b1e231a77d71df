"""Swin transformer layer of ResShift's UNet, on (B, C, H, W) feature maps.

Papers: Swin Transformer (2103.14030), ResShift (2307.12348). Reference: BasicLayer of zsyOAOA/ResShift
models/swin_transformer.py, whose parameter names are kept. Differences from the canonical Swin layer, all of which the
published weights need: normalisation is GroupNorm over the whole feature map, the MLP is made of 1x1 convolutions,
nothing is added around the layer, and the mask of shifted windows is another one (`shifted_window_mask`).
Differences from the reference: position index and mask are not part of the state dict, and the mask, which touches the
last row of windows only, is never built for a whole feature map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.attention import attention
from resdiff.models.norm import GroupNorm32


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for every token pair of a window, (window^2, window^2) int64; Swin Transformer, section 3.2.

    (row_q - row_k + window - 1) * (2 window - 1) + (col_q - col_k + window - 1), tokens in row-major order.
    """
    tokens = torch.arange(window * window)
    row, col = tokens // window, tokens % window
    d_row = row[:, None] - row[None, :] + window - 1
    d_col = col[:, None] - col[None, :] + window - 1
    return d_row * (2 * window - 1) + d_col


def wrapped_column_mask(window: int, shift: int) -> Tensor:
    """Logit bias inside one masked window, (window^2, window^2): -100 where one token of a pair, not both, is wrapped.

    Wrapped are the tokens of the last `shift` columns.
    """
    wrapped = torch.arange(window * window) % window >= window - shift
    return torch.where(wrapped[:, None] != wrapped[None, :], -100.0, 0.0)


def shifted_window_mask(height: int, width: int, window: int, shift: int) -> Tensor:
    """Mask of the reference for a (height, width) map, (nW, window^2, window^2) with windows in row-major order.

    Not the mask of the Swin paper: only the LAST ROW of windows is masked, by column. Pixels wrapped horizontally
    attend freely elsewhere, rows wrapped vertically are never separated. A quirk of the reference's indexing with which
    the published weights were trained: changes numbers.
    """
    mask = torch.zeros(height // window, width // window, window**2, window**2)
    mask[-1] = wrapped_column_mask(window, shift)
    return mask.flatten(0, 1)


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of `window` x `window` pixels with a learnt relative position bias."""

    wrap_mask: Tensor
    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, num_heads: int, shift: int) -> None:
        super().__init__()
        self.window, self.num_heads, self.shift = window, num_heads, shift
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.register_buffer("relative_position_index", relative_position_index(window), persistent=False)
        self.register_buffer("wrap_mask", wrapped_column_mask(window, shift), persistent=False)

    def position_bias(self) -> Tensor:
        """Relative position bias, (1, heads, window^2, window^2)."""
        return self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).unsqueeze(0)

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        ws, heads = self.window, self.num_heads
        rows, cols = height // ws, width // ws

        x = x.permute(0, 2, 3, 1)  # (B, H, W, C)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        # Window rows lead, so that the last one, which the mask of shifted windows touches, is a slice.
        x = x.reshape(b, rows, ws, cols, ws, c).permute(1, 0, 3, 2, 4, 5)  # (rows, B, cols, ws, ws, C)
        qkv = self.qkv(x.reshape(-1, ws * ws, c))  # (rows*B*cols, ws*ws, 3C)
        q, k, v = (
            qkv.unflatten(-1, (3, heads, c // heads)).permute(2, 0, 3, 1, 4).unbind(0)
        )  # (.., heads, ws*ws, C/heads)

        bias = self.position_bias()
        if self.shift:
            last = b * cols
            x = attention(q[-last:], k[-last:], v[-last:], bias + self.wrap_mask).transpose(1, 2)
            if rows > 1:
                above = attention(q[:-last], k[:-last], v[:-last], bias).transpose(1, 2)
                x = torch.cat([above, x])
        else:
            x = attention(q, k, v, bias).transpose(1, 2)  # (rows*B*cols, ws*ws, heads, C/heads)

        x = self.proj(x.flatten(2))
        x = x.reshape(rows, b, cols, ws, ws, c).permute(1, 0, 3, 2, 4, 5).reshape(b, height, width, c)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x.permute(0, 3, 1, 2)


class Mlp(nn.Module):
    """Pointwise two-layer perceptron, exact-erf GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """x + Attn(GN(x)), then x + MLP(GN(x))."""

    def __init__(self, dim: int, num_heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm32(dim)
        self.attn = WindowAttention(dim, window, num_heads, shift)
        self.norm2 = GroupNorm32(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchProjection(nn.Module):
    """1x1 convolution into or out of the embedding, with an optional norm."""

    def __init__(self, in_channels: int, out_channels: int, norm: bool) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, out_channels, 1)
        self.norm = GroupNorm32(out_channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x))


class SwinLayer(nn.Module):
    """Embed, `depth` Swin blocks (odd ones shifted by half a window), project back; replaces the features it is given.

    (B, in_channels, H, W) -> the same shape; H and W must be multiples of `self.window`, which `SwinUNet` checks.

    Raises:
        ValueError: `embed_dim` is not a multiple of `num_heads`.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        num_heads: int,
        depth: int,
        resolution: int,  # side of the feature map in training: at or below window_size, one window and no shift
        window_size: int,
        mlp_ratio: float,
        patch_norm: bool,  # GroupNorm after both projections
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim is {embed_dim}, not a multiple of num_heads {num_heads}; change one of them")
        self.window = min(window_size, resolution)
        shift = window_size // 2 if resolution > window_size else 0
        self.patch_embed = PatchProjection(in_channels, embed_dim, patch_norm)
        self.blocks = nn.ModuleList(
            SwinBlock(embed_dim, num_heads, self.window, shift if i % 2 else 0, mlp_ratio) for i in range(depth)
        )
        self.patch_unembed = PatchProjection(embed_dim, in_channels, patch_norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for block in self.blocks:
            x = block(x)
        return self.patch_unembed(x)
