"""Conformance handler of SeeSR's tagger: kind seesr/ram, RAM alone and with DAPE's low-rank updates merged."""

from typing import Any

import torch
from case import Case, check_mids
from torch import Tensor

from resdiff.checkpoints.ram import merge_lora, ram_state
from resdiff.losses.dape import dape_feature_loss, dape_logits_loss
from resdiff.models.ram import RAM

LIMIT = 2e-5  # of intermediate results, as of the outputs


def ram(case: Case) -> dict[str, Tensor]:
    """Embeddings, logits and tags of RAM with DAPE on `image`, those of RAM alone, and DAPE's losses between the two.

    The losses take RAM with DAPE for the student and RAM alone for the teacher, both on the same image.
    """
    lora = case.config["lora"]
    updates = {name: x for name, x in case.state.items() if ".lora_" in name}
    base = ram_state({name: x for name, x in case.state.items() if name not in updates})
    merged = merge_lora(base, updates, alpha=lora["alpha"], qkv_adapted=lora["qkv_enabled"])
    student, teacher = (network(case.config, state) for state in (merged, base))
    with torch.no_grad():
        tokens = student.visual_encoder(case.inputs["image"])
        seen = student(case.inputs["image"])
        seen_without = teacher(case.inputs["image"])
    if (tags := student.tags(seen.logits)) != case.config["tags_out"]:
        raise ValueError(f"tags are {tags}, recorded {case.config['tags_out']}")
    steps = {f"merged.{name}": x for name, x in student.state_dict().items()}
    check_mids(case, steps | {"swin_tokens": tokens, "class_threshold": torch.tensor(student.config.thresholds)}, LIMIT)
    return {
        "image_embeds": seen.image_embeds,
        "image_embeds_nolora": seen_without.image_embeds,
        "logits": seen.logits,
        "logits_nolora": seen_without.logits,
        "targets": student.is_present(seen.logits).float(),
        "dape_loss_feature": dape_feature_loss(seen.image_embeds, seen_without.image_embeds),
        "dape_loss_logits": dape_logits_loss(seen.logits, seen_without.logits),
    }


def network(config: dict[str, Any], state: dict[str, Tensor]) -> RAM:
    """Build the tagger of a file's config with these weights, loaded strictly; eval mode."""
    swin, head = config["swin"], config["q2l"]
    net = RAM(
        image_res=swin["image_res"],
        patch_size=swin["patch_size"],
        embed_dim=swin["embed_dim"],
        depths=swin["depths"],
        num_heads=swin["num_heads"],
        window_size=swin["window_size"],
        mlp_ratio=swin["mlp_ratio"],
        image_embed_dim=config["image_embed_dim"],
        hidden_size=head["hidden_size"],
        intermediate_size=head["intermediate_size"],
        num_attention_heads=head["num_attention_heads"],
        num_hidden_layers=head["num_hidden_layers"],
        num_classes=len(config["tag_list"]),
        tags=config["tag_list"],
        thresholds=config["threshold"],
    )
    net.load_state_dict(state)
    return net.eval()
