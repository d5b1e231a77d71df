"""A diffusers folder of the Hugging Face hub: from the hub's cache, or downloaded, of its files only those needed."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError

from resdiff.checkpoints.cache import offline
from resdiff.checkpoints.folders import VARIANTS, WEIGHTS
from resdiff.checkpoints.io import CheckpointError

REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
SMALL = ("model_index.json", "scheduler/*.json", "tokenizer/*.json", "tokenizer/*.txt", "unet/config.json")


def is_repository(name: str) -> bool:
    """Whether a name has the form of a repository of the hub, "organisation/name"."""
    return REPOSITORY.fullmatch(name) is not None


def cached(repository: str) -> Path | None:
    """Return the folder of a repository in the hub's cache, which may hold only part of it; None if it is not there."""
    try:
        return Path(snapshot_download(repository, allow_patterns=[], local_files_only=True))
    except (EntryNotFoundError, HFValidationError, OSError):
        return None


def download(repository: str, parts: Sequence[str], is_complete: Callable[[Path], bool]) -> Path:
    """Download the components `parts` of a repository into the hub's cache and return its folder there.

    Of several files with the same weights one is taken, as `folders.weight_files` prefers. Raises CheckpointError, one
    line: there is no network, or no such repository, or it lacks a component.
    """
    if offline():
        raise CheckpointError(f"offline: {repository} is not in the cache of the Hugging Face hub, or not whole")
    for weights in _formats():
        patterns = [*SMALL, *(f"{part}/{name}" for part in parts for name in ("config.json", *weights))]
        try:
            folder = Path(snapshot_download(repository, allow_patterns=patterns))
        except Exception as error:  # the hub's own, and those of two libraries under it
            said = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"{repository} cannot be downloaded from the Hugging Face hub: {said}") from error
        if is_complete(folder):
            return folder
    raise CheckpointError(f"{repository} of the Hugging Face hub lacks one of {', '.join(parts)}, or its weights")


def _formats() -> Iterator[list[str]]:
    """Yield the patterns of weight files, one format after the other."""
    for variant in VARIANTS:
        for suffix in ("safetensors", "bin"):
            stems = [name.removesuffix(f".{suffix}") for name in WEIGHTS if name.endswith(suffix)]
            patterns = ("{0}{1}.{2}", "{0}{1}.{2}.index.json", "{0}.{2}.index{1}.json", "{0}{1}-*.{2}", "{0}-*{1}.{2}")
            yield [pattern.format(stem, variant, suffix) for stem in stems for pattern in patterns]
