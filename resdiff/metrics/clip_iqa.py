"""CLIP-IQA: how much more a picture looks like "Good photo." than like "Bad photo.", without a reference.

Wang, Chan, Loy, Exploring CLIP for Assessing the Look and Feel of Images (2207.12396); IceClear/CLIP-IQA and, for the
five pairs of published super-resolution tables, chaofengc/IQA-PyTorch. Higher is better, 0 to 1. It rewards sharpness
even where it is wrong: show LPIPS or DISTS beside it. CLIP-IQA+ has learned words in place of written ones.

Pictures are neither resized nor cropped. Unlike the references, pictures are embedded one at a time: convolutions
choose another order of summation for another batch size, which moves the score of a picture in the sixth decimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.checkpoints.io import CheckpointError
from resdiff.devices import exact_inference
from resdiff.metrics.clip_towers import image_features, prompt_features, smallest_side, token_features
from resdiff.metrics.clip_weights import LEARNED, read_clip, read_context
from resdiff.metrics.rgb import check_rgb

if TYPE_CHECKING:
    from open_clip.model import CLIP

Pair = tuple[str, str]  # the positive text first

FIVE_PAIRS: tuple[Pair, ...] = (  # as in pyiqa, spelling included: what papers report as CLIPIQA
    ("Good image", "bad image"),
    ("Sharp image", "blurry image"),
    ("sharp edges", "blurry edges"),
    ("High resolution image", "low resolution image"),
    ("Noise-free image", "noisy image"),
)
PAPER_PAIR: Pair = ("Good photo.", "Bad photo.")
PUBLISHED_PAIRS = (*FIVE_PAIRS, PAPER_PAIR)
TEMPLATES = ("Good photo..", "Bad photo..")  # of CLIP-IQA+, two dots: as in the reference, changes numbers
CLASS_TOKENS = 3  # "good", "photo", ".."
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training pictures, RGB in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)
PUBLISHED_SMALLEST = 32  # px a side, of RN50 and all published backbones


def tokenize(texts: Sequence[str], length: int = 77) -> Tensor:
    """Return the ids of texts as OpenAI's CLIP reads them, (P, length): start, lower-cased words, end, zeros.

    Raises ValueError for a text that is empty or does not fit; nothing is cut off.
    """
    import open_clip

    tokens = open_clip.tokenize(list(texts), context_length=length + 1)
    for text, ids in zip(texts, tokens, strict=True):
        if not text.strip():
            raise ValueError("a prompt is empty; give a positive and a negative text for each pair")
        if ids[-1]:
            raise ValueError(f"prompt {text[:40]!r}... has more than {length - 2} tokens; shorten it")
    return tokens[:, :length]


def text_pairs(clip: CLIP, pairs: Sequence[Pair]) -> Tensor:
    """Embed prompt pairs, positive first: (P, 2, D), not normalised."""
    tokens = tokenize([text for pair in pairs for text in pair], clip.context_length)
    return token_features(clip, tokens.to(clip.positional_embedding.device)).unflatten(0, (-1, 2))


def learned_pair(clip: CLIP, context: Tensor) -> Tensor:
    """Embed the one pair of CLIP-IQA+, (1, 2, D), from learned word embeddings (2, n, C), the positive class first.

    In front of the template's words stand n times "X", for which the context is put in; as in the reference, half of
    it stands behind the words, while the end is read where the unchanged template has it.
    """
    count = context.shape[1]
    template = [" ".join(["X"] * count + [text]) for text in TEMPLATES]
    tokens = tokenize(template, clip.context_length).to(context.device)
    embedded = clip.token_embedding(tokens)
    start, words, rest = (
        embedded[:, :1],
        embedded[:, 1 + count :][:, :CLASS_TOKENS],
        embedded[:, 1 + count + CLASS_TOKENS :],
    )
    first, second = context[:, : count // 2], context[:, count // 2 :]
    prompts = torch.cat([start, first, words, second, rest], dim=1)
    return prompt_features(clip, prompts, tokens.argmax(dim=-1)).unflatten(0, (1, 2))


def pair_logits(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Return exp(logit_scale) cos(image, text), (B, P, 2), of features (B, D) and (P, 2, D)."""
    cosines = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).flatten(0, 1).T
    return (logit_scale.exp() * cosines).unflatten(1, (-1, 2))


