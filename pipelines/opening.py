"""From a name, a folder or a published file to a pipeline: what `SRPipeline.from_pretrained` does."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from resdiff.checkpoints.descriptions import pipeline_description
from resdiff.checkpoints.folders import REFUSALS
from resdiff.checkpoints.known import BUNDLED, bundled_folder
from resdiff.checkpoints.known_models import MODELS
from resdiff.checkpoints.saved import check_class, check_component, check_weights, is_component
from resdiff.checkpoints.seesr_files import is_published_folder
from resdiff.checkpoints.store import inside
from resdiff.pipelines.base import SRPipeline
from resdiff.pipelines.bicubic import BicubicPipeline
from resdiff.pipelines.published import OPTIONS, Family, family_of_files, family_of_model
from resdiff.pipelines.registry import FAMILIES, family


def open_pipeline(
    model: str | Path | None,
    *,
    dtype: torch.dtype = torch.float32,
    progress: bool = True,  # of downloads: a bar on stderr
    **options: Any,  # of published weights, see `resdiff.pipelines.published`; of a saved folder diffusers' own
) -> SRPipeline:
    """Open what `SRPipeline.from_pretrained` was given; raises ValueError in one line when it cannot."""
    dtype = options.pop("torch_dtype", dtype)  # diffusers' older name
    name = BUNDLED if model is None else str(model)
    path = bundled_folder() if name == BUNDLED else Path(name)
    if name == "bicubic" or (path.is_dir() and not is_published_folder(path)):
        if given := [option for option in OPTIONS if options.pop(option, None) is not None]:
            raise ValueError(
                f"{', '.join(given)}: for published files and folders only; {name} needs none, leave it out"
            )
        return BicubicPipeline() if name == "bicubic" else open_folder(path, dtype=dtype, **options)
    known_as = options.pop("known_as", None)
    if path.exists():
        return from_published(resolve([path], known_as, **options), dtype)
    if name not in MODELS:
        raise ValueError(_unknown(name))
    published = family_of_model(name)
    wanted = _of(published, options, name)
    if known_as is not None:
        raise ValueError(f"known_as is {known_as}, but {name} says which model it is; leave known_as out")
    return from_published(published.by_name(name, progress, **wanted), dtype)


def resolve(given: Sequence[str | Path], known_as: str | None = None, **options: Any) -> Any:
    """Find which model published files and folders are.

    Returns what `resolve` of `resdiff.checkpoints.resshift`, `.seesr` or `.stablesr` does, and takes its options. Raises
    CheckpointError or ValueError, one line.
    """
    published = family_of_files(given, known_as)
    return published.resolve(given, known_as, **_of(published, options, " ".join(map(str, given))))


def from_published(published: Any, dtype: torch.dtype = torch.float32) -> SRPipeline:
    """Build the pipeline of what `resolve` found, with the defaults it was published with. Raises CheckpointError."""
    return family_of_model(published.known.name).pipeline(published, dtype)


def _of(published: Family, options: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the options that are given; raises ValueError where the family has none of this name."""
    given = {option: value for option, value in options.items() if value is not None}
    if unknown := [option for option in given if option not in published.options]:
        known = ", ".join(("dtype", "known_as", *published.options, "progress"))
        raise ValueError(f"{', '.join(unknown)}: unknown options; for {what} there are {known}")
    return given


def open_folder(folder: Path, **kwargs: Any) -> SRPipeline:
    """Open a folder written by `save_pretrained` with the class that its `model_index.json` names."""
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"{folder} holds no model_index.json, nor unet/ and controlnet/ with their config.json; pass a folder written "
            "by save_pretrained or resdiff convert, or the one published as seesr or addsr"
        )
    description = pipeline_description(folder)
    name = description.get("_class_name")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ValueError(f"{folder} was saved by {name}, which is none of {', '.join(FAMILIES)}")
    parts = [part for part, of in description.items() if is_component(of) and part not in kwargs]
    for part in parts:
        check_component(inside(folder, part))
        check_class(folder / part, description[part])
    try:
        pipe = family(name).from_pretrained(folder, **kwargs)
    except REFUSALS as error:  # diffusers' own, often of several lines
        raise ValueError(f"{folder} cannot be opened: {' '.join(str(error).split())}") from error
    check_weights({part: pipe.components[part] for part in parts if part in pipe.components}, folder)
    return pipe


def _unknown(name: str) -> str:
    names = [BUNDLED, "bicubic", *MODELS]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not hint:
        hint = f"of the Hugging Face hub, download it first: hf download {name} --local-dir FOLDER, and give FOLDER; "
    return f"model {name!r} is no file, folder or known name; {hint}known are {', '.join(names)}"
