"""What a fetched file was when it was verified: its size and SHA-256, in `<file>.sha256` beside it.

The publishers state no hashes, so the first complete and fitting download is the reference for later ones. The record
is in the format of `sha256sum`, which can check it too. Importing this file does not import torch.
"""

import os
import re
from contextlib import suppress
from pathlib import Path

from resdiff.files.digest import sha256

_RECORD = re.compile(r"# (\d+) bytes\n([0-9a-f]{64})  ")


def record_of(file: Path) -> Path:
    """Return where the record of a file lies."""
    return file.with_name(f"{file.name}.sha256")


def write_record(file: Path) -> None:
    """Record the size and hash of `file` as it is; raises OSError."""
    record = record_of(file)
    new = record.with_name(f"{record.name}.{os.getpid()}.part")
    new.write_text(f"# {file.stat().st_size} bytes\n{sha256(file)}  {file.name}\n")
    os.replace(new, record)


def check_record(file: Path, thorough: bool = False) -> bool:
    """Compare `file` with its record and return whether there is one.

    The size is compared always, the hash when the file is newer than its record, or if `thorough` (about a second per
    gigabyte). Raises ValueError, one line, when they differ or the record cannot be read.
    """
    record = record_of(file)
    if not record.is_file():
        return False
    with record.open("rb") as opened:
        entry = _RECORD.match(opened.read(200).decode("ascii", errors="replace"))
    if entry is None:
        raise ValueError(f"{record} is damaged")
    size, expected = int(entry[1]), entry[2]
    if (found := file.stat().st_size) != size:
        raise ValueError(f"{file} has {found} bytes and had {size} when it was verified")
    if thorough or file.stat().st_mtime_ns > record.stat().st_mtime_ns:
        if sha256(file) != expected:
            raise ValueError(f"{file} has changed since it was verified")
        with suppress(OSError):  # of a cache that cannot be written: it is hashed again the next time
            os.utime(record)
    return True
