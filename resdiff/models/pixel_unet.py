"""`PixelUNet`: the small backbone of the bundled model, residual shifting on space-to-depth pixels.

Everything runs at the low resolution: high-resolution images are folded by `scale` into channels. Two U-Nets share the
work. The *predictor* sees the low-resolution image alone and runs once: its features, and the posterior mean of the
residual. The *denoiser* runs at every step on the noisy image, those features and that mean, and adds what the mean
lacks; a step costs half as much as if one network did both, and training the denoiser cannot harm the mean. A prompt
enters the denoiser by FiLM without a bias: without a prompt there is nothing to add.

The output is the residual y - x_0 (prediction type "residual"), y the bicubic upsampling. Both last convolutions start
at zero: an untrained network is bicubic interpolation, an untrained denoiser leaves the mean as it is.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.models.network import NetworkMixin
from resdiff.models.pixel_blocks import Condition, PixelBody, PixelNorm, body_radius, start_at_zero

RESIDUAL_STD = 0.25  # of y - x_0 in natural photos, images in [-1, 1]; keeps the network's own output near unit scale


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Return sinusoids [cos | sin] of the step indices, (B,) -> (B, dim), float32; dim even."""
    half = dim // 2
    frequencies = torch.exp(-math.log(100.0) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Predictor(nn.Module):
    """From the low-resolution image to features and the mean of the folded residual."""

    def __init__(self, channels: tuple[int, ...], num_blocks: tuple[int, ...], image_channels: int, folded: int):
        super().__init__()
        self.conv_in = nn.Conv2d(image_channels, channels[0], 3, padding=1)
        self.body = PixelBody(channels, num_blocks)
        self.norm_out = PixelNorm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], folded, 3, padding=1)
        start_at_zero(self.conv_out)

    def forward(self, lq: Tensor) -> Tensor:
        """(B, image_channels, h, w) -> (B, channels[0] + folded, h, w): features, then the mean at unit scale."""
        h = self.conv_in(lq.contiguous(memory_format=torch.channels_last))
        features = self.norm_out(self.body(h))
        return torch.cat([features, self.conv_out(features)], dim=1)


class Denoiser(nn.Module):
    """From a noisy image, the predictor's features and mean to what the mean lacks."""

    def __init__(
        self, channels: tuple[int, ...], num_blocks: tuple[int, ...], folded: int, embed_dim: int, prompt_dim: int
    ):
        super().__init__()
        self.width = channels[0]
        self.conv_in = nn.Conv2d(2 * folded, channels[0], 3, padding=1)
        self.film_in = nn.Linear(embed_dim, channels[0])
        self.body = PixelBody(channels, num_blocks, embed_dim, prompt_dim)
        self.norm_out = PixelNorm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], folded, 3, padding=1)
        start_at_zero(self.film_in)
        start_at_zero(self.conv_out)

    def embed_input(self, x: Tensor, prediction: Tensor, condition: Condition) -> Tensor:
        """x: (B, folded, h, w); prediction: of the predictor. Returns what the body starts from, (B, channels[0], h, w)."""
        features, mean = prediction[:, : self.width], prediction[:, self.width :]
        h = self.conv_in(torch.cat([x, mean], dim=1).contiguous(memory_format=torch.channels_last))
        return torch.addcmul(features, h, 1 + self.film_in(condition.time)[:, :, None, None])

    def forward(self, x: Tensor, prediction: Tensor, condition: Condition) -> Tensor:
        """x: (B, folded, h, w); prediction: of the predictor. Returns (B, folded, h, w)."""
        h = self.embed_input(x, prediction, condition)
        return self.conv_out(self.norm_out(self.body(h, condition)))


