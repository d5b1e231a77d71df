"""Blocks of the small networks on pixels: a convolutional U-Net whose receptive field is bounded.

Norms are over the channels of one pixel and nothing attends globally, so that a tile with a halo of `body_radius` gives
exactly the pixels of the whole image. Blocks are ConvNeXt-like (2201.03545) with dense convolutions, which run 2.4
times faster than depthwise ones on a CPU at equal arithmetic. Time and prompt enter every block by FiLM (1709.07871);
the prompt's part has no bias, so that a prompt of zeros leaves every bit as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

PROMPT_GAIN = 8.0  # of a prompt's numbers; they are four where other layers sum hundreds, and Adam moves all alike


def start_at_zero(layer: nn.Module) -> None:
    """Set every parameter of `layer` to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class PixelNorm(nn.LayerNorm):
    """LayerNorm over the channels of each pixel; free of copies on channels_last tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Condition:
    """What the blocks of a network are told beside the image."""

    time: Tensor  # (B, embed_dim), or (1, embed_dim) for all
    prompt: Tensor | None = None  # (B, prompt_dim), or (1, prompt_dim) for all


class Film(nn.Module):
    """Scale and shift of each channel from time and prompt; an untrained one gives zeros without a prompt."""

    def __init__(self, channels: int, embed_dim: int, prompt_dim: int):
        super().__init__()
        self.time = nn.Linear(embed_dim, 2 * channels)
        self.prompt = nn.Linear(prompt_dim, 2 * channels, bias=False) if prompt_dim else None
        start_at_zero(self.time)
        if self.prompt is not None:
            start_at_zero(self.prompt)

    def forward(self, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return (scale, shift), (B, channels, 1, 1) each."""
        film = self.time(condition.time)
        if self.prompt is not None and condition.prompt is not None:
            film = film + self.prompt(PROMPT_GAIN * condition.prompt)
        scale, shift = film[:, :, None, None].chunk(2, dim=1)
        return scale, shift


class PixelBlock(nn.Module):
    """x + conv(gelu(conv(norm(x) * (1 + scale) + shift))), scale and shift from the condition where there is one."""

    def __init__(self, channels: int, embed_dim: int = 0, prompt_dim: int = 0):
        super().__init__()
        self.norm = PixelNorm(channels)
        self.film = Film(channels, embed_dim, prompt_dim) if embed_dim else None
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        start_at_zero(self.conv2)

    def forward(self, x: Tensor, condition: Condition | None = None) -> Tensor:
        """x: (B, channels, h, w); condition: of blocks that take one."""
        h = self.norm(x)
        if self.film is not None and condition is not None:
            scale, shift = self.film(condition)
            h = torch.addcmul(shift, h, 1 + scale)
        return x + self.conv2(F.gelu(self.conv1(h)))


class PixelBody(nn.Module):
    """A U-Net of pixel blocks, (B, channels[0], h, w) -> the same; h, w multiples of `size_multiple`."""

    gradient_checkpointing = False

    def __init__(self, channels: tuple[int, ...], num_blocks: tuple[int, ...], embed_dim: int = 0, prompt_dim: int = 0):
        """channels, num_blocks: per level, each of half the size; blocks run on the way down and again on the way up.

        Raises ValueError when they do not go together.
        """
        super().__init__()
        if len(channels) != len(num_blocks):
            raise ValueError(f"channels={channels} and num_blocks={num_blocks} must name the same number of levels")
        if min(channels) < 1 or min(num_blocks) < 1:
            raise ValueError(f"channels={channels} and num_blocks={num_blocks} must be positive")
        self.channels = tuple(channels)
        self.size_multiple = 2 ** (len(channels) - 1)
        *outer, inner = [stage(c, n, embed_dim, prompt_dim) for c, n in zip(channels, num_blocks, strict=True)]
        self.down_blocks = nn.ModuleList(outer)
        self.mid_blocks = inner
        levels = zip(channels[:-1], num_blocks, strict=False)
        self.up_blocks = nn.ModuleList(stage(c, n, embed_dim, prompt_dim) for c, n in levels)
        wider = list(pairwise(channels))
        self.downsamplers = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in wider)
        self.upsamplers = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in wider)

    def encode(self, h: Tensor, condition: Condition | None = None) -> list[Tensor]:
        """Return what each level has on the way down, (B, channels[level], h / 2^level, w / 2^level)."""
        levels = []
        for blocks, downsample in zip(self.down_blocks, self.downsamplers, strict=True):
            levels.append(self._run(blocks.children(), h, condition))
            h = downsample(levels[-1])
        return [*levels, self._run(self.mid_blocks.children(), h, condition)]

    def forward(self, h: Tensor, condition: Condition | None = None) -> Tensor:
        *skips, h = self.encode(h, condition)
        for blocks, upsample in zip(reversed(self.up_blocks), reversed(self.upsamplers), strict=True):
            h = F.pixel_shuffle(upsample(h), 2) + skips.pop()
            h = self._run(blocks.children(), h.contiguous(memory_format=torch.channels_last), condition)
        return h

    def _run(self, blocks: Iterable[nn.Module], h: Tensor, condition: Condition | None) -> Tensor:
        for block in blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                h = checkpoint(block, h, condition, use_reentrant=False)
            else:
                h = block(h, condition)
        return h


def stage(channels: int, num_blocks: int, embed_dim: int, prompt_dim: int) -> nn.ModuleList:
    """Return the blocks of one level."""
    return nn.ModuleList(PixelBlock(channels, embed_dim, prompt_dim) for _ in range(num_blocks))


def body_radius(num_blocks: tuple[int, ...]) -> int:
    """Return the pixels beyond which the input of a `PixelBody` cannot change an output pixel.

    Two 3x3 convolutions a block, 2^level pixels each, on both ways but once at the bottom; and an output pixel may lie
    anywhere in its coarsest cell.
    """
    *outer, inner = num_blocks
    cell = 2 ** len(outer)
    return sum(2 * 2 * n * 2**level for level, n in enumerate(outer)) + 2 * inner * cell + 2 * cell
