"""StableSR by name: found in the cache, or downloaded into it, and compared with the published layout.

As `resdiff.checkpoints.fetch` does for the ResShift family: a file is in the cache only after its checksums, and every
name and shape, have been compared. The files for faces have no address and are put there by hand.
"""

from collections.abc import Sequence
from pathlib import Path

from resdiff.checkpoints.cache import offline, show_licence
from resdiff.checkpoints.download import WAITS, DownloadError
from resdiff.checkpoints.io import CheckpointError, read_shapes
from resdiff.checkpoints.known_stablesr import KnownStableSR, KnownWeights, stablesr_by_name
from resdiff.checkpoints.records import check_record
from resdiff.checkpoints.stable_diffusion import SD2_CONFIGS
from resdiff.checkpoints.stablesr import Published, resolve
from resdiff.checkpoints.stablesr_files import cached_cfw, cached_checkpoint, how_to_get, lacking
from resdiff.checkpoints.stablesr_networks import autoencoder, cfw, check
from resdiff.checkpoints.verified import check_thoroughly, download_checked, with_remedy


def fetch(
    name: str,
    *,
    base: str | Path | None = None,  # these three as of `resdiff.checkpoints.stablesr.resolve`
    cfw_file: str | Path | None = None,
    prediction_type: str | None = None,
    progress: bool = True,  # a bar on stderr
    waits: Sequence[float] = WAITS,  # seconds before each further try of a broken download
) -> Published:
    """Return the files of a known model, after downloading those that the cache lacks.

    Raises CheckpointError, one line: there is no network or no address (the message says which files to get from where),
    what was sent or lies in the cache is not the model; ValueError for an unknown name.
    """
    known = stablesr_by_name(name)
    wanted = [part for part in lacking(known) if cfw_file is None or part is not known.cfw]
    if wanted and (offline() or not all(part.is_downloadable for part in wanted)):
        raise CheckpointError(f"{'offline: ' if offline() else ''}{how_to_get(known)}")
    for part in wanted:
        show_licence(known)
        try:
            _download(known, part, progress, waits)
        except DownloadError as error:
            raise CheckpointError(f"{error}; {how_to_get(known)}") from error
    for file in _cached(known):
        with with_remedy(f"delete {file}", name):
            check_record(file)
    checkpoint = cached_checkpoint(known)
    assert checkpoint is not None
    return resolve([checkpoint], name, base=base, cfw_file=cfw_file, prediction_type=prediction_type)


def verify(name: str) -> Published:
    """Read the files of a known model in the cache completely and compare them with what they were when they came.

    A file that was put there by hand is compared with its own checksums and then counts as verified. Raises as `fetch`.
    """
    published = fetch(name)
    for file in _cached(published.known):
        with with_remedy(f"delete {file}", name):
            check_thoroughly(file)
    return published


def _cached(known: KnownStableSR) -> list[Path]:
    return [file for file in (cached_checkpoint(known), cached_cfw(known)) if file is not None]


def _download(known: KnownStableSR, part: KnownWeights, progress: bool, waits: Sequence[float]) -> None:
    """Download one file into the cache; raises DownloadError."""

    def check_layout(file: Path) -> None:
        if part is known.weights:
            resolve([file], known.name)
            return
        shapes = read_shapes(file)
        for build in (cfw, autoencoder):
            check(build(shapes, SD2_CONFIGS["vae"], file))

    download_checked(part.file, part.url, check_layout, progress=progress, waits=waits)
