"""Published weights of DINO (2104.14294) and DINOv2 (2304.07193), as `VisionTransformer`.

`dino_deitsmall16_pretrain.pth` and `dinov2_vits14_pretrain.pth` of facebookresearch; other sizes load as well. Both files
are flat, and the names in them are ours.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from torch import Tensor

from resdiff.checkpoints.io import CheckpointError, load_strictly, read_state_dict
from resdiff.models.vision_transformer import VisionTransformer

UNUSED = ("mask_token",)  # stands for hidden patches in training
HEAD_DIM = 64  # of all published sizes, which no shape tells
DINOV2 = {"layer_scale": True, "interpolation": "bicubic", "interpolation_offset": 0.1}


def vit_config(state: Mapping[str, Tensor], num_heads: int | None = None) -> dict[str, Any]:
    """Deduce the arguments of `VisionTransformer` from names and shapes; tensors may be on the meta device.

    A transformer with layer scales is taken for DINOv2, which resizes positions in its own way. num_heads: None, heads of
    64 channels. Raises CheckpointError where the state dict is of something else.
    """
    positions, dim = _shape(state, "pos_embed", 3)[1:]
    patch_size = _shape(state, "patch_embed.proj.weight", 4)[-1]
    side = math.isqrt(positions - 1)
    if side**2 != positions - 1:
        raise CheckpointError(f"it has {positions - 1} positions, no square of patches; use DINO's or DINOv2's file")
    return {
        "image_size": side * patch_size,
        "patch_size": patch_size,
        "embed_dim": dim,
        "depth": len({m[1] for name in state if (m := re.match(r"blocks\.(\d+)\.", name))}),
        "num_heads": num_heads or dim // HEAD_DIM,
        "mlp_ratio": _shape(state, "blocks.0.mlp.fc1.weight", 2)[0] / dim,
        **(DINOV2 if "blocks.0.ls1.gamma" in state else {}),
    }


def load_dino(path: str | Path) -> VisionTransformer:
    """Load DINO's or DINOv2's published file strictly; eval mode.

    Raises CheckpointError, one line: the file is missing, damaged or of something else.
    """
    state = read_state_dict(path)
    try:
        with init_empty_weights():
            vit = VisionTransformer(**vit_config(state))
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    load_strictly(vit, state, UNUSED, source=path)
    return vit.eval()


def _shape(state: Mapping[str, Tensor], name: str, dims: int) -> tuple[int, ...]:
    shape = tuple(state[name].shape) if name in state else ()
    if len(shape) != dims or 0 in shape:
        raise CheckpointError(
            f"this is no vision transformer, it has {shape or 'no tensor'} for {name}; use DINO's file"
        )
    return shape
