"""The constructor arguments of SwinUNet and VQAutoencoder, deduced from the names and shapes of a state dict.

Networks of ResShift (2307.12348, 2403.07319) and SinSR (2311.14760). The reference reads a configuration file instead;
here a checkpoint is enough, as in spandrel. Tensors may be on the meta device: no number is looked at.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from torch import Tensor

from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known import Condition

State = Mapping[str, Tensor]

UNET_NAMES = (
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "middle_block.1.patch_embed.proj.weight",
    "out.2.weight",
)
AUTOENCODER_NAMES = ("encoder.conv_in.weight", "decoder.conv_out.weight", "quantize.embedding.weight")
IMAGE_SIZE = 64  # latent side in training of every published network
RESOLUTION = 256  # image side to count `attn_resolutions` from; any would do


def detect(state: State) -> Literal["unet", "autoencoder"] | None:
    """Tell what a state dict is by the names it has: all of `UNET_NAMES`, all of `AUTOENCODER_NAMES`, or neither."""
    if all(name in state for name in UNET_NAMES):
        return "unet"
    if all(name in state for name in AUTOENCODER_NAMES):
        return "autoencoder"
    return None


def unet_config(state: State, condition: Condition = "resshift") -> dict[str, Any]:
    """Deduce the arguments of `SwinUNet` from names and shapes, with or without the reference's buffers.

    Not told by shapes, and therefore assumed: x has as many channels as the output, dropout is 0, and `image_size` is
    64 unless a buffer or a clipped window says otherwise (`_image_size`). `num_head_channels` stands for `num_heads`.
    With "sinsr" all channels of the first convolution are `in_channels` and `lq_size` is None.
    Raises CheckpointError if the state dict is not of this architecture.
    """
    model_channels = _shape(state, "time_embed.0.weight")[1]
    bounds, resblock_updown = _levels(state)
    levels, total = len(bounds) - 1, bounds[-1]
    first = [f"output_blocks.{total - end}" for end in bounds[1:]]  # of every level, in the decoder
    widths = [_shape(state, f"{block}.0.out_layers.0.weight")[0] for block in first]
    swin = {level: f"{block}.1" for level, block in enumerate(first) if f"{block}.1.patch_embed.proj.weight" in state}
    image_size = _image_size(state, [*swin.items(), (levels - 1, "middle_block.1")])

    layer = "middle_block.1"
    embed_dim = _shape(state, f"{layer}.patch_embed.proj.weight")[0]
    heads = _shape(state, f"{layer}.blocks.0.attn.relative_position_bias_table")[1]
    inlet = Inlet.of(state)
    if condition == "resshift" and inlet.condition_channels != inlet.expected_channels():
        raise CheckpointError(
            f"the network's first convolution takes {inlet.condition_channels} channels besides the latent's "
            f"{inlet.latent_channels}, not {inlet.expected_channels()} as ResShift's; if it is SinSR's, name a SinSR model"
        )
    if condition == "resshift":
        in_channels, lq_size, cond_mask = inlet.latent_channels, image_size * inlet.lq_factor, inlet.cond_mask
    else:
        in_channels, lq_size, cond_mask = _shape(state, "input_blocks.0.0.weight")[1], None, False
    return {
        "image_size": image_size,
        "in_channels": in_channels,
        "model_channels": model_channels,
        "out_channels": inlet.latent_channels,
        "num_res_blocks": [end - start - 1 for start, end in pairwise(bounds)],
        "attention_resolutions": [image_size // 2**level for level in swin],
        "channel_mult": [_ratio(width, model_channels) for width in widths],
        "dropout": 0.0,
        "conv_resample": levels == 1 or resblock_updown or f"input_blocks.{bounds[1]}.0.op.weight" in state,
        "num_head_channels": embed_dim // heads,
        "use_scale_shift_norm": _shape(state, f"{first[0]}.0.emb_layers.1.weight")[0] == 2 * widths[0],
        "resblock_updown": resblock_updown,
        "swin_depth": _count(state, rf"{re.escape(layer)}\.blocks\.(\d+)\."),
        "swin_embed_dim": embed_dim,
        "window_size": max(_window(state, prefix) for prefix in [*swin.values(), layer]),
        "mlp_ratio": _ratio(_shape(state, f"{layer}.blocks.0.mlp.fc1.weight")[0], embed_dim),
        "patch_norm": f"{layer}.patch_embed.norm.weight" in state,
        "cond_lq": True,
        "cond_mask": cond_mask,
        "lq_size": lq_size,
    }


def autoencoder_config(state: State) -> dict[str, Any]:
    """Deduce the arguments of `VQAutoencoder` from names and shapes.

    `resolution` is not told and does not matter: `attn_resolutions` are counted from 256.
    Raises CheckpointError if the state dict is not of this architecture.
    """
    ch, in_channels = _shape(state, "encoder.conv_in.weight")[:2]
    n_embed, embed_dim = _shape(state, "quantize.embedding.weight")
    levels = range(_count(state, r"decoder\.up\.(\d+)\."))
    return {
        "ch": ch,
        "ch_mult": [_shape(state, f"decoder.up.{i}.block.0.conv1.weight")[0] // ch for i in levels],
        "num_res_blocks": [_count(state, rf"decoder\.up\.{i}\.block\.(\d+)\.") - 1 for i in levels],
        "z_channels": _shape(state, "decoder.conv_in.weight")[1],
        "embed_dim": embed_dim,
        "n_embed": n_embed,
        "in_channels": in_channels,
        "out_ch": _shape(state, "decoder.conv_out.weight")[0],
        "resolution": RESOLUTION,
        "attn_resolutions": [RESOLUTION // 2**i for i in levels if f"decoder.up.{i}.attn.0.q.weight" in state],
        "dropout": 0.0,
    }


class Inlet(NamedTuple):
    """What a network takes, as far as its shapes tell."""

    latent_channels: int
    condition_channels: int  # that the first convolution takes besides x
    lq_factor: int  # LR side over latent side
    cond_mask: bool

    @classmethod
    def of(cls, state: State) -> "Inlet":
        """Read the first and last convolution and the feature extractor; x and the output have the same channels."""
        latent = _shape(state, "out.2.weight")[0]
        condition = _shape(state, "input_blocks.0.0.weight")[1] - latent
        stages = sum(re.fullmatch(r"feature_extractor\.\d+\.op\.weight", name) is not None for name in state)
        lq_channels = _shape(state, "feature_extractor.0.weight")[1] if stages else condition
        return cls(latent, condition, 2**stages, lq_channels == 4)

    def expected_channels(self) -> int:
        """ResShift's condition channels: image and mask as they are, or 16 * 2^stages features."""
        return 16 * self.lq_factor if self.lq_factor > 1 else 3 + self.cond_mask

    def __str__(self) -> str:
        return (
            f"latents of {self.latent_channels} channels, {self.condition_channels} channels of condition from images "
            f"{self.lq_factor}x the latent's side, {'a' if self.cond_mask else 'no'} mask"
        )


