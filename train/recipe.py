"""From the sections of a recipe to networks, scheduler, pipeline and degradation."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from resdiff.checkpoints.io import read_state_dict
from resdiff.checkpoints.resshift import load_autoencoder
from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.presets import from_yaml, preset
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.arguments import option

WRONG_OPTIONS = (TypeError, ValueError, RuntimeError, ArithmeticError, LookupError)  # what values nobody meant end with


@dataclass(frozen=True, kw_only=True)
class ModelArguments:
    """What is trained, and on what kind of LR images: with the weights, everything that sampling needs."""

    unet: dict[str, Any] = option({"_class_name": "PixelUNet"}, "class and options of the network")
    scheduler: dict[str, Any] = option({}, "options of ResShiftScheduler")
    vae: dict[str, Any] | None = option(None, "options of VQAutoencoder; none: the chain runs on pixels")
    pipeline: dict[str, Any] = option({}, "options of ResShiftPipeline")
    pretrained_vae: Path | None = option(None, "published autoencoder file, or folder of a saved one")
    pretrained_model_name_or_path: str | None = option(None, "ResShift model to go on from, as SRPipeline opens it")
    pretrained_part: Literal["all", "predictor"] = option(
        "all", "of that model, a PixelUNet: the predictor alone, for a chain of another schedule"
    )
    degradation: str | dict[str, Any] = option("bicubic-pil", "name of a preset; in a recipe also its options")
    pair_pool: int = option(
        0, "samples each process keeps and draws its batches from, a multiple of its batch; 0: none"
    )

    @property
    def scale(self) -> int:
        """HR side over LR side. Raises ValueError when the recipe's is no positive whole number."""
        scale = self.pipeline.get("scale", 4)
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f"the recipe's pipeline has scale {scale!r}; it must be a positive whole number")
        return scale


def construct(cls: Callable[..., Any], section: dict[str, Any], name: str) -> Any:
    """Call `cls` with the options of a recipe's section. Raises ValueError in one line for those it does not know."""
    known = inspect.signature(cls).parameters
    for key in section:
        if key not in known:
            raise ValueError(f"the recipe's {name} has no option {key!r}; it knows {', '.join(known)}")
    try:
        return cls(**section)
    except WRONG_OPTIONS as error:
        raise ValueError(f"the recipe's {name}: {' '.join(str(error).split())}") from None


def build_unet(section: dict[str, Any]) -> PixelUNet | SwinUNet:
    """Return the network of a recipe, with random weights."""
    classes = {"PixelUNet": PixelUNet, "SwinUNet": SwinUNet}
    options = dict(section)
    name = options.pop("_class_name", None)
    if name not in classes:
        raise ValueError(f"the recipe's unet has _class_name {name!r}; choose {', '.join(classes)}")
    return construct(classes[name], options, "unet")


def build_vae(section: dict[str, Any] | None, pretrained: Path | None) -> VQAutoencoder | None:
    """Return the frozen autoencoder: that of a published file or a saved folder, checked against the recipe.

    Raises ValueError when there is none and the recipe needs one, when there is one and it does not, or when they differ.
    """
    if section is None:
        if pretrained is not None:
            raise ValueError("--pretrained_vae is for recipes with an autoencoder; this one works on pixels")
        return None
    if pretrained is None:
        raise ValueError(
            "this recipe works in latent space: pass --pretrained_vae, a file such as autoencoder_vq_f4.pth"
        )
    if not pretrained.exists():
        raise ValueError(f"--pretrained_vae {pretrained} does not exist")
    if pretrained.is_dir():
        try:
            vae = VQAutoencoder.from_pretrained(pretrained, dtype=torch.float32)
        except OSError as error:
            raise ValueError(f"--pretrained_vae {pretrained}: {' '.join(str(error).split())}") from error
    else:
        vae = load_autoencoder(read_state_dict(pretrained), torch.float32, pretrained)
    wanted = construct(VQAutoencoder, section, "vae").config
    for key in ("ch", "ch_mult", "embed_dim", "n_embed"):
        if listed(vae.config[key]) != listed(wanted[key]):
            raise ValueError(f"--pretrained_vae {pretrained} has {key} {vae.config[key]}, the recipe {wanted[key]}")
    return vae


def listed(value: Any) -> Any:
    """A tuple as the list that it is in a config file."""
    return list(value) if isinstance(value, tuple) else value


