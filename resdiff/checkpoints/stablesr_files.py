"""The published files of StableSR in the cache: which are there, how to get the others, and their removal.

Importing this file does not import torch, and no file is opened.
"""

from contextlib import suppress
from pathlib import Path

from resdiff.checkpoints.cache import cache_dir, find_file
from resdiff.checkpoints.known import stem
from resdiff.checkpoints.known_stablesr import STABLESR_MODELS, KnownStableSR, KnownWeights
from resdiff.checkpoints.store import delete


def cached_checkpoint(known: KnownStableSR) -> Path | None:
    """Return the file in the cache that holds the adapter, Stable Diffusion in it or not; None if it is not there."""
    return find_file(known.files, [cache_dir()])


def is_adapter_file(known: KnownStableSR, file: Path) -> bool:
    """Whether a file is published as the adapter alone, by its name."""
    return stem(file.name) in (stem(name) for name in known.adapters)


def cached_cfw(known: KnownStableSR) -> Path | None:
    """Return the file of CFW in the cache; None if it is not there or the model has none."""
    return None if known.cfw is None else find_file(known.cfw.files, [cache_dir()])


def lacking(known: KnownStableSR) -> list[KnownWeights]:
    """Return the published files that the cache has not."""
    checkpoint = [] if cached_checkpoint(known) else [known.weights]
    return checkpoint if known.cfw is None or cached_cfw(known) else [*checkpoint, known.cfw]


def how_to_get(known: KnownStableSR) -> str:
    """Return one line: the files that the cache lacks, from where, and where to put them."""
    wanted = [
        part.url if part.is_downloadable else f"{part.file} (its address is not known, look at {part.url})"
        for part in lacking(known)
    ]
    return (
        f"{known.name} needs {' and '.join(wanted) or 'nothing more'}: download into {cache_dir()} "
        f"(or set RESDIFF_CACHE to the folder that has them); {known.licence}"
    )


def others_with_cfw(known: KnownStableSR) -> list[str]:
    """Return the names of the other models whose checkpoints are in the cache and that have the same CFW."""
    same = (other for other in STABLESR_MODELS.values() if other != known and other.cfw == known.cfw)
    return [other.name for other in same if cached_checkpoint(other)]


def remove(known: KnownStableSR) -> list[Path]:
    """Delete a model's files from the cache and return them; CFW stays while another model there needs it.

    Raises ValueError, one line: a file is being downloaded or cannot be deleted.
    """
    if not (folder := cache_dir()).is_dir():
        return []
    cfw = () if known.cfw is None or others_with_cfw(known) else known.cfw.files
    removed = delete(folder, [*known.files, *cfw])
    with suppress(OSError):  # the licence is shown again with the next download
        (folder / ".licences" / known.name).unlink()
    return removed
