"""A Stable Diffusion 2 that is thousands of times too small, as the folder that it is published in."""

import json

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from sd_layouts import CONFIGS
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from resdiff.checkpoints.known_bases import SCHEDULE, SD2_BASE


def random_base():
    """Its networks; every parameter matters."""
    torch.manual_seed(0)
    parts = {
        "vae": AutoencoderKL.from_config(CONFIGS["vae"]),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**CONFIGS["text_encoder"])),
        "unet": UNet2DConditionModel.from_config(CONFIGS["unet"]),
    }
    for part in parts.values():
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
    return parts


def states_of(networks):
    return {part: {k: x.detach().clone() for k, x in net.state_dict().items()} for part, net in networks.items()}


def write_folder(folder, networks):
    """Write the diffusers folder as published, of SD 2's kind."""
    for part, network in networks.items():
        network.save_pretrained(folder / part)
    words = {"!": 0, "a</w>": 1, "b</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}
    CLIPTokenizer(vocab=words, merges=[], model_max_length=77, pad_token="!").save_pretrained(folder / "tokenizer")
    published = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False} | SCHEDULE
    published.pop("clip_sample")
    published.pop("timestep_spacing")
    write(folder / "scheduler" / "scheduler_config.json", published)
    return folder


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def assert_base_is(base, states, parts=("vae", "text_encoder", "unet")):
    for part in parts:
        assert same(base.state(part), states[part]), part


def assert_names_all_ways(message):
    assert "\n" not in message
    for way in ("diffusers folder", ".safetensors", *SD2_BASE.mirrors, "resdiff", "stable-diffusion-2-base"):
        assert way in message
