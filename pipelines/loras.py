"""LoRAs of Stable Diffusion (2106.09685): whether one fits is known before it is loaded, its weight in a call is that call's.

diffusers names every layer that does not fit, after it has changed the networks; and after a call at scale 0 it forgets
the weights that `set_adapters` gave.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor, nn

BASES = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}  # by the texts' width
TO_TEXT = "attn2.to_k"  # the layer that tells it


def check_lora(state_dict: Mapping[str, Tensor], unet: nn.Module, text_encoder: nn.Module) -> None:
    """Raise ValueError, in one line, unless a LoRA as `lora_state_dict` returns it fits the layers of the two networks.

    Layers that the networks do not have are left to diffusers, which says so; a LoRA of only such layers is refused.
    """
    misfits, fitting = [], 0
    for network, layers in ((unet, unet_layers(state_dict)), (text_encoder, text_layers(state_dict))):
        modules = dict(network.named_modules())
        for path, tensor in layers.items():
            layer, _, side = path.rpartition(".lora_")
            if layer not in modules or side not in ("A.weight", "B.weight"):
                continue
            axis = 1 if side == "A.weight" else 0  # A takes what the layer takes, B gives what it gives
            found, needed = tensor.shape[axis], modules[layer].weight.shape[axis]
            fitting += found == needed
            if found != needed:
                misfits.append((not layer.endswith(TO_TEXT), layer, found, needed))
    if misfits:
        _, layer, found, needed = min(misfits)
        base = f", it is of {BASES[found]}" if layer.endswith(TO_TEXT) and found in BASES else ""
        raise ValueError(f"the LoRA is not for this base{base}: {layer} has a width of {needed}, the LoRA's of {found}")
    if not fitting:
        raise ValueError("the LoRA has no layer of this model's UNet or text encoder; use one of Stable Diffusion 2")


def unet_layers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a LoRA's tensors of the UNet by peft's names, without the prefix."""
    tensors = _without_prefix(state_dict, "unet.")
    return tensors if any("lora_A" in key for key in tensors) else convert_unet_state_dict_to_peft(tensors)


def text_layers(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a LoRA's tensors of the text encoder by peft's names, without prefixes."""
    tensors = _without_prefix(state_dict, "text_encoder.")
    if tensors:
        tensors = convert_state_dict_to_peft(convert_state_dict_to_diffusers(tensors))
    return {key.removeprefix("text_model."): value for key, value in tensors.items()}  # transformers 4 has that level


def _without_prefix(state_dict: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}


@contextmanager
def scaled_lora(network: nn.Module, scale: float) -> Iterator[None]:
    """Let a network's LoRAs count `scale` times what `set_adapters` says; afterwards they count as before."""
    layers: list[Any] = [] if scale == 1 else [module for module in network.modules() if hasattr(module, "lora_A")]
    kept = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling.update({adapter: weight * scale for adapter, weight in layer.scaling.items()})
        yield
    finally:
        for layer, scaling in zip(layers, kept, strict=True):
            layer.scaling.update(scaling)
