"""From a name, a folder or a published file to a pipeline: what `SRPipeline.from_pretrained` does."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from resdiff.checkpoints import resshift
from resdiff.checkpoints.cache import inside
from resdiff.checkpoints.descriptions import pipeline_description
from resdiff.checkpoints.fetch import fetch
from resdiff.checkpoints.folders import REFUSALS
from resdiff.checkpoints.known import BUNDLED, KNOWN, bundled_folder
from resdiff.checkpoints.known_seesr import DAPE_FILE, RAM_FILE, SEESR_MODELS, known_model
from resdiff.checkpoints.saved import check_class, check_component, check_weights, is_component
from resdiff.checkpoints.seesr_files import is_published_folder
from resdiff.pipelines.base import SRPipeline
from resdiff.pipelines.bicubic import BicubicPipeline
from resdiff.pipelines.registry import FAMILIES, family
from resdiff.pipelines.resshift import ResShiftPipeline

if TYPE_CHECKING:  # imports transformers' networks, which the other families do not need
    from resdiff.checkpoints import seesr

RESSHIFT_OPTIONS = ("known_as", "vae_file")
SEESR_OPTIONS = ("known_as", "base", "ram_file", "dape_file")


def open_pipeline(
    model: str | Path | None,
    *,
    dtype: torch.dtype = torch.float32,
    known_as: str | None = None,
    vae_file: str | Path | None = None,  # ResShift's autoencoder
    base: str | Path | None = None,  # SeeSR's Stable Diffusion: a folder, file or repository of the hub
    ram_file: str | Path | None = None,  # its tagger, and the update of that
    dape_file: str | Path | None = None,
    progress: bool = True,  # of downloads: a bar on stderr
    **kwargs: Any,
) -> SRPipeline:
    """Open what `SRPipeline.from_pretrained` was given; raises ValueError in one line when it cannot."""
    dtype = kwargs.pop("torch_dtype", dtype)  # diffusers' older name
    around = {"base": base, "ram_file": ram_file, "dape_file": dape_file}
    options = {"known_as": known_as, "vae_file": vae_file, **around}
    given = [option for option, value in options.items() if value is not None]
    name = BUNDLED if model is None else str(model)
    path = bundled_folder() if name == BUNDLED else Path(name)
    if name == "bicubic" or (path.is_dir() and not is_published_folder(path)):
        if given:
            raise ValueError(
                f"{', '.join(given)}: for published files and folders only; {name} needs none, leave it out"
            )
        return BicubicPipeline() if name == "bicubic" else open_folder(path, dtype=dtype, **kwargs)
    is_seesr = path.is_dir() or (not path.is_file() and name in SEESR_MODELS)
    known_options = SEESR_OPTIONS if is_seesr else RESSHIFT_OPTIONS
    if unknown := [option for option in (*given, *kwargs) if option not in known_options]:
        raise ValueError(
            f"{', '.join(unknown)}: unknown options; for {name} there are dtype, {', '.join(known_options)}, progress"
        )
    if path.exists():
        return from_published(resolve([path] if vae_file is None else [path, vae_file], known_as, **around), dtype)
    if name not in KNOWN and not is_seesr:
        raise ValueError(_unknown(name))
    if known_as is not None:
        raise ValueError(f"known_as is {known_as}, but {name} says which model it is; leave known_as out")
    if not is_seesr:
        return from_published(fetch(name, vae_file=vae_file, progress=progress), dtype)
    from resdiff.checkpoints.seesr import in_cache

    return from_published(in_cache(name, **around), dtype)


def resolve(
    given: Sequence[str | Path],
    known_as: str | None = None,
    *,
    base: str | Path | None = None,
    ram_file: str | Path | None = None,
    dape_file: str | Path | None = None,
) -> "resshift.Published | seesr.Published":
    """Find which model published files and folders are, see `resolve` of `resdiff.checkpoints.resshift` and `.seesr`.

    Folders and the tagger's files are of the SeeSR family, and so is what is `known_as` one of its names. Raises
    CheckpointError or ValueError, one line.
    """
    if known_as is not None:
        known_model(known_as)  # raises with the names of all families
    is_tagger = any(Path(path).name in (RAM_FILE.file, DAPE_FILE.file) for path in given)
    if known_as in SEESR_MODELS or is_tagger or any(Path(path).is_dir() for path in given):
        from resdiff.checkpoints import seesr

        return seesr.resolve(given, known_as, base=base, ram_file=ram_file, dape_file=dape_file)
    if base is not None:
        raise ValueError(f"base is {base}, but only a folder of the SeeSR family has one; leave it out")
    return resshift.resolve(given, known_as)


def from_published(published: "resshift.Published | seesr.Published", dtype: torch.dtype = torch.float32) -> SRPipeline:
    """Build the pipeline of what `resolve` found, with the defaults it was published with. Raises CheckpointError."""
    if isinstance(published, resshift.Published):
        return ResShiftPipeline.from_published(published, dtype)
    from resdiff.checkpoints.seesr import load

    known = published.known
    pipeline: Any = family(known.family)
    return pipeline(
        **load(published, dtype), num_inference_steps=known.num_inference_steps, guidance_scale=known.guidance_scale
    )


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
    names = [BUNDLED, "bicubic", *KNOWN, *SEESR_MODELS]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not hint:
        hint = f"of the Hugging Face hub, download it first: hf download {name} --local-dir FOLDER, and give FOLDER; "
    return f"model {name!r} is no file, folder or known name; {hint}known are {', '.join(names)}"
