"""All figures by name: ours, and those through pyiqa."""

from resdiff.metrics.figures import OWN, Figure
from resdiff.metrics.optional_pyiqa import PYIQA
from resdiff.names import remedy

FIGURES: dict[str, Figure] = {figure.name: figure for figure in (*OWN, *PYIQA.values())}


def figure(name: str) -> Figure:
    """Return the figure called `name`. Raises ValueError that names the nearest, or all of them."""
    if name not in FIGURES:
        raise ValueError(f"metric {name!r} is unknown; {remedy(name, FIGURES)}")
    return FIGURES[name]
