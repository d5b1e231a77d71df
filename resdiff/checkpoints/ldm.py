"""Stable Diffusion's parameters under the names of diffusers 0.42 and transformers 5, whatever layout they came in.

Layouts: ldm (CompVis and Stability AI, the single files), OpenCLIP (the text encoder of version 2), diffusers' own
before 0.15 (attention of the autoencoder) and transformers' before 5 (`text_model.`). The renaming is diffusers'
(loaders/single_file_utils.py), which passes over names that it does not know; here they are an error.
"""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from resdiff.checkpoints.io import CheckpointError

State = Mapping[str, Tensor]
Part = Literal["vae", "text_encoder", "unet"]

# Where the parts lie in a single file: ldm's (the text encoder's second is of files that Stability AI's sgm wrote), diffusers'.
PREFIXES: dict[Part, tuple[str, ...]] = {
    "vae": ("first_stage_model.", "vae."),
    "text_encoder": ("cond_stage_model.model.", "conditioner.embedders.0.model.", "text_encoder."),
    "unet": ("model.diffusion_model.", "unet."),
}
# Names outside the parts: tables of the noise schedule, of which we use our own, averages of the weights in training,
# and a classifier of diffusers' pipelines.
BESIDE = (
    *("betas", "alphas_cumprod*", "sqrt_*", "log_one_minus_alphas_cumprod", "posterior_*", "lvlb_weights", "logvar"),
    *("denoiser.sigmas", "scale_factor", "model_ema.*", "safety_checker.*"),
)
# Names of a part that it does not need: the training loss, indices, and what comes after the last hidden state.
UNUSED: dict[Part, tuple[str, ...]] = {
    "vae": ("loss.*", "model_ema.*"),
    "text_encoder": (
        *("position_ids", "embeddings.position_ids", "text_model.embeddings.position_ids", "attn_mask"),
        *("text_projection", "text_projection.weight", "logit_scale"),
    ),
    "unet": (),
}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
LDM_UNET = PREFIXES["unet"][0]


def part_of(state: State, part: Part) -> dict[str, Tensor]:
    """Return what a single file holds of a part, without the prefix; {} if it has none."""
    for prefix in PREFIXES[part]:
        if found := {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}:
            return found
    return {}


def left_over(state: State) -> list[str]:
    """Return the names of a single file that belong to no part and are not known to be useless."""
    known = tuple(prefix for prefixes in PREFIXES.values() for prefix in prefixes)
    return [name for name in state if not name.startswith(known) and not _is_any(name, BESIDE)]


def current_names(state: State, part: Part, config: Mapping[str, Any], source: str | Path) -> dict[str, Tensor]:
    """Rename the parameters of a part to today's names of diffusers and transformers; those it does not need are dropped.

    `config` is the part's own (diffusers' or transformers' config.json). Tensors may be on the meta device. Names that
    already are today's stay, unknown ones too. Raises CheckpointError where ldm's or OpenCLIP's layout has names that
    no part of the network takes.
    """
    needed = {name: x for name, x in state.items() if not _is_any(name, UNUSED[part])}
    if part == "vae":
        if any(name.startswith(("encoder.down.", "decoder.up.")) for name in needed):
            return _converted(needed, lambda given: convert_ldm_vae_checkpoint(given, config), source)
        return _with_new_attention(needed)
    if part == "unet":
        if any(name.startswith("input_blocks.") for name in needed):
            return _converted(needed, lambda given: _ldm_unet(given, config), source)
        return needed
    if any(name.startswith("transformer.resblocks.") for name in needed):
        # OpenCLIP's last block: version 2 conditions on what comes before it
        last = f"transformer.resblocks.{config['num_hidden_layers']}."
        needed = {name: x for name, x in needed.items() if not name.startswith(last)}
        needed = _converted(needed, lambda given: _open_clip(given, config), source)
    return {name.removeprefix("text_model."): x for name, x in needed.items()}


def _ldm_unet(state: State, config: Mapping[str, Any]) -> dict[str, Tensor]:
    return convert_ldm_unet_checkpoint({LDM_UNET + name: x for name, x in state.items()}, config)


def _open_clip(state: State, config: Mapping[str, Any]) -> dict[str, Tensor]:
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
    return convert_open_clip_checkpoint(model, dict(state), prefix="")


def _converted(
    state: State, convert: Callable[[dict[str, Tensor]], dict[str, Tensor]], source: str | Path
) -> dict[str, Tensor]:
    """Return what `convert` makes of `state`; raises CheckpointError where it leaves something out."""

    def is_used(name: str) -> bool:
        try:
            others = convert({k: x for k, x in state.items() if k != name})
        except LookupError:
            return True
        return {k for k, x in others.items() if x is not None} != converted.keys()

    try:
        converted = convert(dict(state))
    except (AttributeError, LookupError, TypeError) as error:  # of a layout that is not whole
        raise CheckpointError(f"{source} is damaged or of another model ({error!r}); download it again") from error
    if _numbers(converted) == _numbers(state):
        return converted
    lost = [name for name in state if not is_used(name)]
    raise CheckpointError(
        f"{source} has {len(lost)} names that Stable Diffusion 2 has not ({', '.join(lost[:3])}); use its own file"
    )


def _numbers(state: State) -> int:
    """How many numbers there are: renaming splits tensors and drops axes of length 1, which keeps their number."""
    return sum(tensor.numel() for tensor in state.values())


def _with_new_attention(state: State) -> dict[str, Tensor]:
    """Rename the autoencoder's attention where it has the names from before diffusers 0.15, 1x1 convolutions or not."""
    renamed = {}
    for name, tensor in state.items():
        module, _, parameter = name.rpartition(".")
        owner, _, layer = module.rpartition(".")
        if ".attentions." in f".{owner}." and layer in OLD_ATTENTION:
            name, tensor = (
                f"{owner}.{OLD_ATTENTION[layer]}.{parameter}",
                tensor.flatten(1) if tensor.ndim > 2 else tensor,
            )
        renamed[name] = tensor
    return renamed


def _is_any(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
