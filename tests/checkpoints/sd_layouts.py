"""The layouts in which Stable Diffusion 2 is published, written by other rules than those that read them."""

import re

import torch
from safetensors.torch import save_file

CONFIGS = {
    "vae": {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [4, 8],
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
    },
    "text_encoder": {
        "vocab_size": 49408,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "gelu",
    },
    "unet": {
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "block_out_channels": [4, 8],
        "layers_per_block": 1,
        "attention_head_dim": [1, 2],
        "cross_attention_dim": 8,
        "norm_num_groups": 2,
        "use_linear_projection": True,
    },
}


def prefixed(prefix, state):
    return {prefix + name: x.contiguous().clone() for name, x in state.items()}


def renamed(state, rules):
    for old, new in rules:
        state = {re.sub(old, new, name): x for name, x in state.items()}
    return state


def ldm_vae(state):
    """CompVis' names; attention is by 1x1 convolutions."""
    last = max(int(found[1]) for name in state if (found := re.search(r"up_blocks\.(\d)", name)))
    state = {
        name: x[:, :, None, None] if re.search(r"attentions.*to_.*weight", name) else x for name, x in state.items()
    }
    state = {re.sub(r"up_blocks\.(\d)", lambda m: f"up.{last - int(m[1])}", name): x for name, x in state.items()}
    rules = [
        (r"down_blocks\.", "down."),
        (r"mid_block\.resnets\.0", "mid.block_1"),
        (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"resnets\.", "block."),
        (r"(down|up)samplers\.0\.", r"\1sample."),
        (r"group_norm|conv_norm_out", "norm"),
        (r"^(encoder|decoder)\.norm\.", r"\1.norm_out."),
        (r"to_([qkv])\.", r"\1."),
        (r"to_out\.0", "proj_out"),
        (r"conv_shortcut", "nin_shortcut"),
    ]
    return renamed(state, rules)


def ldm_unet(state):
    """CompVis' names for one layer per block: two entries per level going down and up."""

    def place(match):
        way, block, kind, index = match[1], int(match[2]), match[3], int(match[4])
        if kind.endswith("samplers"):
            if way == "down":
                return f"input_blocks.{2 * block + 2}.0.op"
            return f"output_blocks.{2 * block + 1}.1.conv"  # the tiny first block has no attention
        entry = f"input_blocks.{2 * block + 1}" if way == "down" else f"output_blocks.{2 * block + index}"
        return f"{entry}.{int(kind == 'attentions')}"

    state = {
        re.sub(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)(?:\.conv(?=\.))?", place, name): x for name, x in state.items()
    }
    rules = [
        (r"^conv_in", "input_blocks.0.0"),
        (r"^time_embedding\.linear_1", "time_embed.0"),
        (r"^time_embedding\.linear_2", "time_embed.2"),
        (r"^conv_norm_out", "out.0"),
        (r"^conv_out", "out.2"),
        (r"^mid_block\.resnets\.0", "middle_block.0"),
        (r"^mid_block\.attentions\.0", "middle_block.1"),
        (r"^mid_block\.resnets\.1", "middle_block.2"),
        (r"\.time_emb_proj", ".emb_layers.1"),
        (r"(_blocks?[.\d]+)\.norm1", r"\1.in_layers.0"),
        (r"(_blocks?[.\d]+)\.conv1", r"\1.in_layers.2"),
        (r"(_blocks?[.\d]+)\.norm2", r"\1.out_layers.0"),
        (r"(_blocks?[.\d]+)\.conv2", r"\1.out_layers.3"),
        (r"\.conv_shortcut", ".skip_connection"),
    ]
    # the norms of attention share names with those of residual blocks, and keep them
    attention = {name: x for name, x in state.items() if "transformer_blocks" in name}
    rest = {name: x for name, x in state.items() if name not in attention}
    return renamed(rest, rules) | renamed(attention, rules[5:8])


def open_clip(state):
    """OpenCLIP's names: queries, keys and values are one, and there is a last block that version 2 does not use."""
    rules = [
        (r"^embeddings\.token_embedding", "token_embedding"),
        (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
        (r"^final_layer_norm", "ln_final"),
        (r"^encoder\.layers", "transformer.resblocks"),
        (r"layer_norm", "ln_"),
        (r"mlp\.fc1", "mlp.c_fc"),
        (r"mlp\.fc2", "mlp.c_proj"),
        (r"self_attn", "attn"),
    ]
    state = renamed(state, rules)
    for layer in range(2):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"transformer.resblocks.{layer}.attn.{x}_proj.{kind}") for x in "qkv"]
            state[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(parts)
    last = {
        name.replace("blocks.1.", "blocks.2."): torch.ones_like(x) for name, x in state.items() if "blocks.1." in name
    }
    end = {"text_projection": torch.ones(8, 5), "logit_scale": torch.ones(()), "attn_mask": torch.ones(77, 77)}
    return state | last | end


def ldm_file(states):
    """A whole ldm checkpoint with all that training leaves in it."""
    return (
        prefixed("first_stage_model.", ldm_vae(states["vae"]) | {"loss.logvar": torch.zeros(1)})
        | prefixed("cond_stage_model.model.", open_clip(states["text_encoder"]))
        | prefixed("model.diffusion_model.", ldm_unet(states["unet"]))
        | {name: torch.zeros(3) for name in ("betas", "alphas_cumprod_prev", "sqrt_recipm1_alphas_cumprod", "logvar")}
        | {"model_ema.decay": torch.zeros(()), "model_ema.diffusion_modelout2bias": torch.zeros(4)}
    )


def single_file(path, state):
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "global_step": 5}, path)
    return path
