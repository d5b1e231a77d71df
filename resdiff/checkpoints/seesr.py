"""Published weights of SeeSR (2311.16518), SeeSR-Turbo and AddSR (2404.01717): found, checked and loaded.

A published folder holds `unet/` and `controlnet/`; Stable Diffusion, the tagger and its update lie beside it
(preset/models of cswry/SeeSR). Parameter names are the reference's, so there is nothing to rename. SeeSR-Turbo is
SeeSR's image attentions in SD-Turbo's UNet. The reference loads what fits and leaves the rest at its initial values;
here everything is loaded strictly.
"""

import inspect
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.checkpoints.cache import Licensed, cache_dir, find_file, show_licence
from resdiff.checkpoints.folders import REFUSALS, build, read_config, read_weights
from resdiff.checkpoints.io import CheckpointError, check_fit, load_strictly, read_shapes
from resdiff.checkpoints.known_seesr import (
    DAPE_FILE,
    FLAG,
    RAM_FILE,
    SEESR_MODELS,
    KnownSeeSR,
    seesr_by_folder,
    seesr_by_name,
)
from resdiff.checkpoints.ram import load_ram
from resdiff.checkpoints.seesr_files import (
    cached_folder,
    has_networks,
    how_to_get,
    how_to_get_tagger,
    is_published_folder,
    places_around,
)
from resdiff.checkpoints.stable_diffusion import Base, find_base, load_base
from resdiff.checkpoints.tag_lists import TAGS, THRESHOLDS, TagLists, tag_lists
from resdiff.models.ram import RAM
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.schedulers.ddpm import DDPMScheduler

logger = logging.getLogger("resdiff")

IMAGE_ATTENTIONS = ".image_attentions."  # in the names of what SeeSR adds to a UNet
SHARED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block")  # by UNet and ControlNet


@dataclass(frozen=True)
class Published:
    """A model of the family and where its parts lie."""

    known: KnownSeeSR
    folder: Path  # with unet/ and controlnet/
    base: Base
    ram_file: Path | None  # without both of these there is no tagger
    dape_file: Path | None

    @property
    def licensed(self) -> list[Licensed]:
        """What was published separately, each under its own licence."""
        tagger = [RAM_FILE, DAPE_FILE] if self.ram_file and self.dape_file else []
        return [self.known, self.base.known, *tagger]


class Components(TypedDict):
    """The parts of a pipeline, networks in eval mode."""

    unet: SeeSRUNet
    controlnet: SeeSRControlNet
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDPMScheduler
    tagger: RAM | None


def resolve(
    given: Sequence[str | Path],
    known_as: str | None = None,
    *,
    base: str | Path | None = None,  # a folder, file or repository of the hub, see `stable_diffusion.find_base`
    ram_file: str | Path | None = None,
    dape_file: str | Path | None = None,
) -> Published:
    """Find the parts of a model: `given` are, in any order, its folder, and optionally the base's and the tagger's files.

    The model is `known_as`, else told by the folder's name. The tagger's files are looked for under their published
    names in the folder, its parent and `cache_dir()`; the base likewise, and it may be downloaded. Of the weights only
    names and shapes are read. Raises CheckpointError, one line: something given is of another kind, the model cannot be
    told, or parts are missing or do not fit together; ValueError: `known_as` is unknown.
    """
    found: dict[str, str | Path] = {}
    explicit = {"base": base, "tagger": ram_file, "tagger's update": dape_file}
    roles = [(_role(Path(path)), path) for path in given]
    for role, path in roles + [(role, path) for role, path in explicit.items() if path is not None]:
        if role in found:
            raise CheckpointError(f"{found[role]} and {path} are both the {role}; give one")
        found[role] = path
    if "model" not in found:
        raise CheckpointError("no folder with unet/ and controlnet/ is given; give the one published as seesr or addsr")
    folder = Path(found["model"])
    known = seesr_by_folder(folder.resolve().name) if known_as is None else seesr_by_name(known_as)
    if known is None:
        names = ", ".join(SEESR_MODELS)
        raise CheckpointError(f"{folder} could be {names}; say which with --as NAME (in Python known_as=NAME)")
    unet, state = _unet(folder, shapes_only=True)  # before the base, which may have to be downloaded
    check_fit(unet, state, source=folder / "unet")
    controlnet, state = _controlnet(known, folder, shapes_only=True)
    check_fit(controlnet, state, source=folder / "controlnet")
    places = places_around(folder)
    found_base = find_base(found.get("base"), known.base, places, with_unet=known.swaps_unet)
    if known.swaps_unet:
        unet, state = _swapped_unet(folder, found_base, shapes_only=True)
        check_fit(unet, state, source=found_base.source("unet"))
    _check_together(folder, unet, controlnet, found_base)
    return Published(
        known,
        folder,
        found_base,
        _tagger_file(found.get("tagger"), RAM_FILE.file, places),
        _tagger_file(found.get("tagger's update"), DAPE_FILE.file, places),
    )


