"""Published weights of StableSR (2305.07015): told apart, completed, checked and loaded.

A checkpoint holds Stable Diffusion with the adapter inside, or the adapter alone, which then needs a base; CFW comes in a
file of its own, with the autoencoder that it was trained around. The UNet becomes diffusers' own, the adapter two networks
beside it. The reference loads what fits and leaves the rest at its initial values; here everything is loaded strictly.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.checkpoints import stablesr_layout as layout
from resdiff.checkpoints.cache import Licensed, cache_dir, find_file, show_licence
from resdiff.checkpoints.io import CheckpointError, load_strictly, read_shapes
from resdiff.checkpoints.known_stablesr import (
    STABLESR_MODELS,
    KnownStableSR,
    cfw_is_for_faces,
    stablesr_by_file,
    stablesr_by_name,
)
from resdiff.checkpoints.ldm import Part, left_over, part_of
from resdiff.checkpoints.stable_diffusion import (
    BUILDERS,
    SD2_CONFIGS,
    Base,
    Configs,
    check_base,
    find_base,
    load_base,
    load_part,
)
from resdiff.checkpoints.stablesr_networks import added_networks, check, encoder
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.spade import SpadeModulation
from resdiff.models.time_aware_encoder import PREDICTIONS, TimeAwareEncoder
from resdiff.schedulers.spaced import SpacedDDPMScheduler

logger = logging.getLogger("resdiff")

NOISE_LEVELS = ("num_train_timesteps", "beta_start", "beta_end")  # of a base's scheduler


class Inside(Base):
    """Stable Diffusion in StableSR's own file, where the adapter lies among the UNet's parameters."""

    def state(self, part: Part, *, shapes_only: bool = False) -> dict[str, Tensor]:
        """As of any base, without the adapter."""
        state = super().state(part, shapes_only=shapes_only)
        return {name: x for name, x in state.items() if not layout.is_adapter(name)}


@dataclass(frozen=True)
class Published:
    """A model of the family and where its parts lie."""

    known: KnownStableSR
    file: Path  # with the adapter
    base: Base  # `Inside` that file, or apart
    cfw_file: Path | None  # with the autoencoder that goes with it
    prediction_type: str

    @property
    def licensed(self) -> list[Licensed]:
        """What was published separately, each under its own licence."""
        return [self.known, self.base.known]


class Components(TypedDict):
    """The parts of a pipeline, networks in eval mode."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: UNet2DConditionModel
    structure_encoder: TimeAwareEncoder
    modulation: SpadeModulation
    cfw: ControllableFeatureWrapping | None
    scheduler: SpacedDDPMScheduler


def resolve(
    given: Sequence[str | Path],
    known_as: str | None = None,
    *,
    base: str | Path | None = None,  # a folder, file or repository of the hub, see `stable_diffusion.find_base`
    cfw_file: str | Path | None = None,
    prediction_type: str | None = None,  # "epsilon" or "v_prediction", instead of the known model's
    configs: Configs = SD2_CONFIGS,  # of Stable Diffusion in a single file, which says nothing of them
) -> Published:
    """Find the parts of a model: `given` are, in any order, its checkpoint, and optionally CFW's and the base.

    The model is `known_as`, else told by the checkpoint's name. Its UNet, text encoder and autoencoder are the base's
    where one is given, where the checkpoint has the adapter alone, and where its name tells a model of another base
    (stablesr_000117.ckpt as stablesr-turbo); otherwise its own. CFW is looked for beside the checkpoint and in
    `cache_dir()`; there may be none. Of the weights only names and shapes are read. Raises CheckpointError, one line:
    something given is of another kind, the model cannot be told, or parts are missing or do not fit together;
    ValueError: `known_as` or `prediction_type` is unknown.
    """
    if prediction_type not in (None, *PREDICTIONS):
        raise ValueError(f"prediction_type is {prediction_type!r}; choose one of {', '.join(PREDICTIONS)}")
    found = _by_role(given, base, cfw_file)
    if "checkpoint" not in found:
        files = ", ".join(known.weights.file for known in STABLESR_MODELS.values())
        raise CheckpointError(f"no checkpoint of StableSR is given; give one, such as {files}")
    file = Path(found["checkpoint"])
    shapes = read_shapes(file)
    _refuse_strays(file, shapes)
    by_name = stablesr_by_file(file)
    known = _known(file, by_name, known_as)
    predicts = prediction_type or known.prediction_type
    cfw = _cfw_file(found.get("CFW"), known, file)
    check(encoder(shapes, predicts, file))  # before the base, which may have to be downloaded
    has_other_base = by_name is not None and by_name.base is not known.base
    if "base" in found or has_other_base or layout.role_of(shapes) == "adapter":
        found_base = find_base(found.get("base"), known.base, [file.parent], with_unet=True, configs=configs)
    else:
        found_base = Inside(file, known.base, {**configs, "scheduler": known.base.scheduler})
        check_base(found_base)
    networks = added_networks(file, cfw, found_base.configs, predicts, shapes_only=True)
    for filled in networks.values():
        check(filled)
    published = Published(known, file, found_base, cfw, predicts)
    _check_together(published, networks["structure_encoder"].network)
    return published


