"""Files of the cache that are what was published: checked before they are put there, and again when asked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from resdiff.checkpoints.cache import cache_dir
from resdiff.checkpoints.download import DownloadError, download
from resdiff.checkpoints.io import CheckpointError, check_sums
from resdiff.checkpoints.records import check_record, write_record
from resdiff.checkpoints.store import address, inside


def download_checked(
    file: str, url: str, check: Callable[[Path], object], *, progress: bool, waits: Sequence[float]
) -> None:
    """Download a file into the cache, where it is only after its checksums and `check`; raises DownloadError."""
    target = inside(cache_dir(), file)

    def check_all(path: Path) -> None:
        check_sums(path)
        check(path)

    download(address(file, url), target, check_all, progress=progress, waits=waits)
    try:
        write_record(target)
    except OSError as error:
        raise DownloadError(f"{target} is there, but cannot be recorded beside it ({error.strerror})") from error


def check_thoroughly(file: Path) -> None:
    """Read a file of the cache completely and compare it with what it was when it came; raises ValueError or OSError.

    One that was put there by hand is compared with its own checksums and then counts as verified.
    """
    if not check_record(file, thorough=True):
        check_sums(file)
        write_record(file)


@contextmanager
def with_remedy(remove: str, name: str) -> Iterator[None]:
    """Add to what is wrong with a file of the model `name` how to replace it: first `remove` it."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{error}; to replace it: {remove}, then resdiff models fetch {name}") from error
