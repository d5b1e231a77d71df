"""The folder that published files are fetched into: what lies there, what lacks, whose licence, and removal.

Files keep their published names, so that a folder filled by hand serves as well. Hidden subfolders hold locks and the
names of the models whose licence was shown. Importing this file does not import torch.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from resdiff.checkpoints import store
from resdiff.checkpoints.known import KNOWN, KnownAutoencoder, KnownModel, known_by_name

logger = logging.getLogger("resdiff")


def cache_dir() -> Path:
    """Return the folder of published files: $RESDIFF_CACHE, or `resdiff` in the user's cache. It need not exist."""
    if folder := os.environ.get("RESDIFF_CACHE"):
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "resdiff"


def offline() -> bool:
    """Whether the user wants no network: RESDIFF_OFFLINE or HF_HUB_OFFLINE is 1, true, yes or on."""
    values = (os.environ.get(name, "").lower() for name in ("RESDIFF_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value in ("1", "true", "yes", "on") for value in values)


def address(published: KnownModel | KnownAutoencoder) -> str:
    """Return where a file is downloaded from: its release page, or $RESDIFF_MIRROR, a folder with files of these names."""
    return store.address(names_of(published)[0], published.url)


def names_of(published: KnownModel | KnownAutoencoder) -> tuple[str, ...]:
    """Return the names that a file may have, the one it is fetched under first."""
    return published.files if isinstance(published, KnownModel) else (published.file,)


def find_file(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """Return the first file in `folders` that has one of `names` or is its `.safetensors` twin."""
    wanted = store.with_twins(names)
    paths = (store.inside(Path(folder), name) for folder in folders for name in wanted)
    return next((path for path in paths if path.is_file()), None)


def cached(published: KnownModel | KnownAutoencoder) -> Path | None:
    """Return the file of a network or autoencoder in the cache, unread; None if it is not there."""
    return find_file(names_of(published), [cache_dir()])


def others_with(model: KnownModel) -> list[str]:
    """Return the names of the other models whose networks are in the cache and need the autoencoder of `model`."""
    same = (other for other in KNOWN.values() if other != model and other.autoencoder == model.autoencoder)
    return [other.name for other in same if cached(other)]


def how_to_get(model: KnownModel, folder: Path | None = None) -> str:
    """Return one line: the files of `model` that `folder` (default `cache_dir()`) lacks, from where, and where to put them."""
    folder = cache_dir() if folder is None else folder
    urls = [part.url for part in (model, model.autoencoder) if find_file(names_of(part), [folder]) is None]
    return (
        f"{model.name} needs {' and '.join(urls) or 'nothing more'}: download into {folder} "
        f"(or set RESDIFF_CACHE to the folder that has them); {model.licence}"
    )


class Licensed(Protocol):
    """Something published: a model, a part of one, or what it builds upon."""

    @property
    def name(self) -> str: ...

    @property
    def url(self) -> str: ...

    @property
    def licence(self) -> str: ...


def show_licence(model: Licensed) -> None:
    """Say on the log, once per model and cache, under which licence it comes."""
    marker = _licence_marker(model)
    if marker.exists():
        return
    logger.warning("%s (%s) comes under its publisher's licence: %s", model.name, model.url, model.licence)
    with suppress(OSError):  # of a cache that cannot be written: it is shown again
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()


def remove(name: str) -> list[Path]:
    """Delete the files of a known model from the cache, unfinished downloads too, and return what was deleted.

    Its autoencoder stays while another network in the cache needs it. A link is deleted, not what it leads to.
    Raises ValueError, one line: the name is unknown, a file is being downloaded or cannot be deleted.
    """
    model, folder = known_by_name(name), cache_dir()
    if not folder.is_dir():
        return []
    names = [*names_of(model), *(() if others_with(model) else names_of(model.autoencoder))]
    removed = store.delete(folder, names)
    with suppress(OSError):
        _licence_marker(model).unlink()
    return removed


def _licence_marker(model: Licensed) -> Path:
    return cache_dir() / ".licences" / model.name
