"""From a name, a folder or a published file to a pipeline: what `SRPipeline.from_pretrained` does."""

import difflib
import re
from pathlib import Path
from typing import Any

import torch

from resdiff.checkpoints.cache import inside
from resdiff.checkpoints.descriptions import pipeline_description
from resdiff.checkpoints.fetch import fetch
from resdiff.checkpoints.known import BUNDLED, KNOWN, bundled_folder
from resdiff.checkpoints.resshift import resolve
from resdiff.checkpoints.saved import check_component, check_weights, is_component
from resdiff.pipelines.base import SRPipeline
from resdiff.pipelines.bicubic import BicubicPipeline
from resdiff.pipelines.registry import FAMILIES, family
from resdiff.pipelines.resshift import ResShiftPipeline

# what diffusers and constructors raise on a description that somebody edited or that is damaged
REFUSALS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def open_pipeline(
    model: str | Path | None,
    *,
    dtype: torch.dtype = torch.float32,
    known_as: str | None = None,
    vae_file: str | Path | None = None,
    progress: bool = True,  # of downloads: a bar on stderr
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
            f"{', '.join(kwargs)}: unknown options; for published files there are dtype, known_as, vae_file, progress"
        )
    if path.is_file():
        published = resolve([path, *([vae_file] if vae_file is not None else [])], known_as)
    elif name in KNOWN:
        if known_as is not None:
            raise ValueError(f"known_as is {known_as}, but {name} says which model it is; leave known_as out")
        published = fetch(name, vae_file=vae_file, progress=progress)
    else:
        raise ValueError(_unknown(name))
    return ResShiftPipeline.from_published(published, dtype)


def open_folder(folder: Path, **kwargs: Any) -> SRPipeline:
    """Open a folder written by `save_pretrained` with the class that its `model_index.json` names."""
    description = pipeline_description(folder)
    name = description.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"{folder} was saved by {name}, which is none of {', '.join(FAMILIES)}")
    parts = [part for part, of in description.items() if is_component(of) and part not in kwargs]
    for part in parts:
        check_component(inside(folder, part))
    try:
        pipe = family(name).from_pretrained(folder, **kwargs)
    except REFUSALS as error:  # diffusers' own, often of several lines
        raise ValueError(f"{folder} cannot be opened: {' '.join(str(error).split())}") from error
    check_weights({part: pipe.components[part] for part in parts if part in pipe.components}, folder)
    return pipe


def _unknown(name: str) -> str:
    names = [BUNDLED, "bicubic", *KNOWN]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not hint:
        hint = f"of the Hugging Face hub, download it first: hf download {name} --local-dir FOLDER, and give FOLDER; "
    return f"model {name!r} is no file, folder or known name; {hint}known are {', '.join(names)}"
