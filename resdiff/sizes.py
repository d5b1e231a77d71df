"""Sizes of results. Imports nothing heavy: the command line plans with it before anything is loaded."""

import math

LARGEST_SCALE = 1000  # of output over input side; what is above is a slip


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the output size (height, width): floor(side * scale + 0.5), at least 1."""
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))
