"""The published weights of CLIP-IQA: where they are, how they are read, and that they are what they should be.

Backbones are OpenAI's, MIT licence, as TorchScript archives (openai/CLIP), as safetensors (open_clip's copies on the
hub) or as a plain state dict; the learned words of CLIP-IQA+ are those of IceClear/CLIP-IQA as chaofengc/IQA-PyTorch
publishes them. A TorchScript archive is a program: unlike the references, this loads it only when its digest is
OpenAI's.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from resdiff.checkpoints.cache import cache_dir, find_file
from resdiff.checkpoints.io import CheckpointError, peel, read_state_dict
from resdiff.metrics.clip_towers import build_clip, vision_config
from resdiff.metrics.weights import MetricWeights, check_digest, find_weights
from resdiff.names import remedy

if TYPE_CHECKING:
    from open_clip.model import CLIP

OPENAI = "https://openaipublic.azureedge.net/clip/models"
PYIQA_HUB = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main"
HUB_FILE = "open_clip_model.safetensors"  # what open_clip downloads for its tag "openai"
T = TypeVar("T")
CONTEXT_NAMES = ("prompt_learner.ctx", "ctx")
TEMPLATE_NAMES = ("token_prefix", "token_suffix")  # of the template; taken from the backbone's own embedding


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A CLIP of OpenAI, and what tells it from its siblings."""

    weights: MetricWeights
    hub: str  # repository of open_clip's copy
    layers: int | tuple[int, int, int, int]
    width: int
    patch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Learned words of CLIP-IQA+."""

    weights: MetricWeights
    backbone: str
    use_positions: bool


def _openai(file: str, sha256: str) -> MetricWeights:
    return MetricWeights(file=file, url=f"{OPENAI}/{sha256}/{file}", sha256=sha256, licence="OpenAI, MIT")


def _learned(file: str) -> MetricWeights:
    return MetricWeights(file=file, url=f"{PYIQA_HUB}/{file}", sha256="", licence="S-Lab 1.0, non-commercial")


BACKBONES: dict[str, Backbone] = {
    "RN50": Backbone(
        weights=_openai("RN50.pt", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
        hub="timm/resnet50_clip.openai",
        layers=(3, 4, 6, 3),
        width=64,
    ),
    "ViT-B-32": Backbone(
        weights=_openai("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
        hub="timm/vit_base_patch32_clip_224.openai",
        layers=12,
        width=768,
        patch_size=32,
    ),
    "ViT-B-16": Backbone(
        weights=_openai("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
        hub="timm/vit_base_patch16_clip_224.openai",
        layers=12,
        width=768,
        patch_size=16,
    ),
    "ViT-L-14": Backbone(
        weights=_openai("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
        hub="timm/vit_large_patch14_clip_224.openai",
        layers=24,
        width=1024,
        patch_size=14,
    ),
}
LEARNED: dict[str, Learned] = {
    "RN50": Learned(weights=_learned("CLIP-IQA+_learned_prompts-603f3273.pth"), backbone="RN50", use_positions=False),
    "RN50_512": Learned(weights=_learned("CLIPIQA+_RN50_512-89f5d940.pth"), backbone="RN50", use_positions=True),
    "ViTL14_512": Learned(
        weights=_learned("CLIPIQA+_ViTL14_512-e66488f2.pth"), backbone="ViT-L-14", use_positions=True
    ),
}


def read_clip(backbone: str, path: str | Path | None = None) -> CLIP:
    """Return one of `BACKBONES`, in float32 on the CPU, from `path` (file or folder), a cache, or the publisher.

    Raises MissingWeights, CheckpointError (not a CLIP, not this one, or TorchScript that is not OpenAI's), and
    ValueError for an unknown backbone.
    """
    published = _known(backbone, BACKBONES, "CLIP-IQA backbone")
    file = find_clip(published, path)
    state = read_clip_state(file, published.weights)
    clip = build_clip(state, source=file)
    tower = vision_config(state)
    if (tower.layers, tower.width) != (published.layers, published.width) or (
        published.patch_size is not None and tower.patch_size != published.patch_size
    ):
        raise CheckpointError(
            f"{file} is a CLIP with {tower.layers} layers of width {tower.width}, not {backbone}; give {backbone}'s file"
        )
    return clip


def find_clip(published: Backbone, path: str | Path | None = None) -> Path:
    """Return a file of the backbone: at `path`, in a cache (ours, torch's, clip's, pyiqa's, the hub's), or fetched.

    Raises MissingWeights.
    """
    if path is not None:
        copy = Path(path) / HUB_FILE
        own = find_file([published.weights.file], [Path(path)]) if Path(path).is_dir() else None
        return copy if own is None and copy.is_file() else find_weights(published.weights, path)
    from huggingface_hub import try_to_load_from_cache

    hub = Path(torch.hub.get_dir())
    folders = [cache_dir(), hub / "checkpoints", hub / "clip", Path("~/.cache/clip").expanduser()]
    if found := find_file([published.weights.file], folders):
        return found
    copied = try_to_load_from_cache(published.hub, HUB_FILE)
    return Path(copied) if isinstance(copied, str) else find_weights(published.weights)


def read_clip_state(path: Path, published: MetricWeights) -> dict[str, Tensor]:
    """Return the state dict of a backbone's file in whichever of the three forms it has.

    Raises CheckpointError; for TorchScript whose digest is not the published one before anything of it is loaded.
    """
    if not is_torchscript(path):
        return read_state_dict(path)
    try:
        check_digest(published, path)
    except ValueError as error:
        raise CheckpointError(
            f"{path} is a TorchScript program and not the published one, so it is not run: {error}; download "
            f"{published.url} or save the state dict as safetensors"
        ) from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit")  # deprecated; OpenAI's files stay as they are
        return torch.jit.load(path, map_location="cpu").state_dict()


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with code in it, as torch.jit.save writes; no part of it is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def read_context(variant: str, path: str | Path | None = None) -> Tensor:
    """Return the learned words of a variant of CLIP-IQA+, (2, n, C), float32, from `path`, a cache, or the publisher.

    Raises MissingWeights, CheckpointError (not such a file), and ValueError for an unknown variant.
    """
    file = find_weights(_known(variant, LEARNED, "CLIP-IQA+ variant").weights, path)
    if is_torchscript(file):
        raise CheckpointError(f"{file} is a TorchScript program; CLIP-IQA+ needs a file with the tensor `ctx`")
    try:
        state = (
            read_state_dict(file) if file.suffix == ".safetensors" else _tensors(torch.load(file, weights_only=True))
        )
    except Exception as error:  # a damaged pickle raises whatever it spells
        raise CheckpointError(f"{file} is not a checkpoint with plain tensors; download it again") from error
    context = next((state[name] for name in CONTEXT_NAMES if name in state), None)
    unknown = [name for name in state if name not in CONTEXT_NAMES and name.rsplit(".", 1)[-1] not in TEMPLATE_NAMES]
    if context is None or unknown or context.ndim != 3 or len(context) != 2:
        names = ", ".join(f"{name} {tuple(x.shape)}" for name, x in list(state.items())[:4]) or "no tensor"
        raise CheckpointError(f"{file} has {names}; CLIP-IQA+ needs `ctx` of shape (2, n, C) and nothing else")
    return context.float()


def _tensors(content: object) -> Mapping[str, Tensor]:
    """Return the tensors of a file by name; the first published one is a bare tensor."""
    return {"ctx": content.detach()} if isinstance(content, Tensor) else peel(content)


def _known(name: str, table: Mapping[str, T], what: str) -> T:
    if name not in table:
        raise ValueError(f"{what} {name!r} is unknown; {remedy(name, table)}")
    return table[name]