def build_pipeline(args: ModelArguments, seed: int) -> ResShiftPipeline:
    """Return the pipeline that is trained: everything that sampling will need, from the recipe.

    Raises ValueError in one line for options that do not exist or do not fit together, and for a pretrained model that
    is not the recipe's.
    """
    if args.pretrained_model_name_or_path is not None and args.pretrained_part == "all":
        return open_pretrained(args, args.pretrained_model_name_or_path)
    vae = build_vae(args.vae, args.pretrained_vae)
    torch.manual_seed(seed)  # the same weights in every process
    unet = build_unet(args.unet).to(memory_format=torch.channels_last)
    scheduler = construct(ResShiftScheduler, args.scheduler, "scheduler")
    options = {"padding_multiple": unet.size_multiple} | args.pipeline
    parts = {"unet": unet, "vae": vae, "scheduler": scheduler}
    if clash := parts.keys() & options.keys():
        raise ValueError(f"the recipe's pipeline names {', '.join(clash)}, which have sections of their own")
    if isinstance(unet, PixelUNet) and unet.scale != args.scale:
        raise ValueError(f"the recipe's unet has scale {unet.scale}, its pipeline {args.scale}; make them equal")
    check_network(args)
    pipe = construct(ResShiftPipeline, parts | options, "pipeline")
    if args.pretrained_part == "predictor":
        take_over_predictor(args, unet)
    return pipe


def take_over_predictor(args: ModelArguments, unet: PixelUNet | SwinUNet) -> None:
    """Give a new network the predictor of the pretrained model; its denoiser starts anew.

    Raises ValueError in one line unless both are of PixelUNet, alike in what the predictor is made of.
    """
    model = args.pretrained_model_name_or_path
    if model is None:
        raise ValueError("--pretrained_part predictor needs --pretrained_model_name_or_path, the model that has it")
    found = getattr(SRPipeline.from_pretrained(model, dtype=torch.float32), "unet", None)
    if not isinstance(found, PixelUNet) or not isinstance(unet, PixelUNet):
        raise ValueError(f"--pretrained_part predictor is a part of PixelUNet, which {model} and the recipe must be of")
    for key in ("scale", "channels", "num_blocks", "image_channels"):
        if listed(found.config[key]) != listed(unet.config[key]):
            raise ValueError(
                f"{model} has unet.{key} {found.config[key]}, the recipe {unet.config[key]}; make them equal"
            )
    unet.predictor.load_state_dict(found.predictor.state_dict())


def check_network(args: ModelArguments) -> None:
    """Raise ValueError when the recipe's network cannot run; tried on the meta device, where nothing is computed."""
    with torch.device("meta"):
        unet = build_unet(args.unet)
        factor = 1 if args.vae is None else construct(VQAutoencoder, args.vae, "vae").factor
        side = unet.size_multiple * (args.scale if args.vae is None else 1)
        channels = unet.config.image_channels if isinstance(unet, PixelUNet) else unet.config.in_channels
        lq = torch.empty(1, 3, side * factor // args.scale, side * factor // args.scale)
        try:
            unet(torch.empty(1, channels, side, side), torch.zeros(1, dtype=torch.int64), lq)
        except WRONG_OPTIONS as error:
            raise ValueError(f"the recipe's unet cannot run: {' '.join(str(error).split())}") from None


def open_pretrained(args: ModelArguments, model: str) -> ResShiftPipeline:
    """Open a trained model to go on from; the recipe must be one of the same model, for it is saved with the result."""
    pipe = SRPipeline.from_pretrained(model, dtype=torch.float32)
    if not isinstance(pipe, ResShiftPipeline):
        raise ValueError(f"--pretrained_model_name_or_path {model} is no residual-shifting model")
    if (pipe.vae is None) != (args.vae is None):
        space = "on pixels" if pipe.vae is None else "in latent space"
        raise ValueError(f"{model} works {space}, the recipe does not; pass its own --recipe")
    sections = {"unet": (pipe.unet, args.unet), "vae": (pipe.vae, args.vae or {})}
    sections |= {"scheduler": (pipe.scheduler, args.scheduler), "pipeline": (pipe, args.pipeline)}
    for name, (part, section) in sections.items():
        for key, wanted in section.items():
            found = type(part).__name__ if key == "_class_name" else part.config.get(key)
            if listed(found) != listed(wanted):
                raise ValueError(f"{model} has {name}.{key} {found}, the recipe {wanted}; pass its own --recipe")
    return pipe


def build_degradation(wanted: str | dict[str, Any]) -> Degradation:
    """Return the degradation of a recipe: a preset's name, or a mapping of its options."""
    return preset(wanted) if isinstance(wanted, str) else from_yaml(wanted)


def check_crop(crop: tuple[int, int], pipe: ResShiftPipeline, degradation: Degradation | None) -> None:
    """Raise ValueError unless crops of this size pass through the degradation (if any) and the network."""
    if degradation is not None and degradation.scale != pipe.native_scale:
        raise ValueError(
            f"the degradation reduces by {degradation.scale}, the model enlarges by {pipe.native_scale}; "
            "choose another, or set the scale of the recipe's pipeline"
        )
    factor = pipe.vae.factor if pipe.vae is not None else getattr(pipe.unet, "scale", 1)
    multiple = factor * pipe.unet.size_multiple
    if any(side % multiple for side in crop):
        raise ValueError(f"--resolution {crop[0]} {crop[1]} must be a multiple of {multiple} on both sides")
