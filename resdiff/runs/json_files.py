"""JSON documents that are there whole or not at all. File names that are not UTF-8 come back as they were."""

import json
from pathlib import Path
from typing import Any

from resdiff.files.formats import printable, written_whole


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path`, whose folder exists. Raises OSError in one line."""
    with written_whole(path) as temporary:
        # plain ASCII: a file name that is not UTF-8 holds code points that no UTF-8 file may
        temporary.write_text(json.dumps(document, indent=1, default=str) + "\n", encoding="ascii")


def read_json(path: Path, key: str) -> dict[str, Any] | None:
    """Return the document in `path`, or None when there is no file.

    Raises ValueError when it is no document with the entry `key`: another program's file, or damaged.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OSError(f"{printable(path)} cannot be read: {error.strerror or error}; check its permissions") from error
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or key not in document:
        raise ValueError(f"{printable(path)} exists and was not written by resdiff; choose another name or remove it")
    return document
