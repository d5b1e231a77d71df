"""RAM (2306.03514), which tags photos; with DAPE's weights the tagger of SeeSR (2311.16518).

SeeSR asks two things of a low-resolution photo: tags, which become words of the prompt, and image embeddings, which its
UNet and ControlNet attend to. Reference: RAMLora of cswry/SeeSR ram/models/ram_lora.py; parameter names are those of
xinyu1205/recognize-anything. Differences: only what inference needs is here, DAPE's low-rank updates are already merged
(`resdiff.checkpoints.ram`), and the queries, which are the same for every image, are formed once for a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from resdiff.attention import attention
from resdiff.models.network import NetworkMixin
from resdiff.models.swin_encoder import SwinEncoder

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1]
IMAGENET_STD = (0.229, 0.224, 0.225)
NORM_EPS = 1e-12  # of BERT's layer norms


def tagger_input(lr: Tensor, size: int) -> Tensor:
    """Prepare low-resolution images, before any upscaling, for tagging: SeeSR's inference.

    Bilinear without antialiasing, as torchvision resized tensors when SeeSR was published; the aspect ratio is not kept.

    lr: (B, 3, h, w) RGB in [-1, 1]. Returns (B, 3, size, size), normalised for RAM.
    """
    return _normalize(F.interpolate(lr / 2 + 0.5, (size, size), mode="bilinear", align_corners=False))


def tagger_input_bicubic(images: Tensor, size: int, *, clamp: bool = False) -> Tensor:
    """Prepare images in [0, 1], (B, 3, h, w) RGB, for tagging by bicubic interpolation, a = -0.75, no antialiasing.

    AddSR's refinement does so with what it has restored so far. The trainings of SeeSR, DAPE and AddSR `clamp` the
    overshoot to [0, 1]. Returns (B, 3, size, size), normalised for RAM.
    """
    resized = F.interpolate(images, (size, size), mode="bicubic", align_corners=False)
    return _normalize(resized.clamp(0, 1) if clamp else resized)


def _normalize(images: Tensor) -> Tensor:
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


class Residual(nn.Module):
    """LN(x + dense(h)), the end of BERT's sublayers."""

    def __init__(self, in_features: int, hidden_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, hidden_size)
        self.LayerNorm = nn.LayerNorm(hidden_size, eps=NORM_EPS)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        return self.LayerNorm(x + self.dense(h))


