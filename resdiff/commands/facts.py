"""What is known of a model before its weights are read: from the table of published models, or a saved folder's index."""

from dataclasses import dataclass, field
from pathlib import Path

from resdiff.checkpoints.descriptions import json_object, pipeline_description
from resdiff.checkpoints.known import BUNDLED, BUNDLED_LICENCE, KNOWN, bundled_folder, known_by_file, known_by_name


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A model as `resdiff info` tells it."""

    name: str
    family: str
    scale: float
    steps: int | None  # None: as many as its schedule has
    multiple: int | None = None  # sides of the input are padded to it
    licence: str | None = None
    files: list[Path] = field(default_factory=list)  # that are here
    missing: list[str] = field(default_factory=list)  # URLs of those that are not


def facts_of(model: str | None, known_as: str | None = None) -> Facts | None:
    """Return what is known of `model`, or None when that takes opening it.

    Raises ValueError in one line for a folder that holds no pipeline.
    """
    from resdiff.checkpoints.cache import cached

    name = BUNDLED if model is None else model
    if name == BUNDLED:
        return _of_folder(bundled_folder(), name, BUNDLED_LICENCE)
    if name == "bicubic":
        return Facts(name=name, family="BicubicPipeline", scale=4, steps=1, licence="Apache-2.0")
    path = Path(name)
    if path.is_dir():
        return _of_folder(path, name, None)
    if path.is_file():
        known = known_by_name(known_as) if known_as is not None else known_by_file(path)
        here, missing = [path], []
    elif name in KNOWN:
        known = KNOWN[name]
        parts = [(part, cached(part)) for part in (known, known.autoencoder)]
        here = [file for _, file in parts if file is not None]
        missing = [part.url for part, file in parts if file is None]
    else:
        return None
    if known is None:
        return None
    return Facts(
        name=known.name,
        family="ResShiftPipeline",
        scale=known.scale,
        steps=known.num_inference_steps,
        licence=known.licence,
        files=here,
        missing=missing,
    )


def _of_folder(folder: Path, name: str, licence: str | None) -> Facts:
    index = folder / "model_index.json"
    found = pipeline_description(folder)
    try:
        family, scale = found["_class_name"], float(found["scale"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{index} is not a pipeline description ({type(error).__name__}); write the folder again"
        ) from error
    return Facts(
        name=name,
        family=family,
        scale=scale,
        steps=found.get("num_inference_steps") or _schedule_steps(folder),
        multiple=found.get("padding_multiple"),
        licence=licence,
        files=sorted(path for path in folder.rglob("*") if path.is_file()),
    )


def _schedule_steps(folder: Path) -> int | None:
    try:
        return int(json_object(folder / "scheduler" / "scheduler_config.json")["num_train_timesteps"])
    except (ValueError, KeyError, TypeError):
        return None