class ClipIQA(nn.Module):
    """Probabilities of the positive texts of prompt pairs. The texts are embedded once, by whoever builds it."""

    texts: Tensor
    logit_scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: CLIP,  # of `build_clip`; only its image tower is kept
        texts: Tensor,  # (P, 2, D), features of the pairs, positive first
        use_positions: bool = False,  # add the resized table of positions; False in all but two weights of CLIP-IQA+
    ) -> None:
        super().__init__()
        if not has_quick_gelu(clip):
            raise ValueError("clip has exact GELU, OpenAI's weights need the approximate one; use build_clip")
        self.visual = clip.visual
        self.use_positions = use_positions
        self.register_buffer("texts", texts.detach())
        self.register_buffer("logit_scale", clip.logit_scale.detach())
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))

    def features(self, images: Tensor) -> Tensor:
        """Embed RGB pictures in [0, 1], (B, 3, H, W): (B, D), not normalised. Raises ValueError as `forward`."""
        check_rgb("images", images, smallest_side(self.visual))
        with exact_inference(self.mean.device):
            return torch.cat([self._embed(image) for image in images.split(1)])

    def forward(self, images: Tensor) -> Tensor:
        """Return the probability of the positive text for every pair, (B, P).

        Args:
            images: RGB in [0, 1], (B, 3, H, W) of any size from 32x32. A picture's row does not depend on the others.

        Raises:
            ValueError: not such images, or smaller.
        """
        check_rgb("images", images, smallest_side(self.visual))
        with exact_inference(self.mean.device):
            logits = [pair_logits(self._embed(image), self.texts, self.logit_scale) for image in images.split(1)]
            return torch.cat(logits).softmax(dim=-1)[..., 0]

    def _embed(self, image: Tensor) -> Tensor:
        """Embed one picture, (1, D). It is laid out anew, because the order of summation also follows the strides."""
        image = image.to(self.mean).contiguous()
        return image_features(self.visual, (image - self.mean) / self.std, self.use_positions)


def clip_iqa(probabilities: Tensor) -> Tensor:
    """Return what published tables call CLIPIQA, (B,), from the probabilities (B, 6) of PUBLISHED_PAIRS: five pairs."""
    return _published(probabilities)[:, : len(FIVE_PAIRS)].mean(dim=1)


def clip_iqa_pair(probabilities: Tensor) -> Tensor:
    """Return the score of the paper's own pair, (B,), from the probabilities (B, 6) of PUBLISHED_PAIRS."""
    return _published(probabilities)[:, len(FIVE_PAIRS)]


def load_clip_iqa(
    backbone: str = "RN50",
    weights: str | Path | None = None,
    pairs: Sequence[Pair] = PUBLISHED_PAIRS,
    device: str | torch.device = "cpu",
) -> ClipIQA:
    """Return CLIP-IQA with OpenAI's weights; `clip_iqa(model(images))` is the published score.

    Args:
        backbone: RN50 (published tables), ViT-B-32, ViT-B-16 or ViT-L-14.
        weights: the backbone's file, or a folder that holds it; None: caches, then the publisher.
        pairs: (positive, negative) texts.

    Raises:
        MissingWeights: the file is nowhere. CheckpointError: it is not what it should be.
        ValueError: an unknown backbone, no pair, or a text that is empty or too long.
    """
    if not pairs or any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
        raise ValueError(f"pairs is {pairs!r}; give at least one (positive, negative) pair of texts")
    clip = read_clip(backbone, weights)
    return ClipIQA(clip, text_pairs(clip, pairs)).to(device)


def load_clip_iqa_plus(
    variant: str = "RN50",
    weights: str | Path | None = None,
    context: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> ClipIQA:
    """Return CLIP-IQA+, whose forward gives (B, 1).

    Args:
        variant: RN50 (pyiqa's `clipiqa+`), RN50_512 or ViTL14_512, the last two with resized positions.
        weights: the backbone's file or folder, as for `load_clip_iqa`.
        context: the file with the learned words, or a folder that holds it; None: caches, then the publisher.

    Raises: as `load_clip_iqa`.
    """
    embeddings = read_context(variant, context)
    learned = LEARNED[variant]
    clip = read_clip(learned.backbone, weights)
    width = clip.token_embedding.embedding_dim
    if embeddings.shape[2] != width:
        raise CheckpointError(
            f"the learned words are {embeddings.shape[2]} numbers wide, {learned.backbone} takes {width}; give the file "
            f"{learned.weights.file}"
        )
    return ClipIQA(clip, learned_pair(clip, embeddings), learned.use_positions).to(device)


def has_quick_gelu(clip: CLIP) -> bool:
    """Whether both towers, as far as they have a GELU, have OpenAI's."""
    from open_clip.transformer import QuickGELU

    kinds = {type(module) for module in clip.modules() if isinstance(module, (nn.GELU, QuickGELU))}
    return kinds == {QuickGELU}


def _published(probabilities: Tensor) -> Tensor:
    if probabilities.ndim != 2 or probabilities.shape[1] != len(PUBLISHED_PAIRS):
        raise ValueError(
            f"probabilities have shape {tuple(probabilities.shape)}; it takes (B, {len(PUBLISHED_PAIRS)}) of "
            "PUBLISHED_PAIRS, for other pairs average the columns"
        )
    return probabilities