class QueryKeyValue(nn.Module):
    """Queries from the tags, keys and values from the image. The biases of keys cancel in the softmax."""

    def __init__(self, hidden_size: int, image_embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(image_embed_dim, hidden_size)
        self.value = nn.Linear(image_embed_dim, hidden_size)

    def forward(self, x: Tensor, image_embeds: Tensor) -> Tensor:
        q, k, v = (
            h.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for h in (self.query(x), self.key(image_embeds), self.value(image_embeds))
        )  # (B or 1, heads, N, hidden/heads)
        return attention(q.expand(len(k), -1, -1, -1), k, v).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """The tags look at the image."""

    def __init__(self, hidden_size: int, image_embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.self = QueryKeyValue(hidden_size, image_embed_dim, num_heads)
        self.output = Residual(hidden_size, hidden_size)

    def forward(self, x: Tensor, image_embeds: Tensor) -> Tensor:
        return self.output(self.self(x, image_embeds), x)


class Intermediate(nn.Module):
    """First half of BERT's perceptron, exact-erf GELU."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden_size, intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class TagLayer(nn.Module):
    """A BERT layer without self-attention, as in Query2Label (2107.10834): every tag is judged on its own."""

    def __init__(self, hidden_size: int, intermediate_size: int, image_embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.crossattention = CrossAttention(hidden_size, image_embed_dim, num_heads)
        self.intermediate = Intermediate(hidden_size, intermediate_size)
        self.output = Residual(intermediate_size, hidden_size)

    def forward(self, x: Tensor, image_embeds: Tensor) -> Tensor:
        """x: (B, classes, hidden), or (1, classes, hidden) for all images. Returns (B, classes, hidden)."""
        x = self.crossattention(x, image_embeds)
        return self.output(self.intermediate(x), x)


class TagEncoder(nn.Module):
    """The layers, one after another."""

    def __init__(self, layers: Sequence[TagLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)

    def forward(self, x: Tensor, image_embeds: Tensor) -> Tensor:
        for layer in self.layer:
            x = layer(x, image_embeds)
        return x


class TagHead(nn.Module):
    """BERT without its embeddings: nothing but the encoder is left."""

    def __init__(self, layers: Sequence[TagLayer]) -> None:
        super().__init__()
        self.encoder = TagEncoder(layers)

    def forward(self, x: Tensor, image_embeds: Tensor) -> Tensor:
        return self.encoder(x, image_embeds)


@dataclass
class RAMOutput(BaseOutput):
    """What RAM sees in images."""

    image_embeds: Tensor  # (B, 1 + N, image_embed_dim), the global token first
    logits: Tensor | None  # (B, classes)


class RAM(NetworkMixin, ModelMixin, ConfigMixin):
    """The tagger; the defaults are ram_swin_large_14m (Swin-L, 4585 tags).

    `tags` and `thresholds` are saved with the weights. Without them `image_embeds` and `logits` work, `tags` does not.

    Raises:
        ValueError: sizes do not fit one another, or tags and thresholds are not as many as classes.
    """

    _no_split_modules: ClassVar[list[str]] = ["SwinBlock", "TagLayer"]
    _repeated_blocks: ClassVar[list[str]] = ["SwinBlock", "TagLayer"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["norm", "LayerNorm", "patch_embed", "image_proj", "^fc$"]

    @register_to_config
    def __init__(
        self,
        image_res: int = 384,  # side of the images
        patch_size: int = 4,
        embed_dim: int = 192,  # channels of Swin's first stage
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (6, 12, 24, 48),
        window_size: int = 12,
        mlp_ratio: float = 4.0,
        image_embed_dim: int = 512,  # of image and label embeddings: CLIP's
        hidden_size: int = 768,  # of the tag head
        intermediate_size: int = 3072,
        num_attention_heads: int = 4,
        num_hidden_layers: int = 2,
        num_classes: int = 4585,
        tags: Sequence[str] | None = None,  # the name of every class
        thresholds: Sequence[float] | None = None,  # probability above which a tag is given
    ) -> None:
        super().__init__()
        for name, values in (("tags", tags), ("thresholds", thresholds)):
            if values is not None and len(values) != num_classes:
                raise ValueError(
                    f"there are {len(values)} {name} for {num_classes} classes; give the files of this model"
                )
        if hidden_size % num_attention_heads:
            raise ValueError(
                f"hidden_size is {hidden_size}, not a multiple of num_attention_heads {num_attention_heads}"
            )
        self.visual_encoder = SwinEncoder(image_res, patch_size, embed_dim, depths, num_heads, window_size, mlp_ratio)
        self.image_proj = nn.Linear(embed_dim * 2 ** (len(depths) - 1), image_embed_dim)
        self.label_embed = nn.Parameter(torch.randn(num_classes, image_embed_dim))
        self.wordvec_proj = nn.Linear(image_embed_dim, hidden_size)
        self.tagging_head = TagHead(
            [
                TagLayer(hidden_size, intermediate_size, image_embed_dim, num_attention_heads)
                for _ in range(num_hidden_layers)
            ]
        )
        self.fc = nn.Linear(hidden_size, 1)

    @apply_forward_hook
    def image_embeds(self, images: Tensor) -> Tensor:
        """Return the embeddings that SeeSR attends to, (B, 1 + N, image_embed_dim), the global token first.

        images: (B, 3, image_res, image_res) of `tagger_input`. Raises ValueError for another size.
        """
        return self.image_proj(self.visual_encoder(images))

    @apply_forward_hook
    def logits(self, image_embeds: Tensor) -> Tensor:
        """Return the logit of every class, (B, classes), from what `image_embeds` returned."""
        labels = F.relu(self.wordvec_proj(self.label_embed)).unsqueeze(0)  # (1, classes, hidden)
        return self.fc(self.tagging_head(labels, image_embeds)).squeeze(-1)

    def is_present(self, logits: Tensor) -> Tensor:
        """Whether the probability of each class exceeds its threshold: (B, classes) bool.

        Raises ValueError when the network has no thresholds.
        """
        thresholds = self._named("thresholds")
        return logits.float().sigmoid() > torch.tensor(thresholds, dtype=torch.float32, device=logits.device)

    def tags(self, logits: Tensor) -> list[str]:
        """Return the tags of each image in the order of the list, as "cat, grass"; "" for an image without any.

        Raises ValueError when the network has no tags and thresholds.
        """
        names = self._named("tags")
        return [
            ", ".join(name for name, given in zip(names, row, strict=True) if given)
            for row in self.is_present(logits).tolist()
        ]

    def forward(
        self,
        images: Tensor,
        with_logits: bool = True,  # they take about a third of the time
        return_dict: bool = True,
    ) -> RAMOutput | tuple[Tensor, Tensor | None]:
        """Return embeddings and logits of images (B, 3, image_res, image_res) of `tagger_input`."""
        image_embeds = self.image_embeds(images)
        logits = self.logits(image_embeds) if with_logits else None
        return RAMOutput(image_embeds=image_embeds, logits=logits) if return_dict else (image_embeds, logits)

    def _named(self, name: str) -> Sequence:
        values = self.config[name]
        if values is None:
            raise ValueError(
                f"this tagger has no {name}; load it with those of ram_tag_list.txt and ram_tag_list_threshold.txt: "
                "resdiff.checkpoints.tag_lists.tag_lists() finds or downloads the two files"
            )
        return values