def _levels(state: State) -> tuple[list[int], bool]:
    """Return where levels begin, and whether residual blocks resample.

    Level l is input block bounds[l] (the first convolution, then a downsampling) and the residual blocks up to
    bounds[l + 1]; the decoder has as many blocks, in mirrored order. Downsamplings are the input blocks without a
    residual block (average pooling has no names at all), or mirror the decoder's blocks with two of them.
    """
    total = _count(state, r"output_blocks\.(\d+)\.")
    doubled = {int(m[1]) for name in state if (m := re.match(r"output_blocks\.(\d+)\.[1-9]\d*\.in_layers\.", name))}
    if doubled:
        downs = sorted(total - 1 - i for i in doubled)
    else:
        downs = [i for i in range(1, total) if f"input_blocks.{i}.0.in_layers.0.weight" not in state]
    return [0, *downs, total], bool(doubled)


def _image_size(state: State, layers: Sequence[tuple[int, str]]) -> int:
    """Return the latent side in training, which decides where windows are clipped and shifted; layers: (level, prefix).

    A layer tells its own side by the number of windows in its `attn_mask`, or by a window smaller than the others'.
    Layers of a single window are not shifted and have no mask: if no layer has, all at one level, its window is its
    side. Without buffers and clipped windows nothing tells; then it is 64, or what the windows need.
    """
    windows = [_window(state, prefix) for _, prefix in layers]
    sides = [window * 2**level for (level, _), window in zip(layers, windows, strict=True)]  # where not shifted
    for (_, prefix), side in zip(layers, sides, strict=True):
        if (mask := state.get(f"{prefix}.blocks.1.attn_mask")) is not None:
            return side * math.isqrt(mask.shape[0])
    for window, side in zip(windows, sides, strict=True):
        if window < max(windows):
            return side
    has_buffers = f"{layers[-1][1]}.blocks.1.attn.relative_position_index" in state
    return sides[0] if has_buffers and len(set(sides)) == 1 else max(IMAGE_SIZE, *sides)


def _window(state: State, layer: str) -> int:
    """Window side of a Swin layer: its bias table has (2 window - 1)^2 rows."""
    return (math.isqrt(_shape(state, f"{layer}.blocks.0.attn.relative_position_bias_table")[0]) + 1) // 2


def _shape(state: State, name: str) -> tuple[int, ...]:
    if name not in state:
        raise CheckpointError(f"{name} is missing; this is not a checkpoint of the ResShift family, or a part of one")
    return tuple(state[name].shape)


def _count(state: State, pattern: str) -> int:
    """Number of modules in a list: the largest index that `pattern` captures, plus one."""
    return max((int(m[1]) for name in state if (m := re.match(pattern, name))), default=-1) + 1


def _ratio(width: int, base: int) -> int | float:
    """Return the multiplier m with int(m * base) == width."""
    if width % base == 0:
        return width // base
    ratio = width / base
    return ratio if int(ratio * base) == width else math.nextafter(ratio, math.inf)
