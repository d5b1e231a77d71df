"""Conformance handlers of CLIP-IQA: kinds metrics/clipiqa and clipiqa_plus.

The towers are built from the recorded shapes; only the heads of the text tower come from the config. Scores of random
weights vary little, so the features and logits that a file has are compared too, at the tolerance of the scores.
"""

import re
from typing import Any

import torch
from case import Case, check_mids
from torch import Tensor

from resdiff.metrics.clip_iqa import ClipIQA, learned_pair, pair_logits, text_pairs, tokenize
from resdiff.metrics.clip_towers import build_clip

LIMIT = 1e-5
CONTEXT = "prompt_learner.ctx"
LEARNER = "prompt_learner."  # its other tensors are taken from the embedding of the template


def clipiqa(case: Case) -> dict[str, Tensor]:
    """Kind metrics/clipiqa: score_<i>, the mean over the prompt pairs."""
    clip = _clip(case)
    prompts = case.config["prompts"]
    if "tokens" in case.inputs and not torch.equal(tokenize(prompts, clip.context_length), case.inputs["tokens"]):
        raise ValueError("our tokens are not the recorded ones")
    return _scores(
        case, ClipIQA(clip, text_pairs(clip, list(zip(prompts[::2], prompts[1::2], strict=True))), _positions(case))
    )


def clipiqa_plus(case: Case) -> dict[str, Tensor]:
    """Kind metrics/clipiqa_plus: score_<i> with the learned words of the file."""
    clip = _clip(case)
    return _scores(case, ClipIQA(clip, learned_pair(clip, case.state[CONTEXT]), _positions(case)))


def _clip(case: Case) -> Any:
    state = {name: tensor for name, tensor in case.state.items() if not name.startswith(LEARNER)}
    return build_clip(state, case.config.get("transformer_heads"))


def _positions(case: Case) -> bool:
    return bool(case.config.get("pos_embedding", False))


def _scores(case: Case, model: ClipIQA) -> dict[str, Tensor]:
    """Return the score of every image. Raises ValueError where an intermediate result is off."""
    steps = {"text_features": model.texts.flatten(0, 1)}
    out = {}
    for name, image in case.inputs.items():
        if match := re.fullmatch(r"image_(\d+)", name):
            features = model.features(image)
            steps[f"image_features_{match[1]}"] = features
            steps[f"logits_{match[1]}"] = pair_logits(features, model.texts, model.logit_scale).flatten(1)
            out[f"score_{match[1]}"] = model(image).mean(dim=1)
    check_mids(case, steps, LIMIT)
    return {name: score.reshape(case.expected[name].shape) for name, score in out.items()}
