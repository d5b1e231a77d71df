"""Looking a name up in a table of what is published. Importing this file does not import torch."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


def named(name: str, table: Mapping[str, Entry], what: str) -> Entry:
    """Return the entry called `name`; raises ValueError, one line that lists those of `what`, the closest first."""
    if name in table:
        return table[name]
    close = difflib.get_close_matches(name.lower(), table, n=3)
    listed = ", ".join(dict.fromkeys((*close, *table)))
    raise ValueError(f"{name!r} is not a known {what}; choose one of {listed}")
