"""Conformance handlers of StableSR's networks: kinds stablesr/spade, resblock_dual, struct_encoder, unet, text_encoder.

Configs and names of weights are the reference's, ldm's and OpenCLIP's; the networks are diffusers', transformers' and
ours. Feature maps of the structure are recorded by their width.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from case import Case, check_mids, read_state
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from resdiff.checkpoints.ldm import current_names
from resdiff.models.spade import SPADE, SpadeModulation
from resdiff.models.time_aware_encoder import TimeAwareEncoder

MID_LIMIT = 1e-4  # of intermediate results, relative to their scale
STRUCTURE = "struct_cond."  # followed by the width
RESNET = {  # ldm's names of a residual block's layers -> diffusers'
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
UNET_FIXED = {  # what Stable Diffusion's UNets have, where a config says it
    "use_spatial_transformer": True,
    "conv_resample": True,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "dims": 2,
    "num_classes": None,
    "n_embed": None,
}
ENCODER_FIXED = {  # what the published encoder has
    "conv_resample": True,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "dims": 2,
}


def check_fixed(config: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raise ValueError where a config has a variant of the network that no published one has."""
    for name, value in fixed.items():
        if config.get(name, value) != value:
            raise ValueError(f"{name} is {config[name]}; the published networks have {value}")


def state_of(case: Case, name: str) -> dict[str, Tensor]:
    """Return the weights of one network, float32: from the files that the metadata names, else the case's own."""
    files = case.state_files.get(name)
    if files is None:
        return case.state
    return {key: x for file in files for key, x in read_state(case.path.with_name(file)).items()}


def structure_of(case: Case) -> tuple[Tensor, ...]:
    """Return the recorded feature maps, finest first."""
    widths = sorted(int(name.removeprefix(STRUCTURE)) for name in case.inputs if name.startswith(STRUCTURE))
    return tuple(case.inputs[f"{STRUCTURE}{width}"] for width in reversed(widths))


class Recorder:
    """What modules return, by the name that a file has for it."""

    def __init__(self) -> None:
        self.seen: dict[str, Tensor] = {}

    def watch(self, name: str, module: nn.Module) -> None:
        """Keep what `module` returns."""
        module.register_forward_hook(lambda _module, _arguments, out: self.keep(name, out))

    def keep(self, name: str, out: Any) -> None:
        """Keep a tensor, or the first of several."""
        self.seen[name] = out if isinstance(out, Tensor) else out[0]


# --- networks ----------------------------------------------------------------------------------------------------


def unet_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return diffusers' arguments for ldm's of a UNet of Stable Diffusion."""
    check_fixed(config, UNET_FIXED)
    widths = [mult * config["model_channels"] for mult in config["channel_mult"]]
    attends = [2**level in config["attention_resolutions"] for level in range(len(widths))]
    of_head = config.get("num_head_channels", -1)
    heads = config.get("num_heads", -1) if of_head in (-1, None) else [width // of_head for width in widths]
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "block_out_channels": widths,
        "layers_per_block": config["num_res_blocks"],
        "down_block_types": ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)],
        "attention_head_dim": heads,  # as it is called in diffusers
        "cross_attention_dim": config["context_dim"],
        "transformer_layers_per_block": config.get("transformer_depth", 1),
        "use_linear_projection": config.get("use_linear_in_transformer", False),
    }


def build_unet(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[UNet2DConditionModel, SpadeModulation]:
    """Return the stock UNet and the modulation of ldm's config and weights."""
    arguments = unet_config(config)
    unet = UNet2DConditionModel(**arguments).eval()
    renamed = current_names(state, "unet", arguments, "the recorded UNet")
    unet.load_state_dict({name: x for name, x in renamed.items() if ".spade." not in name})
    modulation = SpadeModulation.for_unet(unet, config["semb_channels"]).eval()
    modulation.load_state_dict({name: x for name, x in renamed.items() if ".spade." in name})
    return unet, modulation


