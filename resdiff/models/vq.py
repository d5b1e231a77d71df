"""VQAutoencoder: the VQGAN (2012.09841) whose latent space ResShift and SinSR work in.

Reference: VQModelTorch of zsyOAOA/ResShift ldm/models/autoencoder.py with ldm/modules/diffusionmodules/model.py and
ldm/modules/vqvae/quantize.py; parameter names are kept, so its state dicts load as they are. Differences: attention
runs through `resdiff.attention`, codes and their distances are float32 in every precision and distances are formed for
a part of the positions at a time, the straight-through gradient is always there (SinSR switches it on by
`grad_forward`).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.attention import attention
from resdiff.models.network import NetworkMixin
from resdiff.models.norm import GroupNorm32

NORM_EPS = 1e-6  # of every norm here; the UNet has 1e-5
DISTANCES_AT_ONCE = 2**24  # (position, code) pairs: 64 MiB


def nearest_codes(z: Tensor, codebook: Tensor) -> Tensor:
    """Find argmin_j |z_i - e_j|^2 for z (N, D) and codebook (K, D), both float32: (N,) int64.

    |z_i|^2 does not depend on j and is left out.
    """
    e_squared = codebook.square().sum(dim=1)
    rows = max(1, DISTANCES_AT_ONCE // codebook.shape[0])
    return torch.cat([torch.addmm(e_squared, part, codebook.T, alpha=-2.0).argmin(dim=1) for part in z.split(rows)])


class Codebook(nn.Embedding):
    """Embedding that stays float32 when its network is cast by `.to(dtype)`, `.half()`, ...: rounded codes are others."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


class VectorQuantizer(nn.Module):
    """Replace every latent vector by its nearest code, with the straight-through gradient (VQ-VAE, 1711.00937)."""

    beta = 0.25  # weight of the codebook term: the reference's `legacy` order, changes the loss

    def __init__(self, n_embed: int, embed_dim: int) -> None:
        super().__init__()
        self.embedding = Codebook(n_embed, embed_dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_embed, 1 / n_embed)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise z (B, embed_dim, h, w).

        Returns:
            z_q like z (gradient of z_q passes to z unchanged), the scalar loss
            mean((sg[z_q] - z)^2) + beta mean((z_q - sg[z])^2) in float32, and the code indices (B, h, w) int64.
        """
        b, c, height, width = z.shape
        with torch.autocast(z.device.type, enabled=False):
            exact = z.float()
            # Asked for by a call, as all weights: where networks are offloaded, calls are what brings weights in.
            codebook = self.embedding(torch.arange(self.embedding.num_embeddings, device=z.device)).float()
            vectors = exact.detach().permute(0, 2, 3, 1).reshape(-1, c)  # (B*h*w, D)
            indices = nearest_codes(vectors, codebook.detach()).view(b, height, width)
            z_q = F.embedding(indices, codebook).permute(0, 3, 1, 2)  # (B, D, h, w)
            loss = (z_q.detach() - exact).square().mean() + self.beta * (z_q - exact.detach()).square().mean()
            z_q = exact + (z_q - exact).detach()
        return z_q.to(z.dtype), loss, indices


class ResnetBlock(nn.Module):
    """GN, SiLU, conv3x3, twice, added to the input."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = GroupNorm32(in_channels, NORM_EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm32(out_channels, NORM_EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        changes = in_channels != out_channels
        self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + self.nin_shortcut(x)


class AttnBlock(nn.Module):
    """Single-head attention over all positions, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm32(channels, NORM_EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # Channels last, so that tokens are contiguous as the fused kernels ask: else all position pairs are in memory.
        h = self.norm(x).contiguous(memory_format=torch.channels_last)
        q, k, v = (
            layer(h).flatten(2).transpose(1, 2).unsqueeze(1).contiguous() for layer in (self.q, self.k, self.v)
        )  # (B, 1, h*w, C)
        h = attention(q, k, v).squeeze(1).transpose(1, 2).unflatten(2, x.shape[-2:])
        return x + self.proj_out(h)


class Downsample(nn.Module):
    """Halve the resolution: 3x3 convolution of stride 2, zero padding on the right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the resolution: nearest, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if `attends`, then resampling if asked for."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        blocks: int,
        attends: bool,
        dropout: float,
        *,
        downsample: bool = False,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(in_channels if i == 0 else channels, channels, dropout) for i in range(blocks)
        )
        self.attn = nn.ModuleList(AttnBlock(channels) if attends else nn.Identity() for _ in range(blocks))
        self.downsample = Downsample(channels) if downsample else nn.Identity()
        self.upsample = Upsample(channels) if upsample else nn.Identity()

    def forward(self, h: Tensor) -> Tensor:
        for block, attn in zip(self.block, self.attn, strict=True):
            h = attn(block(h))
        return self.upsample(self.downsample(h))


class Mid(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, dropout)
        self.attn_1 = AttnBlock(channels)
        self.block_2 = ResnetBlock(channels, channels, dropout)

    def forward(self, h: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(h)))


