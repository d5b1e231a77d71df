"""What a published file of StableSR (2305.07015) is by its names, and its networks' constructor arguments by its shapes.

The adapter's SPADEs lie among the UNet's residual blocks, its encoder and CFW beside Stable Diffusion's parts. Source:
configs/ and ldm/ of IceClear/StableSR. Tensors may be on the meta device: no number is looked at.
"""

import re
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from resdiff.checkpoints.io import CheckpointError

State = Mapping[str, Tensor]
Source = str | Path  # of the tensors, named in messages
Role = Literal["whole", "adapter", "cfw"]

LDM_UNET = "model.diffusion_model."
SPADE = ".spade."  # in the names of the modulation
STRUCTURE = "structcond_stage_model."  # before those of the time-aware encoder
DECODER = "decoder."
FUSION = f"{DECODER}fusion_layer_"  # before those of CFW, within an autoencoder
NUM_HEADS = 4  # of the encoder's attention, which no shape tells

_BLOCK = re.compile(r"(input|middle|output)_blocks?\.(\d+)\.(?:0\.)?(?=spade\.)")


def role_of(names: Iterable[str]) -> Role | None:
    """Tell what a file is: the adapter with Stable Diffusion or without, CFW with its autoencoder, or none of these."""
    names = list(names)
    if any(name.startswith(FUSION) for name in names):
        return "cfw"
    if not any(name.startswith(STRUCTURE) for name in names) or not any(SPADE in name for name in names):
        return None
    return "whole" if any(name.startswith(LDM_UNET) and SPADE not in name for name in names) else "adapter"


def is_adapter(name: str) -> bool:
    """Whether a parameter of a checkpoint belongs to the adapter and not to Stable Diffusion."""
    return name.startswith(STRUCTURE) or SPADE in name


def modulation_state(state: State, layers_per_block: int) -> dict[str, Tensor]:
    """Return the SPADEs under the names of `SpadeModulation`, which are those of diffusers' residual blocks.

    diffusers renames them as well, but only with all of the UNet beside them. A name of no residual block stays.
    """

    def renamed(block: re.Match[str]) -> str:
        way, index = block[1], int(block[2])
        if way == "middle":  # 0 and 2 are residual blocks, 1 is attention
            return f"mid_block.resnets.{index // 2}."
        # going down a level is its residual blocks and a downsampling, going up one residual block more
        level, layer = divmod(index - (way == "input"), layers_per_block + 1)
        return f"{'down' if way == 'input' else 'up'}_blocks.{level}.resnets.{layer}."

    spades = {name.removeprefix(LDM_UNET): x for name, x in state.items() if SPADE in name}
    return {_BLOCK.sub(renamed, name): x for name, x in spades.items()}


def modulation_config(state: State, unet: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """Return the arguments of `SpadeModulation` for a UNet of this configuration; raises CheckpointError."""
    inlet = next((name for name in state if name.endswith(".spade.mlp_shared.0.weight")), "")
    return {
        "block_out_channels": unet["block_out_channels"],
        "layers_per_block": unet["layers_per_block"],
        "structure_channels": _shape(state, inlet, source)[1],
    }


def encoder_state(state: State) -> dict[str, Tensor]:
    """Return the time-aware encoder under the names of `TimeAwareEncoder`."""
    return {name.removeprefix(STRUCTURE): x for name, x in state.items() if name.startswith(STRUCTURE)}


def encoder_config(state: State, source: Source) -> dict[str, Any]:
    """Deduce the arguments of `TimeAwareEncoder`, but for `prediction_type`, from what `encoder_state` returned.

    Raises CheckpointError if it is not of this architecture.
    """
    model_channels, in_channels = _shape(state, "input_blocks.0.0.weight", source)[:2]
    blocks = _count(state, r"input_blocks\.(\d+)\.", source)
    downs = [i for i in range(blocks) if f"input_blocks.{i}.0.op.weight" in state]
    bounds = [0, *downs, blocks]  # level l is the first convolution or a downsampling, and its residual blocks
    last = [end - 1 for end in bounds[1:]]
    return {
        "in_channels": in_channels,
        "model_channels": model_channels,
        "out_channels": _shape(state, "fea_tran.0.out_layers.3.weight", source)[0],
        "num_res_blocks": max(end - start - 1 for start, end in pairwise(bounds)),
        "attention_resolutions": [
            2**level for level, i in enumerate(last) if f"input_blocks.{i}.1.qkv.weight" in state
        ],
        "channel_mult": [
            _shape(state, f"input_blocks.{i}.0.out_layers.3.weight", source)[0] // model_channels for i in last
        ],
        "num_heads": NUM_HEADS,
    }


def cfw_state(state: State) -> dict[str, Tensor]:
    """Return CFW's parameters, still under their published names but for the prefix."""
    return {name.removeprefix(DECODER): x for name, x in state.items() if name.startswith(FUSION)}


def autoencoder_state(state: State) -> dict[str, Tensor]:
    """Return what a file of CFW holds besides: its autoencoder, still under ldm's names."""
    return {name: x for name, x in state.items() if not name.startswith(FUSION)}


def cfw_config(state: State, source: Source) -> dict[str, Any]:
    """Deduce the arguments of `ControllableFeatureWrapping` from what `cfw_state` returned; raises CheckpointError."""
    levels = range(1, _count(state, r"fusion_layer_(\d+)\.", source))
    return {
        "channels": [_shape(state, f"fusion_layer_{level}.encode_enc_3.conv1.weight", source)[0] for level in levels],
        "num_fuse_block": _count(state, r"fusion_layer_1\.encode_enc_2\.(\d+)\.", source),
    }


def _shape(state: State, name: str, source: Source) -> tuple[int, ...]:
    if name not in state or state[name].ndim < 2 or not state[name].numel():
        raise CheckpointError(
            f"{source} lacks {name or 'the modulation'}: it is not of StableSR or damaged; download it again"
        )
    return tuple(state[name].shape)


def _count(state: State, pattern: str, source: Source) -> int:
    """Number of modules in a list: the largest index that `pattern` captures, plus one."""
    count = max((int(m[1]) for name in state if (m := re.match(pattern, name))), default=-1) + 1
    if count > len(state):  # or a name would make us build as many
        raise CheckpointError(f"{source} names {count} modules and has {len(state)} tensors; download it again")
    return count
