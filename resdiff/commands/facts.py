"""What is known of a model before its weights are read: from the tables of published models, or a saved folder's index."""

from dataclasses import dataclass, field
from pathlib import Path

from resdiff.checkpoints.descriptions import json_object, pipeline_description
from resdiff.checkpoints.known import BUNDLED, BUNDLED_LICENCE, KnownModel, bundled_folder, known_by_file
from resdiff.checkpoints.known_models import MODELS, Known, known_model
from resdiff.checkpoints.known_seesr import (
    DAPE_FILE,
    NETWORKS,
    RAM_FILE,
    SEESR_MODELS,
    KnownSeeSR,
    seesr_by_folder,
    seesr_by_name,
)
from resdiff.checkpoints.known_stablesr import STABLESR_MODELS, KnownStableSR, cfw_is_for_faces, stablesr_by_file

# Of families whose folders do not say it.
SCALES = {known.family: known.scale for known in SEESR_MODELS.values()} | {
    known.family: known.scale for known in STABLESR_MODELS.values()
}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file or folder that belongs to a model."""

    name: str
    path: Path | None  # where it is; None: not here
    url: str = ""  # where it is published
    is_own: bool = True  # and not of another model, upon which it builds

    @property
    def files(self) -> list[Path]:
        """Those that are here."""
        if self.path is None or self.path.is_file():
            return [] if self.path is None else [self.path]
        return sorted(path for path in self.path.rglob("*") if path.is_file())


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A model as `resdiff info` and `resdiff models` tell it."""

    name: str
    family: str
    scale: float
    steps: int | None  # None: as many as its schedule has
    multiple: int | None = None  # sides of the input are padded to it
    licence: str | None = None
    description: str = ""  # one line
    parts: list[Part] = field(default_factory=list)
    by_hand: str | None = None  # what to get from where, of models that cannot be downloaded

    @property
    def files(self) -> list[Path]:
        """Those that are here."""
        return [file for part in self.parts for file in part.files]

    @property
    def missing(self) -> list[Part]:
        """Those that are not."""
        return [part for part in self.parts if part.path is None]


def facts_of(model: str | None, known_as: str | None = None) -> Facts | None:
    """Return what is known of `model`, or None when that takes opening it.

    Raises ValueError in one line for a folder that holds no pipeline.
    """
    from resdiff.checkpoints.seesr_files import is_published_folder

    name = BUNDLED if model is None else model
    path = bundled_folder() if name == BUNDLED else Path(name)
    if name == "bicubic":
        return Facts(name=name, family="BicubicPipeline", scale=4, steps=1, licence="Apache-2.0")
    if is_published_folder(path):
        adapter = seesr_by_folder(path.resolve().name) if known_as is None else seesr_by_name(known_as)
        return None if adapter is None else _of_seesr(adapter, path)
    if path.is_dir():
        return _of_saved(path, name)
    if path.is_file():
        return _of_file(path, known_as)
    return of_known(known_model(name)) if name in MODELS else None


def of_known(known: Known) -> Facts:
    """Return what is known of a published model, and what of it is in the cache. No file is opened."""
    from resdiff.checkpoints.cache import cached
    from resdiff.checkpoints.seesr_files import cached_folder

    if isinstance(known, KnownSeeSR):
        return _of_seesr(known, cached_folder(known))
    if isinstance(known, KnownStableSR):
        return _of_stablesr(known, _stablesr_parts(known))
    network = Part(name="network", path=cached(known), url=known.url)
    autoencoder = Part(name="autoencoder", path=cached(known.autoencoder), url=known.autoencoder.url)
    return _of_resshift(known, [network, autoencoder])


def all_known() -> list[Facts]:
    """Return `of_known` of every model in the tables."""
    return [of_known(known) for known in MODELS.values()]


def _of_file(path: Path, known_as: str | None) -> Facts | None:
    """A published file, told by its name or `known_as`; None: its name tells nothing."""
    known = _by_file(path) if known_as is None else known_model(known_as)
    if isinstance(known, KnownSeeSR):
        raise ValueError(f"{path} is a file, and {known.name} is published as a folder; give the folder")
    if known is None:
        return None
    parts = [Part(name="network", path=path)]
    return _of_stablesr(known, parts) if isinstance(known, KnownStableSR) else _of_resshift(known, parts)


