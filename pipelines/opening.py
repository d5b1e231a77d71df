"""From a name, a folder or a published file to a pipeline: what `SRPipeline.from_pretrained` does."""

import difflib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from resdiff.checkpoints.io import check_fit, read_shapes
from resdiff.checkpoints.known import KNOWN
from resdiff.checkpoints.resshift import in_cache
from resdiff.pipelines.base import SRPipeline
from resdiff.pipelines.bicubic import BicubicPipeline
from resdiff.pipelines.registry import FAMILIES
from resdiff.pipelines.resshift import ResShiftPipeline

BUNDLED = "resdiff-small"


def bundled_folder() -> Path:
    """Return the folder of the model that ships with the package."""
    return Path(str(files("resdiff"))) / "weights" / BUNDLED


def open_pipeline(
    model: str | Path | None,
    *,
    dtype: torch.dtype = torch.float32,
    known_as: str | None = None,
    vae_file: str | Path | None = None,
    **kwargs: Any,
) -> SRPipeline:
    """Open what `SRPipeline.from_pretrained` was given; raises ValueError in one line when it cannot."""
    dtype = kwargs.pop("torch_dtype", dtype)  # diffusers' older name
    name = BUNDLED if model is None else str(model)
    path = bundled_folder() if name == BUNDLED else Path(name)
    if name == "bicubic" or path.is_dir():
        if known_as is not None or vae_file is not None:
            raise ValueError(f"known_as and vae_file are for published files; {name} needs neither")
        return BicubicPipeline() if name == "bicubic" else open_folder(path, dtype=dtype, **kwargs)
    if kwargs:
        raise ValueError(
            f"{', '.join(kwargs)}: unknown options; for published files there are dtype, known_as, vae_file"
        )
    if path.is_file():
        extra = [Path(vae_file)] if vae_file is not None else []
        return ResShiftPipeline.from_published([path, *extra], known_as, dtype)
    if name in KNOWN:
        published = in_cache(name)
        return ResShiftPipeline.from_published([published.unet_file, published.autoencoder_file], name, dtype)
    names = [BUNDLED, "bicubic", *KNOWN]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(f"model {name!r} is no file, folder or known name; {hint}known are {', '.join(names)}")


def open_folder(folder: Path, **kwargs: Any) -> SRPipeline:
    """Open a folder written by `save_pretrained` with the class that its `model_index.json` names."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"{folder} holds no model_index.json; pass a folder written by save_pretrained or resdiff convert"
        )
    try:
        name = json.loads(index.read_text())["_class_name"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{index} is not a pipeline description ({type(error).__name__}); write the folder again"
        ) from None
    if name not in FAMILIES:
        raise ValueError(f"{folder} was saved by {name}, which is none of {', '.join(FAMILIES)}")
    pipe = FAMILIES[name].from_pretrained(folder, **kwargs)
    check_weights({name: part for name, part in pipe.components.items() if name not in kwargs}, folder)
    return pipe


def check_weights(components: dict[str, Any], folder: Path) -> None:
    """Raise CheckpointError unless each network's files in `folder` hold exactly its tensors: diffusers only warns."""
    for name, part in components.items():
        if not isinstance(part, torch.nn.Module):
            continue
        files = sorted(file for suffix in ("safetensors", "bin") for file in (folder / name).glob(f"*.{suffix}"))
        check_fit(part, {key: x for file in files for key, x in read_shapes(file).items()}, source=folder / name)
