"""StableSR's published files with networks that are thousands of times too small, written by other rules than those that read."""

import json
import sys
import types
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from sd_layouts import CONFIGS as SD_CONFIGS
from sd_layouts import ldm_file, ldm_unet, ldm_vae, prefixed, renamed
from transformers import CLIPTextConfig, CLIPTextModel

from resdiff.checkpoints import stable_diffusion
from resdiff.checkpoints.known_bases import SCHEDULE
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.spade import SpadeModulation
from resdiff.models.time_aware_encoder import TimeAwareEncoder

# Norms of 32 groups are in what StableSR adds, so widths are multiples of 32 there.
CONFIGS = SD_CONFIGS | {
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [16, 32, 32, 32],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 8,
        "scaling_factor": 0.18215,
    },
    "unet": SD_CONFIGS["unet"] | {"block_out_channels": [32, 64], "norm_num_groups": 32},
}
ENCODER = {
    "model_channels": 32,
    "out_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2],
    "num_heads": 4,
}
MODULATION = {"block_out_channels": [32, 64], "layers_per_block": 1, "structure_channels": 32}
CFW = {"channels": [32, 32], "num_fuse_block": 1}


def random_networks(seed, encoder=ENCODER):
    """Return all networks of a StableSR, by the names of its pipeline; every parameter matters."""
    torch.manual_seed(seed)
    networks = {
        "vae": AutoencoderKL.from_config(CONFIGS["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**CONFIGS["text_encoder"])),
        "unet": UNet2DConditionModel.from_config(CONFIGS["unet"]),
        "structure_encoder": TimeAwareEncoder(**encoder),
        "modulation": SpadeModulation(**MODULATION),
        "cfw": ControllableFeatureWrapping(**CFW),
    }
    for network in networks.values():
        for parameter in network.eval().parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return networks


def make_small(monkeypatch, cache):
    """Let Stable Diffusion in single files be as small as here, and the cache an empty folder; there is no network."""
    for part, config in CONFIGS.items():
        monkeypatch.setitem(stable_diffusion.SD2_CONFIGS, part, config)
    monkeypatch.setenv("RESDIFF_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cache.mkdir()
    return cache


def states_of(networks):
    return {part: {k: x.detach().clone() for k, x in net.state_dict().items()} for part, net in networks.items()}


def adapter(states):
    """What the WebUI's files hold, flat."""
    return prefixed("model.diffusion_model.", ldm_unet(states["modulation"])) | prefixed(
        "structcond_stage_model.", states["structure_encoder"]
    )


def whole(states):
    """What the published checkpoints hold: Stable Diffusion, all that training leaves in it, and the adapter."""
    return ldm_file({part: states[part] for part in ("vae", "text_encoder", "unet")}) | adapter(states)


def cfw(states):
    """What CFW's file holds: its autoencoder without a prefix, and the training loss."""
    fused = renamed(states["cfw"], [(r"\.conv_shortcut\.", ".conv_out.")])
    loss = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(4, 3, 4, 4)}
    return prefixed("", ldm_vae(states["vae"])) | prefixed("decoder.", fused) | loss


def diffusers_folder(folder, networks, **scheduler):
    """Write a base as published, without tokenizer."""
    for part in ("vae", "text_encoder", "unet"):
        networks[part].save_pretrained(folder / part)
    (folder / "scheduler").mkdir()
    config = {"_class_name": "PNDMScheduler"} | SCHEDULE | scheduler
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    return folder


def lightning_file(path, state, **more):
    """Write what PyTorch Lightning does, which is not installed: classes of its modules, as keys and as objects."""
    with foreign_class("pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint") as callback:
        content = {
            "epoch": 117,
            "global_step": 16500,
            "pytorch-lightning_version": "1.4.2",
            "state_dict": state,
            "callbacks": {callback: {"best_model_score": torch.ones(1)}},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 5e-5}]}],
        }
        torch.save(content | more, path)
    return path


@contextmanager
def foreign_class(name, base=object):
    """Let a class of a module that does not exist be pickled; afterwards the module is gone again."""
    module, _, own = name.rpartition(".")
    parts = module.split(".")
    names = [".".join(parts[: i + 1]) for i in range(len(parts))]
    added = [name for name in names if name not in sys.modules]
    for name in added:
        sys.modules[name] = types.ModuleType(name)
    found = type(own, (base,), {"__module__": module})
    setattr(sys.modules[module], own, found)
    try:
        yield found
    finally:
        for name in added:
            del sys.modules[name]