class Encoder(nn.Module):
    """Image (B, in_channels, H, W) -> (B, z_channels, H / factor, W / factor)."""

    def __init__(
        self,
        in_channels: int,
        z_channels: int,
        ch: int,
        widths: list[int],  # channels per level, full resolution first
        blocks: list[int],  # residual blocks per level
        attends: list[bool],  # attention per level
        dropout: float,
    ) -> None:
        super().__init__()
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(in_channels, ch, 3, padding=1)
        self.down = nn.ModuleList(
            Level(before, width, blocks[i], attends[i], dropout, downsample=i < last)
            for i, (before, width) in enumerate(pairwise([ch, *widths]))
        )
        self.mid = Mid(widths[-1], dropout)
        self.norm_out = GroupNorm32(widths[-1], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for level in self.down:
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """(B, z_channels, h, w) -> image (B, out_ch, h * factor, w * factor), not clamped."""

    def __init__(
        self,
        out_ch: int,
        z_channels: int,
        widths: list[int],  # channels per level, full resolution first
        blocks: list[int],  # residual blocks per level; the decoder has one more
        attends: list[bool],  # attention per level
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(z_channels, widths[-1], 3, padding=1)
        self.mid = Mid(widths[-1], dropout)
        self.up = nn.ModuleList(  # up[i] is level i; run from the last to the first
            Level(deeper, width, blocks[i] + 1, attends[i], dropout, upsample=i > 0)
            for i, (width, deeper) in enumerate(pairwise([*widths, widths[-1]]))
        )
        self.norm_out = GroupNorm32(widths[0], NORM_EPS)
        self.conv_out = nn.Conv2d(widths[0], out_ch, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        h = self.mid(self.conv_in(h))
        for level in reversed(self.up):
            h = level(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class VQAutoencoder(NetworkMixin, ModelMixin, ConfigMixin):
    """Autoencoder with a learnt codebook; the defaults are autoencoder_vq_f4 (factor 4, 55,322,782 parameters).

    The latent that diffusion works on is the one BEFORE quantisation; `decode` quantises.

    Raises:
        ValueError: `num_res_blocks` has another length than `ch_mult`, or a width is not a multiple of 32.
    """

    _no_split_modules: ClassVar[list[str]] = ["ResnetBlock", "AttnBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["ResnetBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["norm", "quantize", "conv_in$", "conv_out$"]
    _keep_in_fp32_modules: ClassVar[list[str]] = ["quantize"]
    # Called apart from `forward`, so each has its own group.
    _group_offload_block_modules: ClassVar[list[str]] = [
        "encoder", "quant_conv", "quantize", "post_quant_conv", "decoder",
    ]  # fmt: skip

    @register_to_config
    def __init__(
        self,
        ch: int = 128,
        ch_mult: Sequence[int] = (1, 2, 4),  # channels per level in units of ch
        num_res_blocks: int | Sequence[int] = 2,  # per level; the decoder has one more
        z_channels: int = 3,
        embed_dim: int = 3,  # channels of the latent
        n_embed: int = 8192,  # codes
        in_channels: int = 3,
        out_ch: int = 3,
        resolution: int = 256,  # image side in training; with attn_resolutions it decides which levels attend
        attn_resolutions: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        levels = len(ch_mult)
        blocks = [num_res_blocks] * levels if isinstance(num_res_blocks, int) else list(num_res_blocks)
        if len(blocks) != levels:
            raise ValueError(f"num_res_blocks is {blocks} but ch_mult has {levels} levels; give one per level")
        widths = [ch * mult for mult in ch_mult]
        self.factor = 2 ** (levels - 1)  # side of the image over side of the latent
        # The encoder halves the resolution and rounds down, the decoder doubles what is left: not the same sides where
        # `resolution` is not a multiple of `factor`. As in the reference: changes parameters.
        lowest = resolution // self.factor
        attends_down = [resolution // 2**i in attn_resolutions for i in range(levels)]
        attends_up = [lowest * 2 ** (levels - 1 - i) in attn_resolutions for i in range(levels)]
        self.encoder = Encoder(in_channels, z_channels, ch, widths, blocks, attends_down, dropout)
        self.decoder = Decoder(out_ch, z_channels, widths, blocks, attends_up, dropout)
        self.quantize = VectorQuantizer(n_embed, embed_dim)
        self.quant_conv = nn.Conv2d(z_channels, embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(embed_dim, z_channels, 1)

    @apply_forward_hook
    def encode(self, x: Tensor) -> Tensor:
        """Encode images in [-1, 1], (B, in_channels, H, W), to (B, embed_dim, H / factor, W / factor), not quantised.

        Raises:
            ValueError: H or W is not a multiple of `factor`.
        """
        if x.shape[-2] % self.factor or x.shape[-1] % self.factor:
            raise ValueError(f"x is {x.shape[-2]}x{x.shape[-1]}; pad both sides to multiples of {self.factor}")
        return self.quant_conv(self.encoder(x))

    @apply_forward_hook
    def decode(self, h: Tensor, force_not_quantize: bool = False) -> Tensor:
        """Decode latents (B, embed_dim, h, w) to images in about [-1, 1], (B, out_ch, h * factor, w * factor).

        The latent is replaced by its nearest codes first, unless `force_not_quantize`; gradients pass straight through.
        A float32 latent is quantised before it is rounded to the network's dtype.
        """
        if not force_not_quantize:
            h, _, _ = self.quantize(h)
        return self.decoder(self.post_quant_conv(h.to(self.dtype)))

    def forward(self, x: Tensor, force_not_quantize: bool = False) -> Tensor:
        """Reconstruct images (B, in_channels, H, W) in [-1, 1]: decode(encode(x))."""
        return self.decode(self.encode(x), force_not_quantize)
