"""A component of a diffusers folder: its configuration, its weights in whichever of the usual files, and its network.

diffusers loads such folders itself, and only warns of what is missing or left over; here the weights are handed on as a
state dict, to be renamed where they are old and loaded strictly.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from accelerate import init_empty_weights
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from resdiff.checkpoints.descriptions import json_object
from resdiff.checkpoints.io import CheckpointError, read_shapes, read_state_dict
from resdiff.checkpoints.saved import check_numbers, shards

# As diffusers and transformers name them, safetensors first.
WEIGHTS = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
VARIANTS = ("", ".fp16")
MOST_LAYERS = 100  # the published have 23
COUNTS = ("layers_per_block", "num_hidden_layers", "transformer_layers_per_block")  # options that count layers
# What constructors raise on a configuration that somebody edited or that is damaged.
REFUSALS = (
    *(ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,  # transformers'
)

Network = TypeVar("Network", bound=nn.Module)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights of a component: one, or the shards that an index names; [] if none.

    Full precision goes before half, and safetensors before pickles. Raises CheckpointError for a damaged index and
    for a shard that is missing.
    """
    for variant in VARIANTS:
        for name in WEIGHTS:
            stem, _, suffix = name.rpartition(".")
            if (file := folder / f"{stem}{variant}.{suffix}").is_file():
                return [file]
            for index in (f"{stem}{variant}.{suffix}.index.json", f"{stem}.{suffix}.index{variant}.json"):
                if (folder / index).is_file():
                    return shards(folder / index)
    return []


def read_weights(folder: Path, *, shapes_only: bool = False) -> dict[str, Tensor]:
    """Read the weights of a component, on the meta device if `shapes_only`.

    Raises CheckpointError, one line: there are none, or a file is damaged or incomplete.
    """
    files = weight_files(folder)
    if not files:
        raise CheckpointError(f"{folder} holds no weights, as {WEIGHTS[0]} or {WEIGHTS[2]}; download it again")
    read = read_shapes if shapes_only else read_state_dict
    return {name: tensor for file in files for name, tensor in read(file).items()}


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Return the configuration of a component, without diffusers' notes; raises ValueError, one line."""
    path = folder / name
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; download {folder.parent} again")
    config = {key: value for key, value in json_object(path).items() if not key.startswith("_")}
    check_numbers(path, config, 0)
    return config


def build(make: Callable[[dict[str, Any]], Network], config: dict[str, Any], source: Path) -> Network:
    """Build a network from its configuration without storage for its parameters (meta device); eval mode.

    Raises CheckpointError, one line that names `source`: the configuration is not of this network or is damaged.
    """
    try:
        if any(number > MOST_LAYERS for key in COUNTS for number in _numbers(config.get(key))):
            raise ValueError(f"more than {MOST_LAYERS} layers in a block")
        with init_empty_weights():
            return make(config).eval()
    except REFUSALS as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{source} describes no usable network ({said}); download it again") from error


def _numbers(value: object) -> Iterator[int]:
    """Yield the integers of a number or of nested lists."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part)
