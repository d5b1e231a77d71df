"""The time-aware encoder of StableSR (2305.07015): features of the low-resolution latent for one timestep.

Reference: EncoderUNetModelWT of IceClear/StableSR ldm/modules/diffusionmodules/openaimodel.py, whose parameter names
these are. It returns a dictionary by width; here they are a tuple, finest first.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from resdiff.attention import attention
from resdiff.models.ldm_blocks import Downsample, ResBlock, Stage, sinusoidal_embedding
from resdiff.models.network import NetworkMixin
from resdiff.models.norm import GroupNorm32

PREDICTIONS = "epsilon", "v_prediction"


class AttentionBlock(nn.Module):
    """Self-attention over all positions, added to the input.

    Raises:
        ValueError: the heads do not divide the channels.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{channels} channels do not split into {heads} attention heads; change num_heads")
        self.heads = heads
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)
        for parameter in self.proj_out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x).flatten(2))  # (B, heads * 3 * dim, h*w): q, k, v of the first head, of the second
        # contiguous: fused kernels refuse heads whose channels do not lie side by side
        qkv = qkv.mT.contiguous().unflatten(2, (self.heads, 3, -1))  # (B, h*w, heads, 3, dim)
        q, k, v = qkv.transpose(1, 2).unbind(3)  # (B, heads, h*w, dim)
        h = attention(q, k, v).transpose(1, 2).flatten(2).mT  # (B, C, h*w)
        return x + self.proj_out(h).unflatten(2, x.shape[2:])


class TimeAwareEncoder(NetworkMixin, ModelMixin, ConfigMixin):
    """The first half of a UNet over the latent of the low-resolution image, told the time.

    The defaults are the published network (52,494,080 parameters).

    Raises:
        ValueError: `prediction_type` is unknown, heads do not divide the channels, or widths do not fit 32 norm groups.
    """

    _no_split_modules: ClassVar[list[str]] = ["Stage"]
    _repeated_blocks: ClassVar[list[str]] = ["ResBlock", "AttentionBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["norm", "time_embed", r"^input_blocks\.0"]

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        model_channels: int = 256,
        out_channels: int = 256,  # of every feature map
        num_res_blocks: int = 2,  # per level
        attention_resolutions: Sequence[int] = (1, 2, 4),  # downsampling factors (not sides) of levels that attend
        channel_mult: Sequence[int] = (1, 1, 2, 2),  # per level, times model_channels
        num_heads: int = 4,  # used when num_head_channels is None
        num_head_channels: int | None = None,
        prediction_type: str = "epsilon",  # of the base that it was trained with, "epsilon" or "v_prediction"
    ) -> None:
        super().__init__()
        if prediction_type not in PREDICTIONS:
            raise ValueError(f"prediction_type is {prediction_type!r}; choose one of {', '.join(PREDICTIONS)}")
        self.model_channels, emb_dim = model_channels, 4 * model_channels
        widths = [mult * model_channels for mult in channel_mult]

        def resblock(channels: int, width: int) -> ResBlock:
            return ResBlock(channels, width, emb_dim, dropout=0.0, use_scale_shift_norm=False)

        def attend(width: int) -> AttentionBlock:
            return AttentionBlock(width, num_heads if num_head_channels is None else width // num_head_channels)

        self.time_embed = nn.Sequential(nn.Linear(model_channels, emb_dim), nn.SiLU(), nn.Linear(emb_dim, emb_dim))

        channels = model_channels
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels, channels, 3, padding=1)])])
        for level, width in enumerate(widths):
            if level > 0:
                self.input_blocks.append(Stage([Downsample(channels, channels, learnt=True)]))
            for _ in range(num_res_blocks):
                attends = 2**level in attention_resolutions
                block = resblock(channels, width)
                self.input_blocks.append(Stage([block, attend(width)] if attends else [block]))
                channels = width

        self.middle_block = Stage([resblock(channels, channels), attend(channels), resblock(channels, channels)])
        # the last level is taken after the middle block, the others as they leave for the next
        self.fea_tran = nn.ModuleList(resblock(width, out_channels) for width in widths)

    def forward(self, z: Tensor, t: Tensor | int) -> tuple[Tensor, ...]:
        """Return what `SpadeModulation` modulates with.

        Args:
            z: latent of the low-resolution image, scaled as the UNet's and without noise, (B, in_channels, h, w).
            t: timestep 0..999 of the full schedule, one, or one for each of the batch (B,).

        Returns:
            One map per level, finest first: (B, out_channels, h', w'), where h' and w' are halved, rounding up, from
            each level to the next.
        """
        timesteps = torch.as_tensor(t, device=z.device).reshape(-1)  # (B,), or (1,) for all
        emb = self.time_embed(sinusoidal_embedding(timesteps, self.model_channels).to(z.dtype))
        h, features = z, []
        for stage in self.input_blocks:
            if isinstance(next(stage.children()), Downsample):
                features.append(h)
            h = stage(h, emb)
        features.append(self.middle_block(h, emb))
        return tuple(block(feature, emb) for block, feature in zip(self.fea_tran, features, strict=True))
