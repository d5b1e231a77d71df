"""Known models by name: found in the cache, or downloaded into it, and compared with the published layout.

The reference scripts download whatever a URL sends and load it; here a file is in the cache only after its checksums,
and every name and shape, have been compared.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from resdiff.checkpoints.cache import cached, how_to_get, names_of, offline, others_with, show_licence
from resdiff.checkpoints.download import WAITS, DownloadError
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known import KnownAutoencoder, KnownModel, known_by_name
from resdiff.checkpoints.layout import check_layout
from resdiff.checkpoints.records import check_record
from resdiff.checkpoints.resshift import Published, resolve
from resdiff.checkpoints.verified import check_thoroughly, download_checked, with_remedy

Part = KnownModel | KnownAutoencoder


def fetch(
    name: str,
    *,
    vae_file: str | Path | None = None,  # used instead of the published autoencoder, which then is not downloaded
    progress: bool = True,  # a bar on stderr
    waits: Sequence[float] = WAITS,  # seconds before each further try of a broken download
) -> Published:
    """Return the files of a known model, after downloading those that the cache lacks.

    Raises CheckpointError, one line: there is no network (the message says which files to get from where), what was
    sent or lies in the cache is not the model; ValueError for an unknown name.
    """
    known = known_by_name(name)
    lacking = [part for part in _parts(known, vae_file) if cached(part) is None]
    if lacking and offline():
        raise CheckpointError(f"offline: {how_to_get(known)}")
    for part in lacking:
        show_licence(known)
        try:
            _download(part, progress, waits)
        except DownloadError as error:
            raise CheckpointError(f"{error}; {how_to_get(known)}") from error
    return in_cache(name, vae_file)


def in_cache(name: str, vae_file: str | Path | None = None) -> Published:
    """Find the files of a known model in `cache_dir()`, without network.

    Sizes are compared with those of the verified download, the contents if a file is newer than that, and every name
    and shape. Raises CheckpointError, one line: files lack (the message says what to download and where to put it) or
    are not the model; ValueError for an unknown name.
    """
    known = known_by_name(name)
    files = [cached(part) for part in _parts(known, vae_file)]
    found = [file for file in files if file is not None]
    if len(found) < len(files):
        raise CheckpointError(how_to_get(known))
    for part, file in zip(_parts(known, vae_file), found, strict=True):
        with _with_remedy(known, part, file):
            check_record(file)
            check_layout(part, file)
    return resolve(found if vae_file is None else [*found, vae_file], name)


def verify(name: str) -> Published:
    """Read the files of a known model in the cache completely and compare them with what they were when they came.

    A file that was put there by hand is compared with its own checksums and the published layout and then counts as
    verified. Raises as `in_cache`.
    """
    known = known_by_name(name)
    published = in_cache(name)
    for part, file in ((known, published.unet_file), (known.autoencoder, published.autoencoder_file)):
        with _with_remedy(known, part, file):
            check_thoroughly(file)
    return published


def _parts(known: KnownModel, vae_file: str | Path | None) -> list[Part]:
    return [known, known.autoencoder] if vae_file is None else [known]


def _download(part: Part, progress: bool, waits: Sequence[float]) -> None:
    """Download the file of one part into the cache; raises DownloadError."""
    file = names_of(part)[0]
    download_checked(file, part.url, partial(check_layout, part), progress=progress, waits=waits)


@contextmanager
def _with_remedy(known: KnownModel, part: Part, file: Path) -> Iterator[None]:
    shared = part != known and others_with(known)  # then `resdiff models rm` would leave it
    with with_remedy(f"delete {file}" if shared else f"resdiff models rm {known.name}", known.name):
        yield