def in_cache(
    name: str,
    *,
    base: str | Path | None = None,
    ram_file: str | Path | None = None,
    dape_file: str | Path | None = None,
) -> Published:
    """Find a model by its name in `cache_dir()`, where its folder has been put by hand; otherwise as `resolve`."""
    known = seesr_by_name(name)
    if (folder := cached_folder(known)) is None:
        raise CheckpointError(f"{name} is not in {cache_dir()}: {how_to_get(known)}")
    return resolve([folder], name, base=base, ram_file=ram_file, dape_file=dape_file)


def complete(name: str) -> Published:
    """As `in_cache`, after downloading what can be: the base and the lists of tags. The tagger must be there.

    Raises CheckpointError, one line: something is missing, and where to get it, or does not fit.
    """
    published = in_cache(name)
    if missing := _missing_tagger(published):
        raise CheckpointError(f"{name} lacks {missing}: put {how_to_get_tagger()}")
    for path, role in ((published.ram_file, "tagger"), (published.dape_file, "tagger's update")):
        if path is not None and (found := _role(path)) != role:
            raise CheckpointError(f"{path} is the {found}, not the {role}; download it again")
    tag_lists(published.ram_file)
    return published


def load(published: Published, dtype: torch.dtype = torch.float32) -> Components:
    """Load the networks of `resolve`'s answer, with scheduler, tokenizer and tagger; licences are said the first time.

    Without its two files there is no tagger, and without its lists, which are downloaded, no names of tags; the log says
    so. Raises CheckpointError.
    """
    known, folder, base = published.known, published.folder, published.base
    show_licence(known)
    components = load_base(base, dtype)
    unet, state = _swapped_unet(folder, base) if known.swaps_unet else _unet(folder)
    load_strictly(unet, state, source=folder / "unet", dtype=dtype)
    controlnet, state = _controlnet(known, folder)
    load_strictly(controlnet, state, source=folder / "controlnet", dtype=dtype)
    return {
        "unet": unet,
        "controlnet": controlnet,
        "vae": components["vae"],
        "text_encoder": components["text_encoder"],
        "tokenizer": components["tokenizer"],
        "scheduler": _scheduler(components["scheduler"], base),
        "tagger": _tagger(published, dtype),
    }


def _role(path: Path) -> str:
    """What something given is, by its content."""
    if path.is_dir():
        if is_published_folder(path):
            return "model"
        if has_networks(path) or (path / "structure_encoder").is_dir():  # SeeSR's, StableSR's
            raise CheckpointError(f"{path} is a saved pipeline already; use it as it is")
        if (path / "vae").is_dir() or (path / "text_encoder").is_dir():
            return "base"
        inside = next((name for name in SEESR_MODELS if has_networks(path / name)), None)
        hint = "the folder that holds unet/ and controlnet/" if inside is None else path / inside
        raise CheckpointError(f"{path} is neither of the SeeSR family nor Stable Diffusion; give {hint}")
    if path.name in (TAGS, THRESHOLDS):
        raise CheckpointError(f"{path} is not given by itself: it is found beside {RAM_FILE.file}; leave it out")
    names = read_shapes(path)
    if all(".lora_" in name for name in names):
        return "tagger's update"
    return "tagger" if "label_embed" in names else "base"


def _unet(folder: Path, *, shapes_only: bool = False) -> tuple[SeeSRUNet, dict[str, Tensor]]:
    """The UNet on the meta device and its weights; the following two likewise."""
    config = _config(folder, "unet")
    unet = build(SeeSRUNet.from_config, config, folder / "unet")
    return unet, read_weights(folder / "unet", shapes_only=shapes_only)


