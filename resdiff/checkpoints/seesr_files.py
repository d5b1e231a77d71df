"""Where the parts of SeeSR and AddSR lie that were put there by hand, and what to say of those that do not.

Importing this file does not import torch, and no file is opened.
"""

from pathlib import Path

from resdiff.checkpoints.cache import cache_dir
from resdiff.checkpoints.known_seesr import DAPE_FILE, NETWORKS, RAM_FILE, KnownBase, KnownSeeSR


def has_networks(path: Path) -> bool:
    """Whether a folder has the two networks; nothing is opened."""
    return all((path / part / "config.json").is_file() for part in NETWORKS)


def is_published_folder(path: Path) -> bool:
    """Whether a folder has the two networks and is not a saved pipeline."""
    return has_networks(path) and not (path / "model_index.json").is_file()


def cached_folder(known: KnownSeeSR) -> Path | None:
    """Return the folder of a model in `cache_dir()`, where it has been put by hand; None if it is not there."""
    folder = cache_dir() / known.folder
    paths = (folder, folder / known.folder)  # the second: the downloaded folder of the Drive is put there as it is
    return next((path for path in paths if has_networks(path)), None)


def places_around(folder: Path | None) -> list[Path]:
    """Return the folders in which a model's base and tagger are looked for."""
    return [*([] if folder is None else [folder, folder.parent]), cache_dir()]


def how_to_get(known: KnownSeeSR) -> str:
    """Return one line: what of a model to download by hand from where, and where to put it."""
    return (
        f"download {known.url} by hand (Google Drive) and put its unet and controlnet into {cache_dir() / known.folder}, "
        f"{how_to_get_tagger()}; {known.base.name} is found there too or downloaded; {known.licence}"
    )


def how_to_get_tagger() -> str:
    """Return half a sentence, as above."""
    files = " and ".join(f"{part.file} ({part.url})" for part in (RAM_FILE, DAPE_FILE))
    return f"{files} into {cache_dir()}"


def found_base(known: KnownBase, places: list[Path]) -> Path | None:
    """Return the folder of a base in `places` or in the cache of the Hugging Face hub, where it may lack parts; or None."""
    folders = (place / name for place in places for name in known.folders)
    if (found := next((folder for folder in folders if folder.is_dir()), None)) is not None:
        return found
    from huggingface_hub import try_to_load_from_cache

    for repository in (*known.removed, *known.mirrors):
        if isinstance(index := try_to_load_from_cache(repository, "model_index.json"), str):
            return Path(index).parent
    return None
