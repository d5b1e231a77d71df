"""What a benchmark compares: models that the pipeline opens, and folders of results that other tools have made."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from resdiff.eval.harness.specs import check_keys, parse_spec
from resdiff.files.formats import printable
from resdiff.runs.restorer import Settings

FIXED = {"model", "device", "scale", "mask", "options"}  # the same for all models of a run, or not for restoring photos


@dataclass(frozen=True, kw_only=True)
class Model:
    """One column of the comparison."""

    name: str  # as the tables show it
    settings: Settings | None = None  # of the pipeline and its call
    call: Mapping[str, Any] = field(default_factory=dict)  # what its spec set, by name
    results: Path | None = None  # the folder of finished images, of another tool

    @property
    def kind(self) -> str:
        """How its images come about: "results", "bicubic" or "pipeline"."""
        if self.settings is None:
            return "results"
        return "bicubic" if self.settings.model == "bicubic" else "pipeline"

    @property
    def folder(self) -> str:
        """The name of its folders."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-.") or "model"


def parse_models(specs: Sequence[str], results: Sequence[str], default: Settings) -> list[Model]:
    """Return the models of `--model "NAME key=value ..."` and `--results NAME=DIR`, in this order.

    Args:
        specs: the keys are settings of `resdiff upscale`: num_inference_steps, prompt, fidelity, color_fix, tile, dtype, ...
        default: the settings that a spec does not name.

    Raises:
        ValueError: an unknown key, no model at all, a folder that does not exist, or two models of one name.
    """
    models = [_parse_model(spec, default) for spec in specs] + [_parse_results(spec) for spec in results]
    if not models:
        raise ValueError('nothing to compare; pass --model bicubic, --model "NAME key=value" or --results NAME=DIR')
    _check_distinct(models)
    return models


def _parse_model(spec: str, default: Settings) -> Model:
    name, given = parse_spec(spec)
    allowed = [field.name for field in fields(Settings) if field.name not in FIXED]
    check_keys(given, allowed, f"model {name}")
    words = [name, *(f"{key}={value}" for key, value in given.items())]
    return Model(name=" ".join(words), settings=replace(default, model=name, **given), call=given)


def _parse_results(spec: str) -> Model:
    name, equals, folder = spec.partition("=")
    if not equals or not name or not folder:
        raise ValueError(f"--results {spec!r} is not NAME=DIR; write a name for the table and the folder of images")
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"--results {name}: there is no folder {printable(path)}; check the path")
    return Model(name=name, results=path)


def _check_distinct(models: Iterable[Model]) -> None:
    taken: dict[str, str] = {}
    for model in models:
        key = model.folder.casefold()
        if key in ("lr", "hr"):
            raise ValueError(f"{model.name!r} is what the report calls the set's own images; choose another name")
        if key in taken:
            raise ValueError(f"{taken[key]!r} and {model.name!r} would share the folder {model.folder}; rename one")
        taken[key] = model.name
