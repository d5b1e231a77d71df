"""Blocks of the convolutional UNets that descend from guided diffusion (2105.05233) by way of latent diffusion.

Shared by the Swin UNet (ResShift, SinSR) and the time-aware encoder (StableSR), under the names of parameters that
their checkpoints have. Reference: zsyOAOA/ResShift models/unet.py, IceClear/StableSR
ldm/modules/diffusionmodules/openaimodel.py and util.py.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.models.norm import GroupNorm32


def sinusoidal_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Embed timesteps (B,) as [cos | sin] of t * exp(-ln(10000) i / half), (B, dim) float32; zero column if odd."""
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) * index / half)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


class Downsample(nn.Module):
    """Halve the resolution by a 3x3 convolution of stride 2 if `learnt`, else by averaging."""

    def __init__(self, in_channels: int, out_channels: int, learnt: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1) if learnt else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Residual block modulated by the time embedding; `resize` acts on both branches, before the first convolution."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_dim: int,
        dropout: float,
        use_scale_shift_norm: bool,  # the embedding scales and shifts the second norm; False: it is added before it
        resize: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.use_scale_shift_norm = use_scale_shift_norm
        self.resize = resize
        self.in_layers = nn.Sequential(
            GroupNorm32(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_dim, 2 * out_channels if use_scale_shift_norm else out_channels)
        )
        self.out_layers = nn.Sequential(
            # one group a channel where 32 do not fit: as in StableSR, whose encoder may return any width
            nn.GroupNorm(out_channels, out_channels) if out_channels % 32 else GroupNorm32(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )
        for parameter in self.out_layers[-1].parameters():
            nn.init.zeros_(parameter)
        changes = in_channels != out_channels
        self.skip_connection = nn.Conv2d(in_channels, out_channels, 1) if changes else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm_in, act_in, conv_in = self.in_layers
        h = act_in(norm_in(x))
        if self.resize is not None:
            h, x = self.resize(h), self.resize(x)
        h = conv_in(h)

        emb = self.emb_layers(emb)[:, :, None, None]
        norm_out, *rest = self.out_layers
        if self.use_scale_shift_norm:
            scale, shift = emb.chunk(2, dim=1)
            h = torch.addcmul(shift, norm_out(h), 1 + scale)
        else:
            h = norm_out(h + emb)
        for layer in rest:
            h = layer(h)
        return self.skip_connection(x) + h


class Stage(nn.ModuleList):
    """Layers run in order; residual blocks also get the time embedding. `skip` is concatenated to the input."""

    def forward(self, h: Tensor, emb: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            h = torch.cat([h, skip], dim=1)
        for layer in self:
            h = layer(h, emb) if isinstance(layer, ResBlock) else layer(h)
        return h
