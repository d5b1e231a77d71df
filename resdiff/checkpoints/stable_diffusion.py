"""Stable Diffusion 2 (2112.10752), which SeeSR, AddSR and StableSR adapt: found, checked and loaded, whatever form it has.

It may be a diffusers folder, a single file in ldm's or diffusers' layout, or a repository of the Hugging Face hub.
diffusers' own loaders fetch configurations, only warn of names that do not fit, and open a model of another kind; here
every name is accounted for, and another kind is refused. What a single file does not tell is assumed to be as in the
published model: the sizes (`SD2_CONFIGS`) and the noise schedule (`KnownBase.scheduler`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from resdiff.checkpoints import hub
from resdiff.checkpoints.cache import cache_dir, offline, show_licence
from resdiff.checkpoints.folders import build, read_config, read_weights, weight_files
from resdiff.checkpoints.io import CheckpointError, check_fit, load_strictly, read_shapes, read_state_dict
from resdiff.checkpoints.known_bases import SD2_BASE, KnownBase, base_by_file
from resdiff.checkpoints.known_seesr import FLAG
from resdiff.checkpoints.ldm import Part, State, current_names, left_over, part_of
from resdiff.checkpoints.stablesr_layout import STRUCTURE

Configs = Mapping[str, dict[str, Any]]  # of "vae", "text_encoder", "unet", and for folders "scheduler"

SD2_CONFIGS: Configs = {
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 768,
        "scaling_factor": 0.18215,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 23,  # of OpenCLIP's 24: version 2 conditions on the last but one
        "num_attention_heads": 16,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
        "projection_dim": 512,
    },
    "unet": {
        "sample_size": 64,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],  # numbers of heads, in spite of the name
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
}
# What a folder's configurations must say, because names and sizes of other parts depend on it.
NEEDED: Mapping[Part, tuple[str, ...]] = {
    "vae": ("latent_channels", "block_out_channels", "down_block_types", "up_block_types"),
    "text_encoder": ("hidden_size", "num_hidden_layers"),
    "unet": ("block_out_channels", "layers_per_block"),
}
OTHER_WIDTHS = {768: "Stable Diffusion 1", 1280: "SDXL's refiner", 2048: "SDXL"}  # of the text, as the UNet sees it
LATENT_CHANNELS = 4
OTHER_CHANNELS = {5: "a depth-to-image model", 7: "an x4 upscaler", 9: "an inpainting model"}  # that the UNet takes
UNET_INLETS = ("model.diffusion_model.input_blocks.0.0.weight", "unet.conv_in.weight")
SECOND_TEXT_ENCODER = ("conditioner.embedders.1.", "text_encoder_2.")


@dataclass(frozen=True)
class Base:
    """Stable Diffusion on disk, and how it is configured."""

    path: Path  # a diffusers folder or a single file
    known: KnownBase
    configs: Configs

    def source(self, part: str) -> Path:
        """Where a part lies, for messages."""
        return self.path / part if self.path.is_dir() else self.path

    def state(self, part: Part, *, shapes_only: bool = False) -> dict[str, Tensor]:
        """Read a part's weights under today's names, on the meta device if `shapes_only`. Raises CheckpointError."""
        if self.path.is_dir():
            state: State = read_weights(self.path / part, shapes_only=shapes_only)
        else:
            state = part_of(read_shapes(self.path) if shapes_only else read_state_dict(self.path), part)
        return current_names(state, part, self.configs[part], self.source(part))


class BaseComponents(TypedDict):
    """The parts that adapters take from their base as they are."""

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: dict[str, Any]  # a scheduler's configuration; x0 is not clipped


def text_encoder_from(config: dict[str, Any]) -> CLIPTextModel:
    """Build the text encoder from its config.json."""
    return CLIPTextModel(CLIPTextConfig.from_dict(config))


BUILDERS: dict[Part, Callable[[dict[str, Any]], Any]] = {
    "vae": AutoencoderKL.from_config,
    "text_encoder": text_encoder_from,
    "unet": UNet2DConditionModel.from_config,
}


def find_base(
    where: str | Path | None = None,  # a folder, a single file, or a repository of the hub; None: see below
    known: KnownBase = SD2_BASE,
    beside: Sequence[Path] = (),  # folders that may hold it, looked into first
    *,
    with_unet: bool = False,  # the UNet's own weights are needed too
    configs: Configs = SD2_CONFIGS,  # of a single file, which says nothing of them
) -> Base:
    """Find Stable Diffusion and check that it is the right kind and whole. Only names and shapes are read.

    Without `where` it is looked for under its published names `beside` and in `cache_dir()`, then in the hub's cache,
    and downloaded from the first mirror that has it. What the UNet of a single file predicts only its name tells.
    Raises CheckpointError, one line: it is nowhere (the message names all ways to give it), of another kind, or damaged.
    """
    parts: tuple[Part, ...] = ("vae", "text_encoder", "unet") if with_unet else ("vae", "text_encoder")
    path = _locate(where, known, beside, parts)
    if path.is_dir():
        _refuse(path, known, _kind_of_folder(path))
        if lacking := [name for name in (*parts, "scheduler") if not _has(path, name)]:
            raise CheckpointError(f"{path} lacks {', '.join(lacking)}; {ways_to_give(known)}")
        read: dict[str, dict[str, Any]] = {part: _config_of(path, part) for part in parts}
        base = Base(path, known, read | {"scheduler": _scheduler_of(path, known)})
    else:
        shapes = read_shapes(path)
        _refuse(path, known, _kind_of_file(shapes))
        _refuse_prediction(path, known, (base_by_file(path) or known).prediction_type)
        if lacking := [part for part in parts if not part_of(shapes, part)]:
            raise CheckpointError(f"{path} lacks {', '.join(lacking)}; {ways_to_give(known)}")
        if names := left_over(shapes):
            raise CheckpointError(f"{path} has names of no part of Stable Diffusion 2 ({', '.join(names[:3])})")
        base = Base(path, known, {**configs, "scheduler": known.scheduler})
    check_base(base, parts)
    return base


def check_base(base: Base, parts: Sequence[Part] = ("vae", "text_encoder", "unet")) -> None:
    """Raise CheckpointError, one line, unless the parts have the names and shapes that their configurations say."""
    for part in parts:
        model = build(BUILDERS[part], base.configs[part], base.source(part))
        check_fit(model, base.state(part, shapes_only=True), source=base.source(part))


def load_base(base: Base, dtype: torch.dtype = torch.float32) -> BaseComponents:
    """Load the autoencoder and the text encoder strictly, in eval mode, and their tokenizer; the licence is said once.

    Raises CheckpointError; ValueError without open_clip, where the base comes without tokenizer.
    """
    show_licence(base.known)
    text_encoder = load_part(base, "text_encoder", dtype)
    return {
        "vae": load_part(base, "vae", dtype),
        "text_encoder": text_encoder,
        "tokenizer": _tokenizer(base, text_encoder.config),
        "scheduler": base.configs["scheduler"] | {"clip_sample": False},
    }


def load_part(base: Base, part: Part, dtype: torch.dtype = torch.float32) -> Any:
    """Load one network strictly, in eval mode: AutoencoderKL, CLIPTextModel or UNet2DConditionModel. Raises CheckpointError."""
    model = build(BUILDERS[part], base.configs[part], base.source(part))
    load_strictly(model, base.state(part), source=base.source(part), dtype=dtype)
    return model


def ways_to_give(known: KnownBase) -> str:
    """Return half a sentence: every way in which a user can give the base."""
    return (
        f"{known.name} is needed: give its diffusers folder, a single file (.safetensors, .ckpt) or a repository of the "
        f"Hugging Face hub ({', '.join(known.mirrors)}), or put the folder into {cache_dir()} as {known.name}"
    )


def _locate(where: str | Path | None, known: KnownBase, beside: Sequence[Path], parts: Sequence[Part]) -> Path:
    def is_whole(folder: Path) -> bool:
        return all(_has(folder, name) for name in (*parts, "scheduler"))

    if where is not None and Path(where).exists():
        return Path(where)
    if where is not None and not hub.is_repository(str(where)):
        raise CheckpointError(f"{where} does not exist; {ways_to_give(known)}")
    if where is None:
        for path in (folder / name for folder in (*beside, cache_dir()) for name in known.folders):
            if path.is_dir():
                return path
    repositories = (*known.removed, *known.mirrors) if where is None else (str(where),)
    for repository in repositories:
        if (folder := hub.cached(repository)) is not None and is_whole(folder):
            return folder
    if not offline():
        show_licence(known)
    reasons = []
    for repository in known.mirrors if where is None else repositories:
        try:
            return hub.download(repository, parts, is_whole)
        except CheckpointError as error:
            reasons.append(str(error))
    raise CheckpointError(f"{reasons[0]}; {ways_to_give(known)}")


def _has(folder: Path, name: str) -> bool:
    """Whether a diffusers folder has a component, its weights too."""
    if name == "scheduler":
        return (folder / name / "scheduler_config.json").is_file()
    try:
        return (folder / name / "config.json").is_file() and bool(weight_files(folder / name))
    except ValueError:  # a shard is missing: of a download that broke off
        return False


def _refuse(path: Path, known: KnownBase, kind: str | None) -> None:
    if kind is not None:
        raise CheckpointError(f"{path} is {kind}; {ways_to_give(known)}")


def _kind(has_image_attentions: bool, has_second_encoder: bool, width: object, in_channels: object) -> str | None:
    """Say what other model it is, None for Stable Diffusion 2."""
    if has_image_attentions:
        return "SeeSR, not its base"
    if has_second_encoder:
        return "of the SDXL family"
    if isinstance(width, int) and width in OTHER_WIDTHS:
        return OTHER_WIDTHS[width]
    if isinstance(in_channels, int) and in_channels != LATENT_CHANNELS:
        return OTHER_CHANNELS.get(in_channels, f"a model whose UNet takes {in_channels} channels")
    return None


def _kind_of_folder(path: Path) -> str | None:
    unet = read_config(path / "unet") if (path / "unet" / "config.json").is_file() else {}
    text = read_config(path / "text_encoder") if (path / "text_encoder" / "config.json").is_file() else {}
    if (path / "transformer").is_dir():
        return "a model with a transformer in place of the UNet"
    return _kind(
        bool(unet.get(FLAG)) or (path / "controlnet").is_dir(),
        (path / "text_encoder_2").is_dir(),
        unet.get("cross_attention_dim", text.get("hidden_size")),
        unet.get("in_channels"),
    )


def _kind_of_file(shapes: State) -> str | None:
    widths = [x.shape[-1] for name, x in shapes.items() if name.endswith("token_embedding.weight") and x.ndim]
    inlets = [shapes[name].shape[1] for name in UNET_INLETS if name in shapes and shapes[name].ndim == 4]
    if any(name.startswith(STRUCTURE) for name in shapes):
        return "StableSR, not its base"
    return _kind(
        any(".image_attentions." in name for name in shapes),
        any(name.startswith(SECOND_TEXT_ENCODER) for name in shapes),
        widths[0] if widths else None,
        inlets[0] if inlets else None,
    )


def _config_of(path: Path, part: Part) -> dict[str, Any]:
    config = read_config(path / part)
    if lacking := [key for key in NEEDED[part] if key not in config]:
        raise CheckpointError(f"{path / part / 'config.json'} lacks {', '.join(lacking)}; download it again")
    return config


def _scheduler_of(path: Path, known: KnownBase) -> dict[str, Any]:
    config = read_config(path / "scheduler", "scheduler_config.json")
    _refuse_prediction(path, known, config.get("prediction_type", "epsilon"))
    return config


def _refuse_prediction(path: Path, known: KnownBase, predicts: str) -> None:
    wanted = known.prediction_type
    _refuse(path, known, None if predicts == wanted else f"a model whose UNet predicts {predicts}, not {wanted}")


def _tokenizer(base: Base, config: CLIPTextConfig) -> CLIPTokenizer:
    """The base's own, else OpenCLIP's, which has the same vocabulary."""
    folder = base.path / "tokenizer"
    if not folder.is_dir():
        from resdiff.text.tokenizer import clip_tokenizer

        return clip_tokenizer()
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the parser's, which is not Python
        raise CheckpointError(f"{folder} cannot be read ({' '.join(str(error).split())}); download it again") from error
    if not 0 < tokenizer.model_max_length <= config.max_position_embeddings or len(tokenizer) > config.vocab_size:
        raise CheckpointError(
            f"{folder} has {len(tokenizer)} words for texts of {tokenizer.model_max_length} tokens, and the text encoder "
            f"{config.vocab_size} and {config.max_position_embeddings}; download both again"
        )
    return tokenizer
