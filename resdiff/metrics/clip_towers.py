"""The two towers of CLIP as CLIP-IQA uses them: pictures of any size, texts or embedded prompts, into one space.

Radford et al., Learning Transferable Visual Models From Natural Language Supervision (2103.00020); networks of
open_clip, weights under OpenAI's names. Two things differ from open_clip's own `encode_image`, as in the reference
implementation of CLIP-IQA (IceClear/CLIP-IQA): positions are left out, or resized, so that a picture need not be
224x224; and the attention pool computes its one query instead of one for every position.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.checkpoints.io import CheckpointError, load_strictly, with_counters

if TYPE_CHECKING:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
    from open_clip.modified_resnet import AttentionPool2d, ModifiedResNet
    from open_clip.transformer import VisionTransformer

HEAD_WIDTH = 64  # channels per attention head in all of OpenAI's models
REDUCTION = 32  # of the ResNets: px of the picture per position of the feature map
IGNORED = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's archives hold beside the weights
FOREIGN = "is no CLIP with OpenAI's names: {} is missing; use a file published by OpenAI or saved by open_clip"


def vision_config(state: Mapping[str, Tensor]) -> CLIPVisionCfg:
    """Deduce the image tower from the shapes of its weights: a ResNet has a list of layers, a ViT their number."""
    from open_clip.model import CLIPVisionCfg

    if "visual.proj" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        side = round((len(state["visual.positional_embedding"]) - 1) ** 0.5)
        layers = _count_blocks(state, "visual.transformer.resblocks.")
        return CLIPVisionCfg(layers=layers, width=width, patch_size=patch, image_size=side * patch)
    side = round((len(state["visual.attnpool.positional_embedding"]) - 1) ** 0.5)
    return CLIPVisionCfg(
        layers=tuple(_count_blocks(state, f"visual.layer{i}.") for i in (1, 2, 3, 4)),
        width=len(state["visual.layer1.0.conv1.weight"]),
        image_size=side * REDUCTION,
    )


def text_config(state: Mapping[str, Tensor], heads: int | None = None) -> CLIPTextCfg:
    """Deduce the text tower from the shapes; they do not tell the heads, by default one per 64 channels."""
    from open_clip.model import CLIPTextCfg

    vocabulary, width = state["token_embedding.weight"].shape
    return CLIPTextCfg(
        context_length=len(state["positional_embedding"]),
        vocab_size=vocabulary,
        width=width,
        heads=width // HEAD_WIDTH if heads is None else heads,
        layers=_count_blocks(state, "transformer.resblocks."),
    )


def build_clip(
    state: Mapping[str, Tensor], text_heads: int | None = None, source: str | Path = "the state dict"
) -> CLIP:
    """Build an open_clip CLIP from a state dict under OpenAI's names, in float32 and eval mode, without gradients.

    It always has OpenAI's approximate GELU, x * sigmoid(1.702 x). open_clip's stock "RN50" has the exact one, which
    moves CLIP-IQA by 0.001 to 0.004, and nothing in a state dict tells them apart.
    Raises CheckpointError, one line: names are missing or left over, or shapes do not fit together.
    """
    from open_clip.model import CLIP

    try:
        vision, text, dimensions = vision_config(state), text_config(state, text_heads), state["text_projection"].shape
    except KeyError as error:
        raise CheckpointError(f"{source} {FOREIGN.format(error.args[0])}") from error
    except (ValueError, IndexError) as error:  # unpacking a shape of other dimensions
        raise CheckpointError(
            f"{source} is no CLIP with OpenAI's names: a weight has another shape; download it again"
        ) from error
    with torch.device("meta"):  # no storage and no random numbers: everything comes from the state dict
        clip = CLIP(dimensions[1], vision, text, quick_gelu=True)
    clip.attn_mask = torch.full((clip.context_length, clip.context_length), float("-inf")).triu_(1)
    load_strictly(clip, with_counters(clip, state), ignorable=IGNORED, source=source)
    return clip.eval().requires_grad_(False)


def image_features(visual: ModifiedResNet | VisionTransformer, images: Tensor, use_positions: bool = False) -> Tensor:
    """Embed normalised pictures (B, 3, H, W) of any size by the image tower of `build_clip`: (B, D), not normalised."""
    from open_clip.modified_resnet import ModifiedResNet

    if isinstance(visual, ModifiedResNet):
        features = visual.stem(images)
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            features = layer(features)  # (B, C, H/32, W/32)
        return attention_pool(visual.attnpool, features, use_positions)
    patches = visual.conv1(images).flatten(2).mT  # (B, N, C)
    tokens = torch.cat([visual.class_embedding.expand(len(images), 1, -1), patches], dim=1)
    if use_positions:
        tokens = tokens + resized_positions(visual.positional_embedding, tokens.shape[1])
    tokens = visual.transformer(visual.ln_pre(tokens))
    return visual.ln_post(tokens[:, 0]) @ visual.proj


def smallest_side(visual: ModifiedResNet | VisionTransformer) -> int:
    """Return the px a side from which pictures have one position of the feature map, or one patch."""
    from open_clip.modified_resnet import ModifiedResNet

    return REDUCTION if isinstance(visual, ModifiedResNet) else visual.conv1.stride[0]


def attention_pool(pool: AttentionPool2d, features: Tensor, use_positions: bool = False) -> Tensor:
    """Pool a feature map (B, C, h, w) to (B, D): multi-head attention whose only query is the mean of all positions.

    Keys and values are linear in the tokens, so each head's query is taken through its key projection once, and its
    value projection is applied to the token that it has mixed: two products with (C, C) per picture instead of two
    per position. The bias of the keys shifts all scores of a head alike and drops out of the softmax.
    """
    tokens = features.flatten(2).mT  # (B, N, C)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)  # (B, 1+N, C)
    if use_positions:
        tokens = tokens + resized_positions(pool.positional_embedding, tokens.shape[1])
    channels = tokens.shape[-1]
    heads, width = pool.num_heads, channels // pool.num_heads
    query = pool.q_proj(tokens[:, 0]).view(-1, heads, width) * width**-0.5
    key_weight, value_weight = (x.weight.view(heads, width, channels) for x in (pool.k_proj, pool.v_proj))
    query = torch.einsum("bhd,hdc->bhc", query, key_weight)
    mixed = (query @ tokens.mT).softmax(dim=-1) @ tokens  # (B, heads, C)
    value = torch.einsum("bhc,hdc->bhd", mixed, value_weight).flatten(1) + pool.v_proj.bias
    return pool.c_proj(value)


def resized_positions(positions: Tensor, tokens: int) -> Tensor:
    """Resize a table of positions (T, C) to (tokens, C) as if it were a grey picture T high and C wide.

    As in the reference, changes numbers: the row of the class token is mixed in, and the grid is not seen as one.
    """
    size = (tokens, positions.shape[1])
    return F.interpolate(positions[None, None], size=size, mode="bicubic")[0, 0]


def token_features(clip: CLIP, tokens: Tensor) -> Tensor:
    """Embed tokenised texts (P, context length): (P, D), not normalised. The end token has the highest id."""
    return prompt_features(clip, clip.token_embedding(tokens), tokens.argmax(dim=-1))


def prompt_features(clip: CLIP, embedded: Tensor, ends: Tensor) -> Tensor:
    """Run embedded tokens (P, context length, C) through the text tower and read the result at position `ends` (P,)."""
    hidden = clip.transformer(embedded + clip.positional_embedding, attn_mask=clip.attn_mask)
    return clip.ln_final(hidden)[torch.arange(len(ends)), ends] @ clip.text_projection


def _count_blocks(state: Mapping[str, Tensor], prefix: str) -> int:
    """Return how many numbers follow `prefix` in the names. Raises KeyError if none does."""
    numbers = {name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)}
    if not numbers:
        raise KeyError(f"{prefix}0")
    return len(numbers)
