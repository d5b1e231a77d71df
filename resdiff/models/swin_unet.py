"""SwinUNet: the denoising network of ResShift (2307.12348, 2403.07319) and SinSR (2311.14760).

Reference: UNetModelSwin of zsyOAOA/ResShift and wyf0912/SinSR models/unet.py. Constructor arguments and parameter names
are the reference's, so its state dicts load as they are, except for the buffers `attn_mask` and
`relative_position_index`, which are computed here. `lq_size` tells the two families apart (see `SwinUNet`).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.models.ldm_blocks import Downsample, ResBlock, Stage, sinusoidal_embedding
from resdiff.models.network import NetworkMixin
from resdiff.models.norm import GroupNorm32
from resdiff.models.swin import SwinLayer


class Upsample(nn.Module):
    """Nearest x2, then a 3x3 convolution if `learnt`."""

    def __init__(self, channels: int, learnt: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1) if learnt else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def condition_features(image_size: int, lq_size: int, cond_lq: bool, cond_mask: bool) -> tuple[nn.Sequential, int]:
    """Build the network that brings the LR image (and mask) to the latent's size, and count the channels it adds.

    One stage per halving: conv3x3, SiLU, strided conv3x3, widths 16 -> 32 -> ... None if the sizes are equal.
    """
    lq_channels = 4 if cond_mask else 3
    if cond_lq and lq_size == image_size:
        return nn.Sequential(), lq_channels
    stages = max(int(math.log2(lq_size / image_size)), 0)
    if cond_lq and lq_size != image_size * 2**stages:
        raise ValueError(f"lq_size is {lq_size}; it must be image_size ({image_size}) times a power of two")
    layers: list[nn.Module] = []
    for width in [16 * 2**i for i in range(stages)]:
        layers += [nn.Conv2d(lq_channels, width, 3, padding=1), nn.SiLU(), Downsample(width, 2 * width, learnt=True)]
        lq_channels = 2 * width
    # The channels are counted without cond_lq too, and must then come with x: as in the reference, changes shapes.
    return nn.Sequential(*layers), 16 * 2**stages


def latent_size_multiple(image_size: int, levels: int, attention_resolutions: Sequence[int], window_size: int) -> int:
    """Sides of the latent must be multiples of this for whole windows at every level with a Swin layer."""
    multiple = 2 ** (levels - 1)
    for level in range(levels):
        side = image_size // 2**level
        if side in attention_resolutions or level == levels - 1:  # the middle block always has one
            multiple = math.lcm(multiple, min(window_size, side) * 2**level)
    return multiple


class SwinUNet(NetworkMixin, ModelMixin, ConfigMixin):
    """UNet with one Swin layer per level that maps a scaled noisy latent, a timestep and the LR image to a latent.

    The defaults are the published ResShift x4 networks (118,593,583 parameters) but for `lq_size`.

    Raises:
        ValueError: the settings contradict each other, or widths do not fit 32 norm groups.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Stage"]
    _repeated_blocks: ClassVar[list[str]] = ["ResBlock", "SwinBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["norm", "time_embed", r"^input_blocks\.0", r"^out\."]

    @register_to_config
    def __init__(
        self,
        image_size: int = 64,  # side of the latent in training; decides where Swin windows are clipped
        in_channels: int = 3,
        model_channels: int = 160,
        out_channels: int = 3,
        num_res_blocks: int | Sequence[int] = (2, 2, 2, 2),  # per level
        attention_resolutions: Sequence[int] = (64, 32, 16, 8),  # latent sides (not factors) that get a Swin layer
        channel_mult: Sequence[float] = (1, 2, 2, 4),  # per level, times model_channels
        dropout: float = 0.0,
        conv_resample: bool = True,  # False: average pooling and plain nearest instead of convolutions
        num_heads: int = 1,  # used when num_head_channels is -1
        num_head_channels: int = 32,
        use_scale_shift_norm: bool = True,
        resblock_updown: bool = False,  # resample inside residual blocks
        swin_depth: int = 2,
        swin_embed_dim: int = 192,
        window_size: int = 8,
        mlp_ratio: float = 4.0,
        patch_norm: bool = False,
        cond_lq: bool = True,
        cond_mask: bool = False,  # an inpainting mask follows the LR image
        lq_size: int | None = None,  # side of the LR input in training; None: SinSR, in_channels counts the condition
    ) -> None:
        super().__init__()
        levels = len(channel_mult)
        blocks = [num_res_blocks] * levels if isinstance(num_res_blocks, int) else list(num_res_blocks)
        if len(blocks) != levels:
            raise ValueError(f"num_res_blocks is {blocks} but channel_mult has {levels} levels; give one per level")
        if image_size % 2 ** (levels - 1):
            raise ValueError(f"image_size is {image_size}; {levels} levels need a multiple of {2 ** (levels - 1)}")
        if cond_mask and (lq_size is None or not cond_lq):
            raise ValueError("cond_mask is True; a mask needs cond_lq=True and lq_size")

        widths = [int(mult * model_channels) for mult in channel_mult]
        self.model_channels, emb_dim = model_channels, 4 * model_channels
        heads = num_heads if num_head_channels == -1 else swin_embed_dim // num_head_channels
        if heads < 1:
            raise ValueError(
                f"num_heads {num_heads}, num_head_channels {num_head_channels} and swin_embed_dim {swin_embed_dim} give "
                "no attention head; lower num_head_channels or set it to -1 and num_heads to at least 1"
            )

        def resblock(channels: int, width: int, resize: nn.Module | None = None) -> ResBlock:
            return ResBlock(channels, width, emb_dim, dropout, use_scale_shift_norm, resize)

        def swin(width: int, side: int) -> SwinLayer:
            return SwinLayer(width, swin_embed_dim, heads, swin_depth, side, window_size, mlp_ratio, patch_norm)

        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))

        # Condition
        self.cond_lq, self.cond_mask = cond_lq, cond_mask
        self.has_features = lq_size is not None  # False: SinSR
        condition_channels = 0
        self.feature_extractor = nn.Sequential()
        if lq_size is not None:
            self.feature_extractor, condition_channels = condition_features(image_size, lq_size, cond_lq, cond_mask)
        self.lq_factor = 2 ** (len(self.feature_extractor) // 3)  # LR side over latent side

        # Encoder
        channels, side = widths[0], image_size
        skips = [channels]
        self.input_blocks = nn.ModuleList(
            [Stage([nn.Conv2d(in_channels + condition_channels, channels, 3, padding=1)])]
        )
        for level, width in enumerate(widths):
            for i in range(blocks[level]):
                layers: list[nn.Module] = [resblock(channels, width)]
                if i == 0 and side in attention_resolutions:
                    layers.append(swin(width, side))
                self.input_blocks.append(Stage(layers))
                channels = width
                skips.append(channels)
            if level < levels - 1:
                down = (
                    resblock(channels, channels, Downsample(channels, channels, learnt=False))
                    if resblock_updown
                    else Downsample(channels, channels, learnt=conv_resample)
                )
                self.input_blocks.append(Stage([down]))
                skips.append(channels)
                side //= 2

        # Middle
        self.middle_block = Stage([resblock(channels, channels), swin(channels, side), resblock(channels, channels)])

        # Decoder
        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(blocks[level] + 1):
                layers = [resblock(channels + skips.pop(), width)]
                channels = width
                if i == 0 and side in attention_resolutions:
                    layers.append(swin(width, side))
                if level > 0 and i == blocks[level]:
                    layers.append(
                        resblock(channels, channels, Upsample(channels, learnt=False))
                        if resblock_updown
                        else Upsample(channels, learnt=conv_resample)
                    )
                    side *= 2
                self.output_blocks.append(Stage(layers))

        self.out = nn.Sequential(GroupNorm32(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))
        self.gradient_checkpointing = False
        self.size_multiple = latent_size_multiple(image_size, levels, attention_resolutions, window_size)

    def _concat_condition(self, x: Tensor, lq: Tensor | None, mask: Tensor | None) -> Tensor:
        """Concatenate the features of `lq` (and `mask`) to `x`, (B, conv_in channels, h, w)."""
        if (lq is not None) != self.cond_lq:
            raise ValueError(
                f"lq is {'given' if lq is not None else 'None'} but the network has cond_lq={self.cond_lq}"
            )
        if (mask is not None) != self.cond_mask:
            given = "given" if mask is not None else "None"
            raise ValueError(f"mask is {given} but the network has cond_mask={self.cond_mask}")
        if lq is None:
            return x
        features = lq.to(x.dtype)
        if not self.has_features:
            if lq.shape[-2] > x.shape[-2]:
                features = F.pixel_unshuffle(features, 2)
            elif lq.shape[-2:] != x.shape[-2:]:
                features = F.interpolate(features, scale_factor=4.0, mode="nearest")
        else:
            if mask is not None:
                features = torch.cat([features, mask.to(x.dtype)], dim=1)
            features = self.feature_extractor(features)
        if features.shape[-2:] != x.shape[-2:]:
            sides = str(self.lq_factor) if self.has_features else "1, 2 or 1/4"
            raise ValueError(
                f"lq is {tuple(lq.shape[-2:])} for a latent of {tuple(x.shape[-2:])}; its sides must be {sides} times "
                "the latent's"
            )
        return torch.cat([x, features], dim=1)

    @apply_forward_hook
    def embed(self, timesteps: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Embed timesteps (T,) once for many calls of `forward`: (T, 4 model_channels), None: in the network's dtype."""
        return self.time_embed(sinusoidal_embedding(timesteps, self.model_channels).to(dtype or self.dtype))

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor | None,
        lq: Tensor | None = None,
        mask: Tensor | None = None,
        embedding: Tensor | None = None,
    ) -> Tensor:
        """Predict the network target (x_0 for every published checkpoint).

        Args:
            x: noisy latent, already scaled by the scheduler, (B, in_channels, h, w); h and w multiples of
                `size_multiple`.
            timesteps: indices 0..T-1 of the full schedule, (B,), int or float; not looked at with `embedding`.
            lq: LR image in [-1, 1], (B, 3, h * lq_factor, w * lq_factor). SinSR (`lq_size=None`): as large as x; twice
                as large (then pixel-unshuffled to 12 channels); or a quarter (then upsampled, nearest).
            mask: inpainting mask in [-1, 1], 1 = unknown, (B, 1, ...) of the size of `lq`; with `cond_mask` only.
            embedding: rows of `embed`, (B, 4 model_channels) or (1, 4 model_channels) for all; None: of `timesteps`.

        Returns:
            (B, out_channels, h, w) in the dtype of x.

        Raises:
            ValueError: h or w is not a multiple of `size_multiple`, or lq or mask do not fit the network.
        """
        if x.shape[-2] % self.size_multiple or x.shape[-1] % self.size_multiple:
            raise ValueError(
                f"x is {x.shape[-2]}x{x.shape[-1]}; pad both sides to multiples of {self.size_multiple} (window size)"
            )
        emb = self.embed(timesteps, x.dtype) if embedding is None else embedding
        *skips, h = self._encode(x, emb, lq, mask)
        for stage in self.output_blocks:
            h = self._run(stage, h, emb, skips.pop())
        return self.out(h)

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """Channels of what `encode` returns."""
        widths = [int(mult * self.model_channels) for mult in self.config.channel_mult]
        return (widths[0], *widths)

    def encode(self, x: Tensor, timesteps: Tensor, lq: Tensor | None = None) -> list[Tensor]:
        """Return what the encoder sees of x: embedded, and behind each level, the last one with the middle block.

        Arguments as `forward`'s.
        """
        embedded, *states = self._encode(x, self.embed(timesteps, x.dtype), lq, None)
        *outer, middle = states
        behind = [a for a, b in pairwise(outer) if a.shape[-2:] != b.shape[-2:]]  # before it is reduced
        return [embedded, *behind, middle]

    def _encode(self, x: Tensor, emb: Tensor, lq: Tensor | None, mask: Tensor | None) -> list[Tensor]:
        """Return the state behind each input block and behind the middle."""
        h = self._concat_condition(x, lq, mask)
        states = []
        for stage in self.input_blocks:
            h = self._run(stage, h, emb)
            states.append(h)
        return [*states, self._run(self.middle_block, h, emb)]

    def _run(self, stage: nn.Module, *args: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(stage, *args)
        return stage(*args)