def build_encoder(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> TimeAwareEncoder:
    """Return the time-aware encoder of the reference's config and weights."""
    check_fixed(config, ENCODER_FIXED)
    names = "in_channels model_channels out_channels num_res_blocks attention_resolutions channel_mult num_heads"
    of_head = config.get("num_head_channels", -1)
    arguments = {name: config[name] for name in names.split()}
    encoder = TimeAwareEncoder(**arguments, num_head_channels=None if of_head == -1 else of_head)
    encoder.load_state_dict(state)
    return encoder.eval()


# --- kinds -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def spade(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/spade: one modulation."""
    if case.config.get("config_text", "spadeinstance3x3") != "spadeinstance3x3":
        raise ValueError(f"config_text is {case.config['config_text']}; the published networks have spadeinstance3x3")
    layer = SPADE(case.config["norm_nc"], case.config["label_nc"])
    layer.load_state_dict(case.state)
    recorder = Recorder()
    for name, part in (("actv", "mlp_shared"), ("gamma", "mlp_gamma"), ("beta", "mlp_beta")):
        recorder.watch(name, layer.get_submodule(part))
    recorder.watch("normalized", layer.param_free_norm)
    (structure,) = structure_of(case)
    y = layer(case.inputs["x"], structure)
    check_mids(case, recorder.seen, MID_LIMIT)
    return {"y": y}


@torch.no_grad()
def resblock_dual(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/resblock_dual: diffusers' residual block with a SPADE behind its second convolution."""
    config, recorder = case.config, Recorder()
    width = config.get("out_channels") or config["channels"]
    block = ResnetBlock2D(
        in_channels=config["channels"], out_channels=width, temb_channels=config["emb_channels"], eps=1e-5
    ).eval()
    layer = SPADE(width, config["semb_channels"])
    layer.load_state_dict({k.removeprefix("spade."): x for k, x in case.state.items() if k.startswith("spade.")})
    state = {}
    for name, x in case.state.items():
        owner, _, parameter = name.rpartition(".")
        if not name.startswith("spade."):
            state[f"{RESNET[owner]}.{parameter}"] = x
    block.load_state_dict(state)
    (structure,) = structure_of(case)
    recorder.watch("before_spade", block.conv2)
    recorder.watch("after_spade", layer)
    block.conv2.register_forward_hook(lambda _conv, _arguments, h: layer(h, structure))
    y = block(case.inputs["x"], case.inputs["emb"])
    check_mids(case, recorder.seen, MID_LIMIT)
    return {"y": y}


@torch.no_grad()
def struct_encoder(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/struct_encoder: the feature maps by their width."""
    encoder, recorder = build_encoder(case.config, state_of(case, "struct_encoder")), Recorder()
    recorder.watch("emb", encoder.time_embed)
    encoder.time_embed.register_forward_pre_hook(lambda _, given: recorder.keep("timestep_embedding", given[0]))
    features = encoder(case.inputs["x"], case.inputs["t"])
    check_mids(case, recorder.seen, MID_LIMIT)
    return {f"{STRUCTURE}{feature.shape[3]}": feature for feature in features}


@torch.no_grad()
def unet(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/unet: one prediction of the modulated UNet, which is the stock one before and afterwards."""
    network, modulation = build_unet(case.config, state_of(case, "unet"))
    recorder, first = Recorder(), network.up_blocks[0]
    recorder.watch("emb", network.time_embedding)
    network.mid_block.register_forward_pre_hook(lambda _, given: recorder.keep("input_blocks_last", given[0]))
    recorder.watch("middle_block", network.mid_block)
    recorder.watch("output_block_0", first.attentions[0] if hasattr(first, "attentions") else first.resnets[0])
    given = case.inputs["x"], case.inputs["t"], case.inputs["context"]
    stock = network(*given).sample
    with modulation.attached(network):
        out = network(*given, timestep_cond=structure_of(case)).sample
    check_mids(case, recorder.seen, MID_LIMIT)
    if not torch.equal(network(*given).sample, stock):
        raise ValueError("the UNet is another one after the modulation was attached")
    return {"eps": out}


@torch.no_grad()
def text_encoder(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/text_encoder: the last hidden state of the tower without its last block, and with it."""
    config = case.config
    if config["act"] != "gelu (exact)":
        raise ValueError(f"act is {config['act']}; OpenCLIP's ViT-H has the exact GELU")
    if not re.fullmatch("penultimate|last", config["layer"]):
        raise ValueError(f"layer is {config['layer']}; it must be last or penultimate")
    out = {}
    for name, layers in (("last_ln", config["layers"]), ("penultimate_ln", config["layers"] - 1)):
        settings = CLIPTextConfig(
            vocab_size=config["vocab_size"],
            hidden_size=config["width"],
            intermediate_size=case.state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
            num_hidden_layers=layers,
            num_attention_heads=config["heads"],
            max_position_embeddings=config["context_length"],
            hidden_act="gelu",
            bos_token_id=0,
            eos_token_id=config["vocab_size"] - 1,
        )
        tower = CLIPTextModel(settings).eval()
        tower.load_state_dict(current_names(case.state, "text_encoder", settings.to_dict(), case.path.name))
        out[name] = tower(case.inputs["tokens"]).last_hidden_state
    return {name: out[name] for name in case.expected}
