"""What a figure looks at: the reference or the input image by image, or the result alone."""

from resdiff.metrics.figures import FIGURES


def is_distortion(name: str) -> bool:
    """Say whether a figure is a distance to HR or LR, image by image; the others judge perception.

    Figures that are neither better high nor low only use HR to find where to look, and those of a set compare
    distributions.
    """
    figure = FIGURES.get(name)
    return figure is not None and (figure.needs_hr or figure.needs_lr) and figure.better != "none" and not figure.of_set


def needs_hr(name: str) -> bool:
    """Say whether a figure cannot be computed without HR."""
    figure = FIGURES.get(name)
    return figure is not None and figure.needs_hr
