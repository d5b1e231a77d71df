"""What to say about a name that nothing has."""

import difflib
from collections.abc import Iterable


def remedy(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'X'?" of the nearest known name in any case of letters, or the choice of all."""
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[near[0]]!r}?" if near else f"choose one of {', '.join(lower.values())}"
