"""Where the weights of the network metrics lie, or what to fetch: a path, the cache, torch's hub folder, the publisher.

A metric computed with random weights is a number that looks right. So there is no such fallback: weights are found, or
fetched, or `MissingWeights` says in one line which file to put where.
"""

import logging
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from resdiff.checkpoints.cache import cache_dir, find_file, offline
from resdiff.checkpoints.download import DownloadError, download
from resdiff.files.digest import sha256

logger = logging.getLogger("resdiff")

PATIENCE = 10.0  # seconds without a byte after which a server counts as unreachable
WAITS = (1.0,)  # seconds before the one further try: a benchmark should say soon what it lacks


class MissingWeights(ValueError):
    """A metric's weights are not at hand: one line with the file, where it comes from and where to put it."""


@dataclass(frozen=True, kw_only=True)
class MetricWeights:
    """One published file."""

    file: str  # the name it is published and looked for under
    url: str
    sha256: str  # the digest, or the leading digits of it that the publisher put into the name; "" if unknown
    licence: str


def find_weights(weights: MetricWeights, path: str | Path | None = None) -> Path:
    """Return the file with a metric's weights, downloading it where it lies nowhere and the network may be used.

    Looked for in `path` alone if that is given, else in `resdiff.checkpoints.cache.cache_dir()` ($RESDIFF_CACHE), then
    in torch's hub folder; a `.safetensors` file of the same stem serves as well. What lies there is taken as it is, so
    that a smaller file with the needed layers alone will do; what is downloaded, into `cache_dir()`, is checked.

    Args:
        weights: the published file.
        path: the file under any name, or a folder that holds it under its own.

    Raises:
        MissingWeights: it is nowhere, and cannot be downloaded or RESDIFF_OFFLINE is set.
    """
    if path is not None:
        return _at(Path(path), weights)
    if found := find_file([weights.file], [cache_dir(), Path(torch.hub.get_dir()) / "checkpoints"]):
        return found
    if offline():
        raise _missing(weights, "it is not on this machine and RESDIFF_OFFLINE or HF_HUB_OFFLINE is set")
    mirror = os.environ.get("RESDIFF_MIRROR")
    url = f"{mirror.rstrip('/')}/{weights.file}" if mirror else weights.url
    target = cache_dir() / weights.file
    logger.warning("fetching %s from %s (%s)", weights.file, url, weights.licence)
    try:
        download(url, target, partial(check_digest, weights), waits=WAITS, timeout=PATIENCE)
    except DownloadError as error:
        raise _missing(weights, f"it cannot be fetched ({str(error).removeprefix(f'{url}: ')})") from error
    return target


def check_digest(weights: MetricWeights, path: Path) -> None:
    """Raise ValueError unless the file at `path` is byte for byte the published one, as far as its digest is known."""
    digest = sha256(path)
    if not digest.startswith(weights.sha256):
        raise ValueError(f"{path} has the SHA-256 {digest[:16]}..., {weights.file} has {weights.sha256[:16]}")


def _at(path: Path, weights: MetricWeights) -> Path:
    """Return the file that `path` names or, being a folder, holds."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise _missing(weights, f"{path} does not exist", path)
    if found := find_file([weights.file], [path]):
        return found
    raise _missing(weights, f"{path} does not hold it", path)


def _missing(weights: MetricWeights, why: str, folder: Path | None = None) -> MissingWeights:
    target = (
        str(folder)
        if folder
        else f"{cache_dir()} (or set RESDIFF_CACHE to its folder, or pass the path of file or folder)"
    )
    return MissingWeights(f"{weights.file} ({weights.licence}) is missing: {why}; download {weights.url} into {target}")
