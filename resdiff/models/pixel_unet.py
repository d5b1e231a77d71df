"""`PixelUNet`: the small backbone of the bundled model, a convolutional U-Net on space-to-depth pixels.

Residual shifting in pixel space at the cost of the low resolution: the noisy high-resolution image is folded by
`scale` into channels, the low-resolution image is concatenated, and everything runs at its size. The output is the
residual y - x_0 (prediction type "residual"), y the bicubic upsampling. The last convolution starts at zero, so an
untrained network is bicubic interpolation.

Norms are over the channels of one pixel and nothing attends globally: the receptive field is bounded, and a tile with
a halo of `receptive_radius` gives exactly the pixels of the whole image. Blocks are ConvNeXt-like (2201.03545) with
dense convolutions, which run 2.4 times faster than depthwise ones on a CPU at equal arithmetic.
"""

import math
from collections.abc import Iterable
from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.models.network import NetworkMixin

RESIDUAL_STD = 0.25  # of y - x_0 in natural photos, images in [-1, 1]; keeps the network's own output near unit scale


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Return sinusoids [cos | sin] of the step indices, (B,) -> (B, dim), float32; dim even."""
    half = dim // 2
    frequencies = torch.exp(-math.log(100.0) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def start_at_zero(layer: nn.Module) -> None:
    """Set every parameter of `layer` to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class PixelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel; free of copies on channels_last tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PixelBlock(nn.Module):
    """x + conv(gelu(conv(norm(x) * (1 + scale) + shift))), scale and shift from the time embedding."""

    def __init__(self, channels: int, embed_dim: int):
        super().__init__()
        self.norm = PixelNorm(channels)
        self.film = nn.Linear(embed_dim, 2 * channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        start_at_zero(self.film)
        start_at_zero(self.conv2)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        h = torch.addcmul(shift, self.norm(x), 1 + scale)
        return x + self.conv2(F.gelu(self.conv1(h)))


class PixelUNet(NetworkMixin, ModelMixin, ConfigMixin):
    """Network of the bundled residual-shifting model; see the module docstring.

    Raises ValueError when the low-resolution sides are not multiples of `size_multiple`.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["PixelBlock"]  # noqa: RUF012 (diffusers reads plain lists)
    _no_split_modules = ["PixelBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm", "time_embed", "^conv_in$", "^conv_out$"]  # noqa: RUF012
    _group_offload_block_modules = ["down_blocks", "up_blocks"]  # noqa: RUF012 (lists of lists: their blocks are called)

    @register_to_config
    def __init__(
        self,
        scale: int = 4,  # high over low resolution
        channels: tuple[int, ...] = (64, 128, 256),  # per level; each level halves the size
        num_blocks: tuple[int, ...] = (3, 2, 2),  # per level, on the way down and again on the way up
        embed_dim: int = 256,  # of the time embedding
        image_channels: int = 3,
    ):
        super().__init__()
        if len(channels) != len(num_blocks):
            raise ValueError(f"channels={channels} and num_blocks={num_blocks} must name the same number of levels")
        if min(channels) < 1 or min(num_blocks) < 1:
            raise ValueError(f"channels={channels} and num_blocks={num_blocks} must be positive")
        self.gradient_checkpointing = False
        self.scale = scale
        self.size_multiple = 2 ** (len(channels) - 1)  # of the low-resolution sides
        self.receptive_radius = receptive_radius(num_blocks)
        folded = image_channels * scale**2
        self.time_embed = nn.Sequential(nn.Linear(64, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim), nn.SiLU())
        self.conv_in = nn.Conv2d(folded + image_channels, channels[0], 3, padding=1)
        *outer, inner = [(c, n) for c, n in zip(channels, num_blocks, strict=True)]
        self.down_blocks = nn.ModuleList(stage(c, n, embed_dim) for c, n in outer)
        self.mid_blocks = stage(inner[0], inner[1], embed_dim)
        self.up_blocks = nn.ModuleList(stage(c, n, embed_dim) for c, n in outer)
        wider = list(pairwise(channels))
        self.downsamplers = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in wider)
        self.upsamplers = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in wider)
        self.norm_out = PixelNorm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], folded, 3, padding=1)
        start_at_zero(self.conv_out)

    @apply_forward_hook
    def embed(self, timesteps: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Embed timesteps (T,) once for many calls of `forward`: (T, embed_dim), None: in the network's dtype."""
        return self.time_embed(timestep_embedding(timesteps, 64).to(dtype or self.dtype))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None,
        lq: Tensor,
        mask: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """Predict the residual y - x_0.

        x: (B, 3, H, W) scaled noisy image; timesteps: (B,); lq: (B, 3, H / scale, W / scale) in [-1, 1];
        mask: must be None, the family's inpainting models take one; embedding: rows of `embed`, (B, embed_dim) or
        (1, embed_dim) for all, and then timesteps are not looked at. Returns (B, 3, H, W) in x's dtype.
        """
        height, width = lq.shape[-2:]
        if mask is not None:
            raise ValueError("mask is for inpainting models; this one takes none")
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"lq is {height}x{width}; both sides must be multiples of {self.size_multiple}, pad it first"
            )
        if embedding is None:
            embedding = self.embed(timesteps, x.dtype)

        h = torch.cat([F.pixel_unshuffle(x, self.scale), lq], dim=1)  # (B, 3 scale^2 + 3, h, w)
        h = self.conv_in(h.contiguous(memory_format=torch.channels_last))
        skips = []
        for blocks, downsample in zip(self.down_blocks, self.downsamplers, strict=True):
            h = self._run(blocks.children(), h, embedding)
            skips.append(h)
            h = downsample(h)
        h = self._run(self.mid_blocks.children(), h, embedding)
        for blocks, upsample in zip(reversed(self.up_blocks), reversed(self.upsamplers), strict=True):
            h = F.pixel_shuffle(upsample(h), 2) + skips.pop()
            h = self._run(blocks.children(), h.contiguous(memory_format=torch.channels_last), embedding)
        return F.pixel_shuffle(RESIDUAL_STD * self.conv_out(self.norm_out(h)), self.scale)

    def _run(self, blocks: Iterable[nn.Module], h: Tensor, embedding: Tensor) -> Tensor:
        for block in blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                h = self._gradient_checkpointing_func(block, h, embedding)
            else:
                h = block(h, embedding)
        return h


def stage(channels: int, num_blocks: int, embed_dim: int) -> nn.ModuleList:
    """Return the blocks of one level."""
    return nn.ModuleList(PixelBlock(channels, embed_dim) for _ in range(num_blocks))


def receptive_radius(num_blocks: tuple[int, ...]) -> int:
    """Return the low-resolution pixels beyond which the input cannot change an output pixel.

    Two 3x3 convolutions a block, 2^level pixels each, on both ways but once at the bottom; one at either end; and an
    output pixel may lie anywhere in its coarsest cell. Rounded up to a multiple of that cell.
    """
    *outer, inner = num_blocks
    cell = 2 ** len(outer)
    convolutions = sum(2 * 2 * n * 2**level for level, n in enumerate(outer)) + 2 * inner * cell
    return math.ceil((2 + convolutions + 2 * cell) / cell) * cell
