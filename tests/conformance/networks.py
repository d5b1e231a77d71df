"""Conformance handlers of single networks: kinds resshift/unet, swin_layer, sinsr_unet and vq.

A handler builds our network from the file's config, loads its weights strictly and computes every `out/*` tensor.
"""

import re
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from resdiff.models.swin import SwinLayer, relative_position_index, shifted_window_mask
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder


class Case(Protocol):
    """One file: config in the reference's names; tensors without their prefix, `state` cast to float32."""

    config: dict[str, Any]
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


COMPUTED_BUFFERS = ("relative_position_index", "attn_mask")  # in the reference's state dict, computed by ours
UNET_UNUSED = ("dims", "use_fp16", "use_checkpoint")  # constructor arguments without effect on fp32 images
VQ_UNUSED = ("double_z", "padding_mode")  # False in all published files; ignored by the reference


def load(net: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Load `state` strictly, but for the buffers that ours computes, and switch to eval mode."""
    net.load_state_dict({k: v for k, v in state.items() if k.rsplit(".", 1)[-1] not in COMPUTED_BUFFERS})
    return net.eval()


def numbered(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Tensors called `<name>_<number>`, by number."""
    return {m[1]: tensor for key, tensor in tensors.items() if (m := re.fullmatch(rf"{name}_(\d+)", key))}


def swin_unet_config(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments of SwinUNet: the file's, on top of the reference's own defaults."""
    return defaults | {k: v for k, v in config.items() if k not in UNET_UNUSED}


REFERENCE_DEFAULTS: dict[str, Any] = {
    "dropout": 0,
    "channel_mult": (1, 2, 4, 8),
    "conv_resample": True,
    "num_heads": 1,
    "num_head_channels": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "swin_depth": 2,
    "swin_embed_dim": 96,
    "window_size": 8,
    "mlp_ratio": 2.0,
    "patch_norm": False,
    "cond_lq": True,
}


def run_unet(net: nn.Module, case: Case) -> dict[str, Tensor]:
    """Call the network on x_<i>, t_<i> and, where given, lq_<i> and mask_<i>."""
    out = {}
    with torch.no_grad():
        for i, x in numbered(case.inputs, "x").items():
            lq, mask = case.inputs.get(f"lq_{i}"), case.inputs.get(f"mask_{i}")
            out[f"y_{i}"] = net(x, case.inputs[f"t_{i}"], lq, mask)
    return out


def unet(case: Case) -> dict[str, Tensor]:
    """Kind resshift/unet: y_<i> of ResShift's UNet."""
    defaults = REFERENCE_DEFAULTS | {"cond_mask": False, "lq_size": 256}
    return run_unet(load(SwinUNet(**swin_unet_config(case.config, defaults)), case.state), case)


def sinsr_unet(case: Case) -> dict[str, Tensor]:
    """Kind resshift/sinsr_unet: y_<i> of SinSR's UNet."""
    defaults = REFERENCE_DEFAULTS | {"lq_size": None}
    return run_unet(load(SwinUNet(**swin_unet_config(case.config, defaults)), case.state), case)


def swin_layer(case: Case) -> dict[str, Tensor]:
    """Kind resshift/swin_layer: y_<i>, attn_mask_<H>x<W> and relative_position_index of one Swin layer."""
    config = case.config
    if config.get("patch_size", 1) != 1:
        raise ValueError(
            f"patch_size is {config['patch_size']}; SwinLayer has patches of 1 pixel, as all published nets"
        )
    layer = SwinLayer(
        in_channels=config["in_chans"],
        embed_dim=config["embed_dim"],
        num_heads=config["num_heads"],
        depth=config["depth"],
        resolution=config["img_size"],
        window_size=config["window_size"],
        mlp_ratio=config.get("mlp_ratio", 4.0),
        patch_norm=config.get("patch_norm", True),
    )
    load(layer, case.state)
    with torch.no_grad():
        out = {f"y_{i}": layer(x) for i, x in numbered(case.inputs, "x").items()}
    shift = config["window_size"] // 2 if layer.window == config["window_size"] < config["img_size"] else 0
    for name in case.expected:
        if name == "relative_position_index":
            out[name] = relative_position_index(layer.window)
        elif m := re.fullmatch(r"attn_mask_(\d+)x(\d+)", name):
            out[name] = shifted_window_mask(int(m[1]), int(m[2]), layer.window, shift)
    return out


def vq(case: Case) -> dict[str, Tensor]:
    """Kind resshift/vq: encode, quant, indices, quant_loss, decode with and without codes, straight-through gradient."""
    config = {k: v for k, v in case.config.items() if k != "ddconfig"} | case.config["ddconfig"]
    net = VQAutoencoder(**{k: v for k, v in config.items() if k not in VQ_UNUSED})
    load(net, case.state)
    out = {}
    for i, x in numbered(case.inputs, "x").items():
        with torch.no_grad():
            z = net.encode(x)
            quant, loss, indices = net.quantize(z)
            out |= {f"encode_{i}": z, f"quant_{i}": quant, f"indices_{i}": indices, f"quant_loss_{i}": loss.reshape(1)}
            out[f"decode_not_quantized_{i}"] = net.decode(z, force_not_quantize=True)
        latent = z.clone().requires_grad_()
        decoded = net.decode(latent)
        out[f"decode_{i}"] = decoded.detach()
        if f"grad_out_{i}" in case.inputs:
            (out[f"grad_latent_{i}"],) = torch.autograd.grad(decoded, latent, case.inputs[f"grad_out_{i}"])
    return {name: out[name] for name in case.expected}
