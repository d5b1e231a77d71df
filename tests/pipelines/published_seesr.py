"""The published tree of SeeSR, preset/models, with networks that are thousands of times too small."""

import json
import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from resdiff.checkpoints.known_bases import SCHEDULE
from resdiff.checkpoints.known_seesr import FLAG
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import UNET, UP_BLOCKS, tiny_adapter


def write_tree(models: Path) -> Path:
    """Write seesr/, addsr/, both bases and the tagger's files into a folder, and return it."""
    pipe = tiny_adapter(SeeSRPipeline)
    write_networks(models / "seesr", pipe)
    write_networks(models / "addsr", tiny_adapter(SeeSRPipeline, seed=1))
    write_base(models / "stable-diffusion-2-base", pipe)
    write_base(models / "sd-turbo", pipe, timestep_spacing="trailing")
    write_tagger(models, pipe)
    return models


def write_networks(folder: Path, pipe: SeeSRPipeline) -> None:
    """Write unet/ and controlnet/ with diffusers' names of the blocks, as published."""
    for part in ("unet", "controlnet"):
        getattr(pipe, part).save_pretrained(folder / part)
        config = folder / part / "config.json"
        config.write_text(config.read_text().replace('"ImageCross', '"Cross'))
        assert FLAG in config.read_text()


def write_base(folder: Path, pipe: SeeSRPipeline, **schedule: str) -> None:
    """Write a Stable Diffusion in diffusers' layout."""
    for part in ("vae", "text_encoder", "tokenizer"):
        getattr(pipe, part).save_pretrained(folder / part)
    torch.manual_seed(3)
    UNet2DConditionModel(**UNET, up_block_types=UP_BLOCKS).save_pretrained(folder / "unet")
    (folder / "scheduler").mkdir()
    content = SCHEDULE | {"_class_name": "PNDMScheduler"} | schedule
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(content))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))


def write_tagger(folder: Path, pipe: SeeSRPipeline) -> None:
    """Write RAM, an update for it, and the lists of its tags, each given above 0.5."""
    state = pipe.tagger.state_dict()
    torch.save({"model": state}, folder / "ram_swin_large_14m.pth")
    generator = torch.Generator().manual_seed(4)
    update = {}
    for name, weight in state.items():
        parts = 2 if name.endswith("qkv.weight") else 1  # queries and values
        if parts == 2 or re.search(r"crossattention\.self\.(query|key)\.weight", name):
            layer, out = name.removesuffix(".weight"), weight.shape[0] // (3 if parts == 2 else 1)
            update[f"{layer}.lora_A"] = torch.randn(2 * parts, weight.shape[1], generator=generator) / 10
            update[f"{layer}.lora_B"] = torch.randn(parts * out, 2, generator=generator) / 10
    torch.save(update, folder / "DAPE.pth")
    tags = pipe.tagger.config.tags
    (folder / "ram_tag_list.txt").write_text("\n".join(tags) + "\n")
    (folder / "ram_tag_list_threshold.txt").write_text("0.5\n" * len(tags))
