"""One image the way StableSR's script makes it: its sizes, windows, order of draws and 8 bits, quirks included.

IceClear/StableSR scripts/sr_val_ddpm_text_T_vqganfin_oldcanvas_tile.py. A side that needs padding gets up to 32 px more
than it needs, and where a small image is enlarged beyond the asked scale padding remains in the result. Windows of 1280 px
are restored one by one, all from the same seed, and blended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.color import ColorFix, color_fix
from resdiff.noise import Noise, SequentialNoise
from resdiff.pipelines.inputs import sequential_generator
from resdiff.resize import bicubic
from resdiff.tiling import Box, Gaussian, tiled

MULTIPLE = 32  # px, of the sides that the networks see
WINDOWS = Gaussian(1280, 280, published=True)  # px

Size = tuple[int, int]
RestoreWindow = Callable[[Tensor, Noise], Tensor]  # enlarged LR image (1, 3, H, W) -> image, both about [-1, 1]


@dataclass(frozen=True)
class PublishedSizes:
    """Sizes on the way of one image, each (height, width) in px."""

    factor: float  # by which it is enlarged: the asked scale, or more for small images
    upsampled: Size
    network: Size  # padded
    shrunk: Size | None  # the whole padded result at the asked scale, where `factor` is more
    result: Size

    @property
    def is_cut(self) -> bool:
        """Whether it is restored in windows."""
        return max(self.network) > WINDOWS.size


def published_sizes(height: int, width: int, scale: float, input_size: int) -> PublishedSizes:
    """Return the published sizes for an LR image; `input_size` is the least side in px that the model was made for."""
    factor = max(input_size / min(height, width), scale)
    upsampled = int(height * factor), int(width * factor)
    is_aligned = all(side % MULTIPLE == 0 for side in upsampled)
    rows, columns = upsampled if is_aligned else ((side // MULTIPLE + 1) * MULTIPLE for side in upsampled)
    shrunk = (int(rows * scale / factor), int(columns * scale / factor)) if factor > scale else None
    sides = (rows, columns) if shrunk is None else shrunk
    result = min(sides[0], upsampled[0]), min(sides[1], upsampled[1])  # cropped after shrinking, not before
    return PublishedSizes(factor, upsampled, (rows, columns), shrunk, result)


def check_published_size(height: int, width: int, scale: float, input_size: int) -> None:
    """Raise ValueError for an LR image that the published script cannot make."""
    sizes = published_sizes(height, width, scale, input_size)
    reason = ""
    if sizes.is_cut and min(sizes.network) < WINDOWS.size:
        reason = f"only one side exceeds its windows of {WINDOWS.size} px"
    if any(padded - side >= side for padded, side in zip(sizes.network, sizes.upsampled, strict=True)):
        reason = "it is smaller than its padding"
    if reason:
        rows, columns = sizes.network
        raise ValueError(
            f"an image of {width}x{height} becomes {columns}x{rows}, which the published script cannot do ({reason}); "
            "leave out faithful=True"
        )


def padded_as_published(image: Tensor, size: Size) -> Tensor:
    """Reflect (B, 3, H, W) at its right and bottom to `size`."""
    return F.pad(image, (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2]), mode="reflect")


class PublishedDraws:
    """One generator, drawn from in order; torch's own where none is given. Raises ValueError for several."""

    def __init__(self, generator: torch.Generator | Sequence[torch.Generator] | None) -> None:
        self.generator = sequential_generator(generator) or torch.default_generator

    def noise(self, device: torch.device, rewind: bool) -> Noise:
        """Return what is drawn next; `rewind`: from the seed on, as at the begin of every window."""
        if rewind:
            self.generator.manual_seed(self.generator.initial_seed())
        return SequentialNoise(self.generator, device)


def published_image(
    lq: Tensor,
    scale: float,
    input_size: int,
    restore: RestoreWindow,
    draws: PublishedDraws,
    fix: ColorFix,
    strength: float,  # of the colour fix, 0 to 1
) -> Tensor:
    """Return the 8-bit result of one LR image (1, 3, h, w) in [-1, 1], (1, 3, H, W) of multiples of 1 / 255 in [0, 1]."""
    sizes = published_sizes(lq.shape[-2], lq.shape[-1], scale, input_size)
    image = padded_as_published(bicubic(lq, sizes.upsampled, "torch").clamp(-1, 1), sizes.network)

    def window(crops: Tensor, boxes: list[Box]) -> Tensor:
        result = restore(crops, draws.noise(crops.device, rewind=sizes.is_cut))
        return result if fix == "none" else result.lerp(color_fix(result, crops, fix), strength)

    result = tiled(window, image, WINDOWS) if sizes.is_cut else window(image, [])
    if sizes.shrunk is not None:
        result = bicubic(result.clamp(-1, 1), sizes.shrunk, "torch")
    height, width = sizes.result
    return eight_bits(result[..., :height, :width])


def eight_bits(image: Tensor) -> Tensor:
    """Return an image of about [-1, 1] in [0, 1], its multiples of 1 / 255 cut and not rounded."""
    return torch.floor((image / 2 + 0.5).clamp(0, 1) * 255) / 255
