"""Published weights of RAM (2306.03514) and of DAPE, SeeSR's low-rank updates of it (2311.16518), as `RAM`.

`ram_swin_large_14m.pth` is a whole captioning model of which tagging uses less than half; `DAPE.pth` holds nothing but
loralib's factors for it. Reference: load_checkpoint_swinlarge of xinyu1205/recognize-anything ram/models/utils.py and
`ram` of cswry/SeeSR ram/models/ram_lora.py, which load both files and ignore what does not fit. Here every name is
accounted for, and the updates are added to the weights (LoRA, 2106.09685).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor

from resdiff.checkpoints.io import CheckpointError, load_strictly, read_state_dict
from resdiff.models.ram import RAM

State = Mapping[str, Tensor]

# In the published file and not used for tagging.
UNUSED = (
    "tag_encoder.*",  # of the captioning half
    "text_decoder.*",
    "tagging_head.embeddings.*",  # of BERT, which RAM removes from the tag head
    "tagging_head.encoder.layer.*.attention.*",
    "*.relative_position_index",  # computed
    "*.attn_mask",
)
ADAPTED = re.compile(
    r"(visual_encoder\.layers\.\d+\.blocks\.\d+\.attn\.qkv"
    r"|tagging_head\.encoder\.layer\.\d+\.crossattention\.self\.(?:query|key))\.weight"
)  # that DAPE updates
ALPHA = 1.0  # loralib's lora_alpha: an update of rank r counts alpha / r
QKV_ADAPTED = (True, False, True)  # queries and values of the image encoder, not keys
MASKS = re.compile(r"visual_encoder\.layers\.0\.blocks\.\d+\.attn_mask")
TAG_HEADS = 4  # attention heads of the published tag head, which no shape tells


def ram_state(state: State) -> dict[str, Tensor]:
    """Return what RAM needs of a published state dict, under our names: the tag head's first was `vision_multi`."""
    return {name: x for name, x in _renamed(state).items() if not any(fnmatchcase(name, p) for p in UNUSED)}


def merge_lora(
    state: State,  # of RAM, as `ram_state` returns it
    lora: State,  # `<layer>.lora_A` and `<layer>.lora_B` of DAPE
    *,
    alpha: float = ALPHA,
    qkv_adapted: Sequence[bool] = QKV_ADAPTED,  # which of queries, keys and values the updates of a qkv layer are for
) -> dict[str, Tensor]:
    """Add DAPE's updates to the weights of RAM, W + (alpha / r) B A, in float32. Neither argument is changed.

    A layer qkv, (3C, C), has the factors of its n updated thirds stacked: A (n r, C), B (n C, r). Updates of the
    captioning half are not used.
    Raises CheckpointError: a layer lacks its update or half of it, shapes do not fit, or names are of other layers.
    """
    factors = ram_state(lora)
    layers = [match[1] for name in state if (match := ADAPTED.fullmatch(name))]
    wanted = {f"{layer}.lora_{factor}" for layer in layers for factor in "AB"}
    if missing := sorted(wanted - factors.keys()):
        raise CheckpointError(f"the update lacks {_some(missing)}; use DAPE.pth of SeeSR with the RAM it was made for")
    if extra := sorted(factors.keys() - wanted):
        raise CheckpointError(f"the update has {_some(extra)}, which RAM has no place for; use DAPE.pth of SeeSR")
    merged = dict(state)
    for layer in layers:
        a, b, weight = factors[f"{layer}.lora_A"], factors[f"{layer}.lora_B"], state[f"{layer}.weight"]
        parts = tuple(qkv_adapted) if layer.endswith(".qkv") else (True,)
        try:
            merged[f"{layer}.weight"] = _updated(weight.float(), a.float(), b.float(), alpha, parts)
        except CheckpointError as error:
            raise CheckpointError(f"the update of {layer} {error}; use DAPE.pth with the RAM it was made for") from None
    return merged


