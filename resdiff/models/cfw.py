"""Controllable feature wrapping (StableSR, 2305.07015): a decoder that also sees the low-resolution image.

F_m = F_d + C(F_e, F_d) w: what a block computes from features of the VAE's encoder and decoder is added to the latter,
with a weight w in [0, 1] that is chosen when decoding. `resdiff.models.vae_features` runs it inside a stock
AutoencoderKL. Reference: IceClear/StableSR ldm/modules/diffusionmodules/model.py (Fuse_sft_block_RRDB, Decoder_Mix).
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Self, cast

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from resdiff.models.network import NetworkMixin

NORM_GROUPS = 32
GROWTH = 32  # channels that each convolution of a dense block adds
RESIDUAL_SCALE = 0.2  # of both residuals of an RRDB


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees the input and all before it (ESRGAN, 1809.00219, figure 4)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, GROWTH, 3, padding=1)
        self.conv2 = nn.Conv2d(channels + GROWTH, GROWTH, 3, padding=1)
        self.conv3 = nn.Conv2d(channels + 2 * GROWTH, GROWTH, 3, padding=1)
        self.conv4 = nn.Conv2d(channels + 3 * GROWTH, GROWTH, 3, padding=1)
        self.conv5 = nn.Conv2d(channels + 4 * GROWTH, channels, 3, padding=1)
        for x in self.parameters():
            if x.ndim == 1:
                nn.init.zeros_(x)
            else:  # a tenth of Kaiming's: "smaller initialization", section 3.1
                nn.init.normal_(x, std=0.1 * math.sqrt(2 / x[0].numel()))

    def convs(self) -> list[nn.Conv2d]:
        """The convolutions in order; a row of the output depends on as many rows above and below it."""
        return [self.conv1, self.conv2, self.conv3, self.conv4, self.conv5]

    def forward(self, x: Tensor) -> Tensor:
        *growing, last = self.convs()
        seen = [x]
        for conv in growing:
            seen.append(F.leaky_relu(conv(torch.cat(seen, dim=1)), 0.2))
        return x + RESIDUAL_SCALE * last(torch.cat(seen, dim=1))


class RRDB(nn.Module):
    """Three dense blocks and a residual around them (ESRGAN, figure 4)."""

    def __init__(self, channels: int):
        super().__init__()
        self.rdb1 = ResidualDenseBlock(channels)
        self.rdb2 = ResidualDenseBlock(channels)
        self.rdb3 = ResidualDenseBlock(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.rdb3(self.rdb2(self.rdb1(x)))


def resnet(in_channels: int, out_channels: int) -> ResnetBlock2D:
    """A residual block as the VAE's: GroupNorm, SiLU and convolution, twice."""
    return ResnetBlock2D(
        in_channels=in_channels, out_channels=out_channels, temb_channels=None, groups=NORM_GROUPS, eps=1e-6
    )


class FuseBlock(nn.Module):
    """C(F_e, F_d) at one resolution: residual block, RRDBs, residual block."""

    def __init__(
        self,
        channels: int,  # of either input and of the output
        num_fuse_block: int = 2,  # RRDBs
    ):
        super().__init__()
        self.encode_enc_1 = resnet(2 * channels, channels)
        self.encode_enc_2 = nn.Sequential(*(RRDB(channels) for _ in range(num_fuse_block)))
        self.encode_enc_3 = resnet(channels, channels)

    def forward(self, features: Tensor, h: Tensor) -> Tensor:
        """Return (B, C, H, W) from the encoder's features and the decoder's activation, (B, C, H, W) each."""
        c = self.encode_enc_1(torch.cat([features, h], dim=1), None)
        return self.encode_enc_3(self.encode_enc_2(c), None)


class ControllableFeatureWrapping(NetworkMixin, ModelMixin, ConfigMixin):
    """The fuse blocks of a VAE: one for each level of its decoder but the first (full resolution) and the last.

    Levels count from 0, full resolution; level k is 2^k times as small. The defaults fit Stable Diffusion's VAE
    (44,393,728 parameters).

    Raises:
        ValueError: there is no level, or a width that GroupNorm cannot divide into 32 groups.
    """

    _no_split_modules: ClassVar[list[str]] = ["FuseBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["ResidualDenseBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["norm"]

    @register_to_config
    def __init__(
        self,
        channels: Sequence[int] = (256, 512),  # of the VAE's levels 1, 2, ...
        num_fuse_block: int = 2,  # RRDBs of each block
    ):
        super().__init__()
        if not channels:
            raise ValueError("channels is empty; features are fused in a VAE of three levels or more")
        if any(width < 1 or width % NORM_GROUPS for width in channels):
            raise ValueError(f"channels is {list(channels)}; each must be a multiple of {NORM_GROUPS}")
        self.levels = range(1, len(channels) + 1)
        for level, width in zip(self.levels, channels, strict=True):
            self.add_module(f"fusion_layer_{level}", FuseBlock(width, num_fuse_block))

    @classmethod
    def for_vae(cls, vae: AutoencoderKL, num_fuse_block: int = 2) -> Self:
        """Build untrained fuse blocks of the sizes that a VAE needs; ValueError where there can be none."""
        return cls(tuple(vae.config.block_out_channels[1:-1]), num_fuse_block)

    def fusion_layer(self, level: int) -> FuseBlock:
        """Return the block of a level."""
        return cast(FuseBlock, self.get_submodule(f"fusion_layer_{level}"))

    def forward(self, features: Tensor, h: Tensor, level: int) -> Tensor:
        """Return C(F_e, F_d) of a level, (B, C, H, W), which is to be added to `h` with the weight w.

        features: the encoder's, h: the decoder's activation in front of its up-sampling, (B, C, H, W) both.
        """
        return self.fusion_layer(level)(features, h)


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename published parameters, `fusion_layer_2.encode_enc_1.conv_out.weight`, to ours: `conv_shortcut`."""
    return {name.replace(".conv_out.", ".conv_shortcut."): x for name, x in state.items()}
