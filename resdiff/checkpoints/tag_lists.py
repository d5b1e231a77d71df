"""RAM's two text files: the name of every tag, and above which probability it is given.

`ram_tag_list.txt` and `ram_tag_list_threshold.txt` of xinyu1205/recognize-anything ram/data (Apache-2.0), one line per
class in the order of the network's outputs. The checkpoint does not hold them. cswry/SeeSR has the same files.
"""

import hashlib
import http.client
import logging
import os
import urllib.request
from pathlib import Path
from typing import NamedTuple

from resdiff import __version__
from resdiff.checkpoints.cache import cache_dir, offline
from resdiff.checkpoints.download import TIMEOUT, locked
from resdiff.checkpoints.io import CheckpointError
from resdiff.files.formats import written_whole

logger = logging.getLogger("resdiff")

TAGS, THRESHOLDS = "ram_tag_list.txt", "ram_tag_list_threshold.txt"
SHA256 = {  # of the published files
    TAGS: "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b",
    THRESHOLDS: "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447",
}
PUBLISHED = (
    "https://raw.githubusercontent.com/xinyu1205/recognize-anything/7cb804a8609e9f4b1a50b7f31436d2df40bb9481/ram/data"
)
LICENCE = "Apache-2.0"
LARGEST = 2**20  # bytes; the published files have 42 and 22 thousand


class TagLists(NamedTuple):
    """What `resdiff.models.ram.RAM` takes under these names."""

    tags: list[str]
    thresholds: list[float]


def read_tag_lists(tags_file: str | Path, thresholds_file: str | Path) -> TagLists:
    """Read the two files; other lists than the published ones are taken with a warning.

    Raises CheckpointError, one line: a file cannot be read, is no such list, or the two differ in length.
    """
    tags, numbers = (_lines(Path(path), name) for path, name in ((tags_file, TAGS), (thresholds_file, THRESHOLDS)))
    if len(tags) != len(numbers):
        raise CheckpointError(
            f"{tags_file} has {len(tags)} tags and {thresholds_file} {len(numbers)} thresholds; use files of one model"
        )
    thresholds = []
    for i, number in enumerate(numbers, 1):
        try:
            thresholds.append(float(number))
        except ValueError:
            raise CheckpointError(
                f"{thresholds_file}, line {i}: {number!r} is not a number; download it again"
            ) from None
        if not 0 <= thresholds[-1] <= 1:
            raise CheckpointError(f"{thresholds_file}, line {i}: {number} is not a probability; download it again")
    return TagLists(tags, thresholds)


def tag_lists(
    ram_file: str | Path | None = None,  # the checkpoint of RAM, beside which the files may lie
    folder: str | Path | None = None,  # that has the two files; nowhere else is looked then
) -> TagLists:
    """Find the two files in `folder`, or else beside `ram_file` or in `cache_dir()`, or download them into the latter.

    Raises CheckpointError, one line, that names all these ways: the files are not there and cannot be downloaded, or
    are no such lists.
    """
    beside = [] if ram_file is None else [Path(ram_file).parent]
    folders = [*beside, cache_dir()] if folder is None else [Path(folder)]
    for place in folders:
        if (place / TAGS).is_file() and (place / THRESHOLDS).is_file():
            return read_tag_lists(place / TAGS, place / THRESHOLDS)
    if folder is not None:
        raise CheckpointError(f"{folder} does not have both {TAGS} and {THRESHOLDS}; {_ways()}")
    if offline():
        raise CheckpointError(f"offline, and {TAGS} and {THRESHOLDS} are not here; {_ways()}")
    for name in (TAGS, THRESHOLDS):
        _download(name)
    return read_tag_lists(cache_dir() / TAGS, cache_dir() / THRESHOLDS)


def _ways() -> str:
    return (
        f"RAM's tags need both: download them from {PUBLISHED} and put them beside RAM's checkpoint or into {cache_dir()}, "
        "or pass the folder that has them"
    )


def _lines(path: Path, name: str) -> list[str]:
    """Return the stripped lines of a list; `name` is the published file's."""
    try:
        if path.stat().st_size > LARGEST:
            raise CheckpointError(f"{path} is not a list, it is too large; give {name}")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); give the path of {name}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not a text file; give {name}") from error
    lines = [line.strip() for line in text.splitlines()]
    if not lines or not all(lines):
        raise CheckpointError(f"{path} {'has empty lines' if lines else 'is empty'}; download {name} again")
    if hashlib.sha256(text.encode()).hexdigest() != SHA256[name]:
        logger.warning("%s is not the published %s; its %d lines are used as they are", path, name, len(lines))
    return lines


def _download(name: str) -> None:
    """Download one file into the cache: small enough for one piece, and known by its hash."""
    target, base = cache_dir() / name, os.environ.get("RESDIFF_MIRROR") or PUBLISHED
    url = f"{base.rstrip('/')}/{name}"
    with locked(target):
        if target.is_file():
            return
        logger.warning("downloading %s (%s), which comes under its publisher's licence: %s", name, url, LICENCE)
        try:
            request = urllib.request.Request(url, headers={"User-Agent": f"resdiff/{__version__}"})
            with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
                content = response.read(LARGEST)
            if hashlib.sha256(content).hexdigest() != SHA256[name]:
                raise CheckpointError(f"what {url} sent ({len(content)} bytes) is not the published file; {_ways()}")
            with written_whole(target) as temporary:
                temporary.write_bytes(content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{url} cannot be downloaded ({' '.join(str(error).split())}); {_ways()}") from error