def _swapped_unet(folder: Path, base: Base, *, shapes_only: bool = False) -> tuple[SeeSRUNet, dict[str, Tensor]]:
    added = read_weights(folder / "unet", shapes_only=shapes_only)
    added = {name: x for name, x in added.items() if IMAGE_ATTENTIONS in name}
    unet = build(SeeSRUNet.from_config, base.configs["unet"] | {FLAG: True}, base.source("unet"))
    return unet, base.state("unet", shapes_only=shapes_only) | added


def _controlnet(
    known: KnownSeeSR, folder: Path, *, shapes_only: bool = False
) -> tuple[SeeSRControlNet, dict[str, Tensor]]:
    controlnet = build(SeeSRControlNet.from_config, _config(folder, "controlnet"), folder / "controlnet")
    state = read_weights(folder / "controlnet", shapes_only=shapes_only)
    if known.has_stray_names and (stray := state.keys() - controlnet.state_dict().keys()):
        state = {name: x for name, x in state.items() if name not in stray}
        modules = ", ".join(sorted({name.partition(".")[0] for name in stray}))
        if not shapes_only:
            logger.warning("%s: %d names are ignored, of %s", folder / "controlnet", len(stray), modules)
    return controlnet, state


def _config(folder: Path, part: str) -> dict[str, Any]:
    config = read_config(folder / part)
    if config.get(FLAG) is not True:
        raise CheckpointError(
            f"{folder / part} is not of the SeeSR family: its config.json has no {FLAG}; give SeeSR's or AddSR's folder"
        )
    return config


def _check_together(folder: Path, unet: SeeSRUNet, controlnet: SeeSRControlNet, base: Base) -> None:
    """Raise CheckpointError unless the two networks, the text encoder and the autoencoder can work together."""
    for key in SHARED:
        if unet.config[key] != controlnet.config[key]:
            raise CheckpointError(
                f"{folder / 'controlnet'} has {key} {controlnet.config[key]}, and the UNet {unet.config[key]}; "
                "use both of the same model"
            )
    given = {"cross_attention_dim": base.configs["text_encoder"]["hidden_size"]}
    given["in_channels"] = base.configs["vae"]["latent_channels"]
    for key, number in given.items():
        if unet.config[key] != number:
            raise CheckpointError(
                f"{folder} has {key} {unet.config[key]}, and the base {base.path} gives {number}; use the base it adapts"
            )


def _tagger_file(given: str | Path | None, name: str, folders: Sequence[Path]) -> Path | None:
    if given is None:
        return find_file([name], folders)
    if not Path(given).is_file():
        raise CheckpointError(f"{given} is not a file; give {name}")
    return Path(given)


def _missing_tagger(published: Published) -> str:
    """The tagger's files that are not there, "" if both are."""
    wanted = ((published.ram_file, RAM_FILE), (published.dape_file, DAPE_FILE))
    return " and ".join(part.file for path, part in wanted if path is None)


def _tagger(published: Published, dtype: torch.dtype) -> RAM | None:
    if published.ram_file is None or published.dape_file is None:
        logger.warning(
            "%s is loaded without its tagger, %s lacks: put %s, or pass tags and image_embeds yourself",
            *(published.known.name, _missing_tagger(published), how_to_get_tagger()),
        )
        return None
    show_licence(RAM_FILE)
    lists: TagLists | tuple[None, None] = (None, None)
    try:
        lists = tag_lists(published.ram_file)
    except CheckpointError as error:
        logger.warning("%s is loaded without names of tags: %s", published.known.name, error)
    return load_ram(published.ram_file, published.dape_file, lists[0], lists[1], dtype)


def _scheduler(config: dict[str, Any], base: Base) -> DDPMScheduler:
    """DDPM's sampler with the noise levels of the base, whose own is of another class."""
    known = inspect.signature(DDPMScheduler.__init__).parameters
    try:
        return DDPMScheduler(**{key: value for key, value in config.items() if key in known})
    except REFUSALS as error:
        said = " ".join(str(error).split())
        raise CheckpointError(
            f"{base.source('scheduler')} describes no scheduler ({said}); download it again"
        ) from error