def _updated(weight: Tensor, a: Tensor, b: Tensor, alpha: float, adapted: Sequence[bool]) -> Tensor:
    """Add (alpha / r) B_i A_i to those of the equal parts of `weight` (out, in) that are `adapted`.

    a: (n r, in), b: (n out / len(adapted), r) for n adapted parts.
    """
    n, parts = sum(adapted), len(adapted)
    rank = b.shape[-1]
    if rank == 0 or a.shape != (n * rank, weight.shape[1]) or b.shape != (n * (len(weight) // parts), rank):
        raise CheckpointError(f"is of shapes {tuple(a.shape)} and {tuple(b.shape)}, its weight {tuple(weight.shape)}")
    deltas = iter(b_i @ a_i for a_i, b_i in zip(a.chunk(n), b.chunk(n), strict=True))
    rows = zip(weight.chunk(parts), adapted, strict=True)
    return torch.cat([part + alpha / rank * next(deltas) if is_adapted else part for part, is_adapted in rows])


def ram_config(state: State) -> dict[str, Any]:
    """Deduce the arguments of `RAM` from the names and shapes of a published state dict, masks included.

    Not told by shapes, and therefore assumed: 4 attention heads in the tag head, and, where there is no mask, that the
    last stage of the image encoder is a single window. Tensors may be on the meta device.
    Raises CheckpointError if the state dict is not RAM's.
    """
    state = _renamed(state)
    swin, head = "visual_encoder.layers", "tagging_head.encoder.layer"
    num_classes, image_embed_dim = _shape(state, "label_embed", 2)
    embed_dim, _, _, patch_size = _shape(state, "visual_encoder.patch_embed.proj.weight", 4)
    stages = max(1, _count(state, rf"{re.escape(swin)}\.(\d+)\."))
    tables = [
        _shape(state, f"{swin}.{i}.blocks.0.attn.relative_position_bias_table", 2) for i in range(stages)
    ]  # ((2 window - 1)^2, heads)
    windows = [(math.isqrt(rows) + 1) // 2 for rows, _ in tables]
    mask = next((x for name, x in state.items() if MASKS.fullmatch(name)), None)  # (windows, window^2, window^2)
    side = windows[-1] * 2 ** (stages - 1) if mask is None else windows[0] * math.isqrt(mask.shape[0])
    return {
        "image_res": side * patch_size,
        "patch_size": patch_size,
        "embed_dim": embed_dim,
        "depths": [_count(state, rf"{re.escape(swin)}\.{i}\.blocks\.(\d+)\.") for i in range(stages)],
        "num_heads": [heads for _, heads in tables],
        "window_size": max(windows),
        "mlp_ratio": _shape(state, f"{swin}.0.blocks.0.mlp.fc1.weight", 2)[0] / embed_dim,
        "image_embed_dim": image_embed_dim,
        "hidden_size": _shape(state, "wordvec_proj.weight", 2)[0],
        "intermediate_size": _shape(state, f"{head}.0.intermediate.dense.weight", 2)[0],
        "num_attention_heads": TAG_HEADS,
        "num_hidden_layers": _count(state, rf"{re.escape(head)}\.(\d+)\."),
        "num_classes": num_classes,
    }


def load_ram(
    ram_file: str | Path,  # ram_swin_large_14m.pth
    dape_file: str | Path | None = None,  # DAPE.pth; None: RAM as it is
    tags: Sequence[str] | None = None,  # the name of every class, and above which probability it is given:
    thresholds: Sequence[float] | None = None,  # `resdiff.checkpoints.tag_lists.tag_lists`
    dtype: torch.dtype = torch.float32,
) -> RAM:
    """Build the tagger from the published files and load them strictly; eval mode.

    Raises CheckpointError, one line: a file is missing, damaged or of another kind, or does not fit the other.
    """
    state = read_state_dict(ram_file)
    if _is_lora(state):
        raise CheckpointError(f"{ram_file} holds only updates of RAM, as DAPE.pth; give ram_swin_large_14m.pth for RAM")
    try:
        config = ram_config(state)
        with init_empty_weights():
            model = RAM(**config, tags=_listed(tags), thresholds=_listed(thresholds))
    except ValueError as error:
        raise CheckpointError(f"{ram_file}: {error}") from error
    state = ram_state(state)
    if dape_file is not None:
        lora = read_state_dict(dape_file)
        if not _is_lora(lora):
            raise CheckpointError(f"{dape_file} is not an update of RAM, it has whole weights; give DAPE.pth of SeeSR")
        try:
            state = merge_lora(state, lora)
        except CheckpointError as error:
            raise CheckpointError(f"{dape_file}: {error}") from error
    load_strictly(model, state, source=ram_file, dtype=dtype)
    return model.eval()


def _renamed(state: State) -> dict[str, Tensor]:
    return {re.sub(r"^vision_multi\.", "tagging_head.", name): tensor for name, tensor in state.items()}


def _is_lora(state: State) -> bool:
    return all(name.endswith((".lora_A", ".lora_B")) for name in state)


def _listed(values: Sequence | None) -> list | None:
    return None if values is None else list(values)


def _shape(state: State, name: str, dims: int) -> tuple[int, ...]:
    shape = tuple(state[name].shape) if name in state else None
    if shape is None or len(shape) != dims or 0 in shape:
        said = "it lacks" if shape is None else f"it has {shape} for"
        raise CheckpointError(f"this is not RAM, {said} {name}; use ram_swin_large_14m.pth")
    return shape


def _count(state: State, pattern: str) -> int:
    """Number of modules in a list: of the indices that `pattern` captures."""
    return len({m[1] for name in state if (m := re.match(pattern, name))})


def _some(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