class PixelUNet(NetworkMixin, ModelMixin, ConfigMixin):
    """Network of the bundled residual-shifting model; see the module docstring.

    Raises ValueError when the low-resolution sides are not multiples of `size_multiple`.
    """

    _supports_gradient_checkpointing = True
    _repeated_blocks = ["PixelBlock"]  # noqa: RUF012 (diffusers reads plain lists)
    _no_split_modules = ["PixelBlock"]  # noqa: RUF012
    _skip_layerwise_casting_patterns = ["norm", "time_embed", "conv_in$", "conv_out$"]  # noqa: RUF012
    _group_offload_block_modules = ["predictor", "denoiser", "body", "down_blocks", "up_blocks"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        scale: int = 4,  # high over low resolution
        channels: tuple[int, ...] = (64, 128, 256),  # of the predictor, per level; each level halves the size
        num_blocks: tuple[int, ...] = (3, 2, 2),  # per level, on the way down and again on the way up
        denoiser_blocks: tuple[int, ...] | None = None,  # of its levels, as wide; None: the predictor's first two
        embed_dim: int = 128,  # of the embedding of time
        prompt_dim: int = 0,  # of the embedding of the prompt; 0: takes none
        image_channels: int = 3,
    ):
        super().__init__()
        denoiser_blocks = num_blocks[:2] if denoiser_blocks is None else denoiser_blocks
        denoiser_channels = channels[: len(denoiser_blocks)]
        folded = image_channels * scale**2
        self.scale = scale
        self.predictor = Predictor(channels, num_blocks, image_channels, folded)
        self.time_embed = nn.Sequential(nn.Linear(64, embed_dim), nn.SiLU(), nn.Linear(embed_dim, embed_dim), nn.SiLU())
        self.denoiser = Denoiser(denoiser_channels, denoiser_blocks, folded, embed_dim, prompt_dim)
        bodies = (self.predictor.body, self.denoiser.body)
        self.size_multiple = max(body.size_multiple for body in bodies)  # of the low-resolution sides
        reach = 4 + body_radius(num_blocks) + body_radius(denoiser_blocks)  # 4: the first and last convolutions
        self.receptive_radius = math.ceil(reach / self.size_multiple) * self.size_multiple

    def parts(self, name: Literal["predictor", "denoiser"]) -> list[nn.Module]:
        """Return the modules of one of the two U-Nets, for those who train them one after the other."""
        return [self.predictor] if name == "predictor" else [self.time_embed, self.denoiser]

    @apply_forward_hook
    def embed(self, timesteps: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Embed timesteps (T,) once for many calls of `forward`: (T, embed_dim), None: in the network's dtype."""
        return self.time_embed(timestep_embedding(timesteps, 64).to(dtype or self.dtype))

    @apply_forward_hook
    def predict(self, lq: Tensor) -> Tensor:
        """Look at the low-resolution image once for many calls of `forward`.

        lq: (B, 3, h, w) in [-1, 1]. Returns (B, channels[0] + 3 scale^2, h, w).
        """
        height, width = lq.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"lq is {height}x{width}; both sides must be multiples of {self.size_multiple}, pad it first"
            )
        return self.predictor(lq)

    @property
    def encoder_dims(self) -> tuple[int, ...]:
        """Channels of what `encode` returns."""
        channels = self.denoiser.body.channels
        return (channels[0], *channels)

    def encode(self, x: Tensor, timesteps: Tensor, lq: Tensor, prediction: Tensor | None = None) -> list[Tensor]:
        """Return what the denoiser sees of x: embedded, and behind each level on the way down. Arguments as `forward`'s."""
        if prediction is None:
            prediction = self.predict(lq)
        condition = Condition(self.embed(timesteps, x.dtype))
        h = self.denoiser.embed_input(F.pixel_unshuffle(x, self.scale), prediction, condition)
        return [h, *self.denoiser.body.encode(h, condition)]

    def forward(
        self,
        x: Tensor | None,
        timesteps: Tensor | None,
        lq: Tensor,
        mask: Tensor | None = None,
        embedding: Tensor | None = None,
        prediction: Tensor | None = None,
        prompt: Tensor | None = None,
    ) -> Tensor:
        """Predict the residual y - x_0.

        x: (B, 3, H, W) scaled noisy image, None: return the predictor's mean; timesteps: (B,);
        lq: (B, 3, H / scale, W / scale) in [-1, 1]; mask: must be None, the family's inpainting models take one;
        embedding: rows of `embed`, (B, embed_dim) or (1, embed_dim) for all, and then timesteps are not looked at;
        prediction: of `predict`, and then lq is not looked at; prompt: (B, prompt_dim), zeros are as none.
        Returns (B, 3, H, W) in lq's dtype.
        """
        if mask is not None:
            raise ValueError("mask is for inpainting models; this one takes none")
        if prediction is None:
            prediction = self.predict(lq)
        residual = prediction[:, self.denoiser.width :]
        if x is not None:
            if embedding is None:
                embedding = self.embed(timesteps, x.dtype)
            condition = Condition(embedding, prompt)
            residual = residual + self.denoiser(F.pixel_unshuffle(x, self.scale), prediction, condition)
        return F.pixel_shuffle(RESIDUAL_STD * residual, self.scale)