def _by_file(path: Path) -> KnownModel | KnownStableSR | None:
    """StableSR's names may be part of a name, so what the file has is looked at too."""
    if (known := known_by_file(path)) is not None:
        return known
    is_for_faces = cfw_is_for_faces(path)
    if stablesr_by_file(path) is None and is_for_faces is None:
        return None
    from resdiff.checkpoints.io import read_shapes
    from resdiff.checkpoints.stablesr_layout import role_of

    role = role_of(read_shapes(path))
    if role == "cfw":
        return STABLESR_MODELS["stablesr-face" if is_for_faces else "stablesr"]
    return None if role is None else stablesr_by_file(path)


def _of_resshift(known: KnownModel, parts: list[Part]) -> Facts:
    return Facts(
        name=known.name,
        family="ResShiftPipeline",
        scale=known.scale,
        steps=known.num_inference_steps,
        licence=known.licence,
        description=known.description,
        parts=parts,
    )


def _of_seesr(known: KnownSeeSR, folder: Path | None) -> Facts:
    """`folder`: with unet/ and controlnet/; None: it is not here."""
    from resdiff.checkpoints.cache import find_file
    from resdiff.checkpoints.seesr_files import found_base, how_to_get, places_around

    places = places_around(folder)
    networks = [Part(name=name, path=None if folder is None else folder / name, url=known.url) for name in NETWORKS]
    tagger = [
        Part(name=of.file, path=find_file([of.file], places), url=of.url, is_own=False) for of in (RAM_FILE, DAPE_FILE)
    ]
    base = Part(name=known.base.name, path=found_base(known.base, places), url=known.base.url, is_own=False)
    return Facts(
        name=known.name,
        family=known.family,
        scale=known.scale,
        steps=known.num_inference_steps,
        licence=f"{known.licence}; base {known.base.licence}",
        description=known.description,
        parts=[*networks, *tagger, base],
        by_hand=how_to_get(known),
    )


def _of_stablesr(known: KnownStableSR, parts: list[Part]) -> Facts:
    from resdiff.checkpoints.stablesr_files import how_to_get

    return Facts(
        name=known.name,
        family=known.family,
        scale=known.scale,
        steps=known.num_inference_steps,
        licence=f"{known.licence}; base {known.base.licence}",
        description=known.description,
        parts=parts,
        by_hand=None if known.weights.is_downloadable else how_to_get(known),
    )


def _stablesr_parts(known: KnownStableSR) -> list[Part]:
    """The files of the cache; an adapter that is there alone needs its base too."""
    from resdiff.checkpoints.seesr_files import found_base, places_around
    from resdiff.checkpoints.stablesr_files import cached_cfw, cached_checkpoint, is_adapter_file

    checkpoint = cached_checkpoint(known)
    parts = [Part(name="network", path=checkpoint, url=known.weights.url)]
    if known.cfw is not None:
        parts.append(Part(name="cfw", path=cached_cfw(known), url=known.cfw.url))
    if checkpoint is not None and is_adapter_file(known, checkpoint):
        base = found_base(known.base, places_around(None))
        parts.append(Part(name=known.base.name, path=base, url=known.base.url, is_own=False))
    return parts


def _of_saved(folder: Path, name: str) -> Facts:
    found = pipeline_description(folder)
    try:
        family = found["_class_name"]
        scale = float(found["scale"] if "scale" in found else SCALES[family])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / 'model_index.json'} is not a pipeline description ({type(error).__name__}); write the folder again"
        ) from error
    return Facts(
        name=name,
        family=family,
        scale=scale,
        steps=found.get("num_inference_steps") or _schedule_steps(folder),
        multiple=found.get("padding_multiple"),
        licence=BUNDLED_LICENCE if name == BUNDLED else _licence_said(folder),
        parts=[Part(name=folder.name, path=folder)],
    )


def _licence_said(folder: Path) -> str | None:
    card = folder / "README.md"
    return f"see {card}" if card.is_file() else None


def _schedule_steps(folder: Path) -> int | None:
    try:
        return int(json_object(folder / "scheduler" / "scheduler_config.json")["num_train_timesteps"])
    except (ValueError, KeyError, TypeError):
        return None
