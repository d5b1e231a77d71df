"""Published weights of each family: how they are found, and which pipeline they become.

What a family needs is imported when its weights are opened: for some that takes seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resdiff.checkpoints import resshift
from resdiff.checkpoints.fetch import fetch
from resdiff.checkpoints.io import CheckpointError, read_shapes
from resdiff.checkpoints.known import KNOWN
from resdiff.checkpoints.known_models import known_model
from resdiff.checkpoints.known_seesr import DAPE_FILE, RAM_FILE, SEESR_MODELS
from resdiff.checkpoints.known_stablesr import STABLESR_MODELS
from resdiff.checkpoints.stablesr_layout import role_of
from resdiff.pipelines.base import SRPipeline
from resdiff.pipelines.registry import family
from resdiff.pipelines.resshift import ResShiftPipeline


@dataclass(frozen=True, kw_only=True)
class Family:
    """The functions that open what a family has published; they raise ValueError in one line."""

    models: Mapping[str, Any]  # by name
    options: tuple[str, ...]  # that `resolve` and `by_name` take
    resolve: Callable[..., Any]  # files and folders, the name of a model or None -> what was found
    by_name: Callable[..., Any]  # the name of a model, whether downloads show a bar -> what was found
    pipeline: Callable[[Any, torch.dtype], SRPipeline]  # of what was found


# --- ResShift, SinSR -------------------------------------------------------------------------------------------------


def _resolve_resshift(
    given: Sequence[str | Path], known_as: str | None, vae_file: str | Path | None = None
) -> resshift.Published:
    return resshift.resolve(given if vae_file is None else [*given, vae_file], known_as)


def _resshift_by_name(name: str, progress: bool, vae_file: str | Path | None = None) -> resshift.Published:
    return fetch(name, vae_file=vae_file, progress=progress)


RESSHIFT = Family(
    models=KNOWN,
    options=("vae_file",),
    resolve=_resolve_resshift,
    by_name=_resshift_by_name,
    pipeline=ResShiftPipeline.from_published,
)


# --- SeeSR, AddSR ----------------------------------------------------------------------------------------------------


def _resolve_seesr(given: Sequence[str | Path], known_as: str | None, **options: str | Path) -> Any:
    from resdiff.checkpoints.seesr import resolve

    return resolve(given, known_as, **options)


def _seesr_by_name(name: str, progress: bool, **options: str | Path) -> Any:
    from resdiff.checkpoints.seesr import in_cache

    return in_cache(name, **options)


def _seesr_pipeline(published: Any, dtype: torch.dtype) -> SRPipeline:
    from resdiff.checkpoints.seesr import load

    known, pipeline = published.known, _class_of(published)
    return pipeline(
        **load(published, dtype), num_inference_steps=known.num_inference_steps, guidance_scale=known.guidance_scale
    )


SEESR = Family(
    models=SEESR_MODELS,
    options=("base", "ram_file", "dape_file"),
    resolve=_resolve_seesr,
    by_name=_seesr_by_name,
    pipeline=_seesr_pipeline,
)


# --- StableSR --------------------------------------------------------------------------------------------------------


def _resolve_stablesr(given: Sequence[str | Path], known_as: str | None, **options: Any) -> Any:
    from resdiff.checkpoints.stablesr import resolve

    return resolve(given, known_as, **options)


def _stablesr_by_name(name: str, progress: bool, **options: Any) -> Any:
    from resdiff.checkpoints.stablesr_fetch import fetch

    return fetch(name, progress=progress, **options)


def _stablesr_pipeline(published: Any, dtype: torch.dtype) -> SRPipeline:
    from resdiff.checkpoints.stablesr import load

    known, pipeline = published.known, _class_of(published)
    return pipeline(
        **load(published, dtype),
        num_inference_steps=known.num_inference_steps,
        guidance_scale=known.guidance_scale,
        fidelity=0.0 if published.cfw_file is None else known.fidelity,
        process_size=known.process_size,
        color_fix=known.color_fix,
    )


STABLESR = Family(
    models=STABLESR_MODELS,
    options=("base", "cfw_file", "prediction_type"),
    resolve=_resolve_stablesr,
    by_name=_stablesr_by_name,
    pipeline=_stablesr_pipeline,
)


# --- which of them ---------------------------------------------------------------------------------------------------

PUBLISHED = (RESSHIFT, SEESR, STABLESR)
OPTIONS = ("known_as", *dict.fromkeys(option for published in PUBLISHED for option in published.options))


def family_of_model(name: str) -> Family:
    """Return the family of a known model; raises ValueError that lists the names, the closest first."""
    known_model(name)
    return next(published for published in PUBLISHED if name in published.models)


def family_of_files(given: Sequence[str | Path], known_as: str | None) -> Family:
    """Return the family of published files and folders.

    Told by a folder or the tagger's files, which SeeSR has, and by names of parameters, which StableSR has; and where
    they are `known_as` one of a family's models. Raises ValueError where that is no model.
    """
    if known_as is not None:
        known_model(known_as)
    if known_as in STABLESR.models or (known_as is None and any(_is_stablesr(Path(path)) for path in given)):
        return STABLESR
    is_tagger = any(Path(path).name in (RAM_FILE.file, DAPE_FILE.file) for path in given)
    if known_as in SEESR.models or is_tagger or any(Path(path).is_dir() for path in given):
        return SEESR
    return RESSHIFT


def _is_stablesr(path: Path) -> bool:
    try:
        return path.is_file() and role_of(read_shapes(path)) is not None
    except CheckpointError:  # the family that it is taken for says what is wrong with it
        return False


def _class_of(published: Any) -> Any:
    return family(published.known.family)
