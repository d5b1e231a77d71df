"""Tags of a photo, kept beside it, so that a tagger need not look twice.

`<photo>.tags.json` holds the tags and a key: who said them of which picture. Where either is another one, the file says
nothing. Importing this file does not import torch.
"""

import hashlib
import json
import logging
from pathlib import Path

from resdiff.files.digest import sha256
from resdiff.files.formats import printable, written_whole

logger = logging.getLogger("resdiff")

LARGEST = 2**20  # bytes that a file of tags may have

_warned: set[Path] = set()  # folders


def tags_file(photo_path: str | Path) -> Path:
    """Return where the tags of a photo are kept: `<photo name>.tags.json` beside it."""
    photo_path = Path(photo_path)
    return photo_path.with_name(f"{photo_path.name}.tags.json")


def tags_key(photo_path: str | Path, tagger: str) -> str:
    """Return the key of what `tagger`, any name that changes with its weights, says of the picture: 64 hex digits.

    Made of the picture's content, so that a renamed, copied or touched file keeps its tags. Raises OSError.
    """
    return hashlib.sha256(f"{tagger}\n{sha256(Path(photo_path))}".encode()).hexdigest()


def read_tags(photo_path: str | Path, key: str) -> str | None:
    """Return the tags that were written with this key, None if there are none or the file is not to be read."""
    kept = _read(tags_file(photo_path))
    return kept["tags"] if kept is not None and kept["key"] == key else None


def write_tags(photo_path: str | Path, key: str, tags: str) -> None:
    """Keep the tags of a photo beside it, in place of older ones; the file is there whole or not at all.

    Where that is not possible, or a file of that name is another program's, one warning for the folder is all.
    """
    path = tags_file(photo_path)
    if path.exists() and _read(path) is None:
        _warn_once(path.parent, f"{printable(path)} was not written by resdiff; rename it")
        return
    try:
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps({"tags": tags, "key": key}, indent=1) + "\n", encoding="ascii")
    except OSError as error:
        _warn_once(path.parent, str(error))


def _read(path: Path) -> dict[str, str] | None:
    """Return a file of tags, None for anything else."""
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(LARGEST))
    except (OSError, ValueError, RecursionError):
        return None
    is_ours = isinstance(document, dict) and all(isinstance(document.get(name), str) for name in ("tags", "key"))
    return document if is_ours else None


def _warn_once(folder: Path, message: str) -> None:
    if folder not in _warned:
        _warned.add(folder)
        logger.warning("tags of the photos in %s are not kept: %s", printable(folder), message)
