"""What is said of a name that is in no table. Importing this file does not import torch."""

import difflib
from collections.abc import Iterable


def unknown_name(name: str, names: Iterable[str], what: str) -> ValueError:
    """Return an error of one line that lists the `names` of `what`, those closest to `name` first."""
    known = list(names)
    close = difflib.get_close_matches(name.lower(), known, n=3)
    listed = ", ".join(dict.fromkeys((*close, *known)))
    return ValueError(f"{name!r} is not a known {what}; choose one of {listed}")