def load(published: Published, dtype: torch.dtype = torch.float32) -> Components:
    """Load the networks of `resolve`'s answer, with scheduler and tokenizer; licences are said the first time.

    Without its file there is no CFW, which the log says where one was published. Raises CheckpointError.
    """
    known, base = published.known, published.base
    show_licence(known)
    if published.cfw_file is None and known.cfw is not None:
        logger.warning(
            "%s is loaded without CFW, results keep less of the input: put %s beside %s, or give it (cfw_file= in Python)",
            *(known.name, known.cfw.url, published.file),
        )
    components = load_base(base, dtype)
    networks = added_networks(published.file, published.cfw_file, base.configs, published.prediction_type)
    for network, state, source in networks.values():
        load_strictly(network, state, source=source, dtype=dtype)
    own: dict[str, Any] = {name: filled.network for name, filled in networks.items()}
    return {
        "vae": own.get("vae", components["vae"]),
        "text_encoder": components["text_encoder"],
        "tokenizer": components["tokenizer"],
        "unet": load_part(base, "unet", dtype),
        "structure_encoder": own["structure_encoder"],
        "modulation": own["modulation"],
        "cfw": own.get("cfw"),
        "scheduler": _scheduler(components["scheduler"], published),
    }


# --- what is given ---------------------------------------------------------------------------------------------------


def _by_role(
    given: Sequence[str | Path], base: str | Path | None, cfw_file: str | Path | None
) -> dict[str, str | Path]:
    found: dict[str, str | Path] = {}
    roles = [(_role(Path(path)), path) for path in given]
    if cfw_file is not None:
        if (role := _role(Path(cfw_file))) != "CFW":
            raise CheckpointError(f"{cfw_file} is the {role}, not CFW; give a file with {layout.FUSION}*")
        roles.append((role, cfw_file))
    if base is not None:
        roles.append(("base", base))
    for role, path in roles:
        if role in found:
            raise CheckpointError(f"{found[role]} and {path} are both the {role}; give one")
        found[role] = path
    return found


def _role(path: Path) -> str:
    """What something given is, by its content."""
    if path.is_dir():
        if (path / "structure_encoder").is_dir():
            raise CheckpointError(f"{path} is a saved pipeline already; use it as it is")
        return "base"
    shapes = read_shapes(path)
    role = layout.role_of(shapes)
    if role is None and not any(part_of(shapes, part) for part in BUILDERS):
        raise CheckpointError(
            f"{path} is neither of StableSR nor Stable Diffusion: it has no {layout.STRUCTURE}* with {layout.SPADE}, no "
            f"{layout.FUSION}*; give one of its files"
        )
    return {None: "base", "cfw": "CFW"}.get(role, "checkpoint")


def _refuse_strays(file: Path, shapes: layout.State) -> None:
    """Raise CheckpointError for names that belong neither to the adapter nor to a whole Stable Diffusion."""
    others = {name: x for name, x in shapes.items() if not layout.is_adapter(name)}
    strays = left_over(others)
    if layout.role_of(shapes) == "adapter":
        strays += [name for part in BUILDERS for name in part_of(others, part)]
    if strays:
        raise CheckpointError(
            f"{file} has names of no part of StableSR ({', '.join(strays[:3])}); use a published file"
        )


def _known(file: Path, by_name: KnownStableSR | None, known_as: str | None) -> KnownStableSR:
    if known_as is None:
        if by_name is None:
            names = ", ".join(STABLESR_MODELS)
            raise CheckpointError(f"{file} could be {names}; say which with --as NAME (in Python known_as=NAME)")
        return by_name
    known = stablesr_by_name(known_as)
    if by_name is not None and (by_name.for_faces, by_name.prediction_type) != (known.for_faces, known.prediction_type):
        raise CheckpointError(f"{file} is {by_name.name} by its name, not {known_as}; pass --as {by_name.name}")
    return known


def _cfw_file(given: str | Path | None, known: KnownStableSR, file: Path) -> Path | None:
    if given is None:
        return None if known.cfw is None else find_file(known.cfw.files, [file.parent, cache_dir()])
    for_faces = cfw_is_for_faces(given)
    if for_faces is not None and for_faces != known.for_faces:
        kind, other = ("faces", "other images") if for_faces else ("other images", "faces")
        raise CheckpointError(
            f"{given} is the CFW of {kind} by its name, and {known.name} is for {other}; give its own"
        )
    return Path(given)


def _check_together(published: Published, encoder: TimeAwareEncoder) -> None:
    """Raise CheckpointError unless the encoder takes the base's latents and gives features at each size of its UNet."""
    configs = published.base.configs
    channels, levels = configs["vae"]["latent_channels"], len(configs["unet"]["block_out_channels"])
    if encoder.config.in_channels != channels or len(encoder.config.channel_mult) < levels:
        raise CheckpointError(
            f"{published.file} encodes latents of {encoder.config.in_channels} channels at "
            f"{len(encoder.config.channel_mult)} sizes, and the base {published.base.path} has {channels} and {levels}; "
            "use the base it adapts"
        )


def _scheduler(config: dict[str, Any], published: Published) -> SpacedDDPMScheduler:
    """StableSR's sampler with the noise levels of the base, whose own is of another class."""
    if config.get("beta_schedule", "scaled_linear") != "scaled_linear":
        raise CheckpointError(
            f"{published.base.source('scheduler')} has a beta_schedule other than scaled_linear; use the base it adapts"
        )
    levels = {key: config[key] for key in NOISE_LEVELS if key in config}
    return SpacedDDPMScheduler(**levels, prediction_type=published.prediction_type)
