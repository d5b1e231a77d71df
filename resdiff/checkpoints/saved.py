"""Folders that `save_pretrained` wrote, looked at before anything is built from them.

A description is a text file that anyone may edit or damage: what it says is checked against the weights beside it, so
that no number in it costs memory or time.
"""

from pathlib import Path
from typing import Any

import torch

from resdiff.checkpoints.descriptions import json_object
from resdiff.checkpoints.io import CheckpointError, check_fit, read_shapes
from resdiff.checkpoints.known_seesr import FLAG
from resdiff.checkpoints.store import inside

LARGEST = 2**20  # that an integer of a network's or scheduler's configuration may be; real ones stay far below
LAYERS = ("num_res_blocks", "num_blocks", "swin_depth")  # options that count parts which have weights each


def is_component(of: Any) -> bool:
    """Whether an entry of `model_index.json` names the library and class of a component: [null, null] is none."""
    return isinstance(of, list) and len(of) == 2 and all(isinstance(name, str) for name in of)


def check_component(folder: Path) -> None:
    """Raise ValueError, one line, unless a component's folder is there with sound files, all that its indexes name too."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is missing; the pipeline in {folder.parent} is not complete: copy it again")
    for path in sorted(folder.iterdir()):
        if not path.is_file() and not path.is_dir():
            raise ValueError(f"{path} is no regular file; copy the folder again")
    for index in sorted(folder.glob("*.index.json")):
        shards(index)
    tensors = sum(len(read_shapes(file)) for file in weight_files(folder))
    for config in sorted(folder.glob("*config.json")):
        check_numbers(config, json_object(config), tensors)


def shards(index: Path) -> list[Path]:
    """Return the files that an index of weights names; raises CheckpointError, one line, if it is none or one is missing."""
    names = json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} is not an index of weights; copy or download it again")
    files = [inside(index.parent, name) for name in sorted(set(names.values()))]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, which {index.name} names; copy or download it again")
    return files


def check_class(folder: Path, of: list[str]) -> None:
    """Raise ValueError, one line, where a library's class would open a network with image attentions and ignore them.

    of: library and class, as `model_index.json` names them.
    """
    config = folder / "config.json"
    library, name = of
    if not library.startswith("resdiff.") and config.is_file() and json_object(config).get(FLAG):
        raise ValueError(
            f"{folder} has {FLAG}, which {name} of {library} does not know; name a class of resdiff.models.seesr in "
            "model_index.json, or convert the model again"
        )


def check_numbers(path: Path, config: dict[str, Any], tensors: int) -> None:
    """Raise ValueError for integers that no network with that many `tensors` can have; 0: there is no file of them."""
    for key, value in config.items():
        values = value if isinstance(value, list) else [value]
        numbers = [number for number in values if isinstance(number, int)]
        if any(abs(number) > LARGEST for number in numbers) or (key in LAYERS and 0 < tensors < sum(numbers)):
            raise ValueError(f"{path}: {key} does not fit the weights beside it; copy or write the folder again")


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a component's folder that hold weights."""
    return sorted(file for suffix in ("safetensors", "bin") for file in folder.glob(f"*.{suffix}"))


def check_weights(components: dict[str, Any], folder: Path) -> None:
    """Raise CheckpointError unless each network's files in `folder` hold exactly its tensors: diffusers only warns."""
    for name, part in components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        shapes = {key: x for file in weight_files(folder / name) for key, x in read_shapes(file).items()}
        check_fit(part, shapes, source=folder / name)
