"""Swin Transformer (2103.14030) as an image encoder: patches in, the tokens of the last stage out.

Reference: microsoft/Swin-Transformer, in the form that RAM uses (xinyu1205/recognize-anything
ram/models/swin_transformer.py), whose parameter names are kept. This is the canonical Swin; the layer of ResShift's
UNet in `resdiff.models.swin` is another one. Differences from the reference: nothing is classified, dropout and drop
path are left out, and position index and mask are formed when the encoder runs. They are no buffers, so there is
nothing of them to load, to cast or to lose.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.attention import attention
from resdiff.models.swin import relative_position_index

MASKED = -100.0  # added to the logits of pairs that were not neighbours before the shift


def region_mask(resolution: int, window: int, shift: int, device: torch.device | None = None) -> Tensor:
    """Logit bias of the shifted windows of a square map, (nW, window^2, window^2), windows in row-major order.

    Section 3.2 of the paper: after the cyclic shift the last windows hold pixels of up to four regions of the map;
    pairs from different regions get -100.
    """
    side = torch.arange(resolution, device=device)
    band = (side >= resolution - window).long() + (side >= resolution - shift).long()  # 0, 1, 2 along an axis
    windows = into_windows((3 * band[:, None] + band[None, :])[None, :, :, None], window).squeeze(-1)  # (nW, w*w)
    return torch.where(windows[:, :, None] != windows[:, None, :], MASKED, 0.0)


def into_windows(x: Tensor, window: int) -> Tensor:
    """Cut maps (B, H, W, C) into windows (B * nW, window^2, C), in row-major order."""
    b, height, width, c = x.shape
    x = x.reshape(b, height // window, window, width // window, window, c)
    return x.transpose(2, 3).reshape(-1, window * window, c)


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put windows (B * nW, window^2, C) together again: (B, height, width, C), the inverse of `into_windows`."""
    x = windows.reshape(-1, height // window, width // window, window, window, windows.shape[2])
    return x.transpose(2, 3).reshape(-1, height, width, windows.shape[2])


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learnt bias for every relative position."""

    def __init__(self, dim: int, window: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        """x: (B * nW, N, C). index: (N, N), rows of the bias table. mask: (nW, N, N) or None."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B*nW, heads, N, C/heads)
        bias = self.relative_position_bias_table[index].permute(2, 0, 1).unsqueeze(0)  # (1, heads, N, N)
        if mask is not None:
            bias = (bias + mask.to(bias.dtype)[:, None]).repeat(len(x) // len(mask), 1, 1, 1)  # (B*nW, heads, N, N)
        return self.proj(attention(q, k, v, bias).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two-layer perceptron on every token, exact-erf GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """x + Attn(LN(x)), then x + MLP(LN(x)), on maps (B, H, W, C) (Figure 3b)."""

    def __init__(self, dim: int, num_heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, window, num_heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor, index: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm1(x)
        if self.shift:
            h = h.roll((-self.shift, -self.shift), dims=(1, 2))
        h = self.attn(into_windows(h, self.window), index, mask if self.shift else None)
        h = from_windows(h, self.window, x.shape[1], x.shape[2])
        if self.shift:
            h = h.roll((self.shift, self.shift), dims=(1, 2))
        x = x + h
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Halve the sides and double the channels: (B, H, W, C) -> (B, H/2, W/2, 2C) (section 3.1)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = x[:, 0::2], x[:, 1::2]
        x = torch.cat([top[:, :, 0::2], bottom[:, :, 0::2], top[:, :, 1::2], bottom[:, :, 1::2]], dim=-1)
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Blocks at one resolution, every second one with shifted windows, then patch merging if another stage follows."""

    def __init__(
        self,
        dim: int,
        depth: int,
        num_heads: int,
        resolution: int,  # side of the map
        window_size: int,
        mlp_ratio: float,
        merges: bool,
    ) -> None:
        super().__init__()
        self.resolution = resolution
        self.window = min(window_size, resolution)
        self.shift = window_size // 2 if resolution > window_size else 0  # a single window is not shifted
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, self.window, self.shift if i % 2 else 0, mlp_ratio) for i in range(depth)
        )
        self.downsample = PatchMerging(dim) if merges else None

    def forward(self, x: Tensor) -> Tensor:
        index = relative_position_index(self.window).to(x.device)
        mask = region_mask(self.resolution, self.window, self.shift, x.device) if self.shift else None
        for block in self.blocks:
            x = block(x, index, mask)
        return x if self.downsample is None else self.downsample(x)


class PatchEmbed(nn.Module):
    """Images (B, 3, S, S) -> one token per patch, (B, S/patch, S/patch, C), normalised."""

    def __init__(self, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, stride=patch_size)
        self.norm = nn.LayerNorm(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


class SwinEncoder(nn.Module):
    """Square images of one size -> tokens, their mean in front; the arguments of Swin-L at 384 px are RAM's defaults.

    Raises:
        ValueError: the sizes do not fit: patches, windows and merging must divide every stage evenly, and heads the
            channels.
    """

    def __init__(
        self,
        image_res: int,  # side of the images
        patch_size: int,
        embed_dim: int,  # channels of the first stage; each further one has twice as many
        depths: Sequence[int],  # blocks per stage
        num_heads: Sequence[int],  # per stage
        window_size: int,  # side of a window in patches; a stage below that is one window
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        if len(depths) != len(num_heads):
            raise ValueError(
                f"depths {list(depths)} and num_heads {list(num_heads)} differ in length; give one per stage"
            )
        divisor = patch_size * 2 ** (len(depths) - 1)
        if image_res % divisor:
            raise ValueError(f"image_res is {image_res}; {len(depths)} stages need a multiple of {divisor}")
        self.image_res = image_res
        self.patch_embed = PatchEmbed(patch_size, embed_dim)
        self.layers = nn.ModuleList()
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            dim, resolution = embed_dim * 2**i, image_res // patch_size // 2**i
            if resolution % min(window_size, resolution) or dim % heads:
                raise ValueError(
                    f"stage {i} has {dim} channels on {resolution}x{resolution} patches; choose num_heads and "
                    f"window_size that divide them, not {heads} and {window_size}"
                )
            merges = i < len(depths) - 1
            self.layers.append(Stage(dim, depth, heads, resolution, window_size, mlp_ratio, merges))
        self.norm = nn.LayerNorm(embed_dim * 2 ** (len(depths) - 1))

    def forward(self, images: Tensor) -> Tensor:
        """Encode images (B, 3, image_res, image_res), normalised by ImageNet's mean and deviation.

        Returns:
            (B, 1 + N, C): the mean of the N tokens of the last stage, then these tokens in row-major order.

        Raises:
            ValueError: the images have another size.
        """
        side = self.image_res
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, side, side):
            raise ValueError(
                f"images are {tuple(images.shape)}; resize them to (B, 3, {side}, {side}): tagger_input does"
            )
        x = self.patch_embed(images)
        for stage in self.layers:
            x = stage(x)
        tokens = self.norm(x).flatten(1, 2)  # (B, N, C)
        return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
