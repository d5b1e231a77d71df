"""The dial between perception and fidelity: PSNR rises and sharpness falls along it, on means over a set.

Its ends are the full chain (0) and one step (1); that they are the same pictures is measured, too.
"""

from resdiff.eval.promises.part import Sets, mean, values
from resdiff.eval.promises.pictures import SCALE, Enlarger, Pair
from resdiff.eval.promises.planes import rises
from resdiff.eval.promises.promise import Promise, above_zero, at_most
from resdiff.metrics.psnr import psnr
from resdiff.metrics.texture import sharpness

FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)


def measure(pair: Pair, enlarge: Enlarger) -> dict[str, float]:
    """Return PSNR-Y and sharpness of one image at every fidelity, and how far the ends are from what they stand for."""
    made = {fidelity: enlarge(pair.lr, fidelity=fidelity) for fidelity in FIDELITIES}
    figures: dict[str, float] = {}
    for fidelity, sr in made.items():
        figures[f"psnr {fidelity:g}"] = float(psnr(sr[None], pair.hr[None], SCALE))
        figures[f"sharpness {fidelity:g}"] = float(sharpness(sr[None]))
    ends = {"0": (made[0.0], enlarge(pair.lr)), "1": (made[1.0], enlarge(pair.lr, steps=1))}
    return figures | {f"difference {end}": float((a.int() - b.int()).abs().max()) for end, (a, b) in ends.items()}


def promises(sets: Sets) -> list[Promise]:
    """Judge every set."""
    found: list[Promise] = []
    for where, images in sets.items():
        quality = [mean(images, f"psnr {fidelity:g}") for fidelity in FIDELITIES]
        sharp = [mean(images, f"sharpness {fidelity:g}") for fidelity in FIDELITIES]
        along = f"fidelity {', '.join(f'{fidelity:g}' for fidelity in FIDELITIES)}"
        found += [
            above_zero(
                f"PSNR-Y rises with {along}: smallest step, dB", where, rises(quality),
                remark=_listed(quality),
            ),
            above_zero(
                f"sharpness falls with {along}: smallest step", where, rises([-value for value in sharp]),
                remark=_listed(sharp),
            ),
            at_most("fidelity 0 against the full chain, largest difference", where, _largest(values(images, "difference 0")), 0, digits=0),
            at_most("fidelity 1 against one step, largest difference", where, _largest(values(images, "difference 1")), 0, digits=0),
        ]  # fmt: skip
    return found


def _listed(figures: list[float]) -> str:
    return f"({', '.join(f'{figure:.2f}' for figure in figures)})"


def _largest(differences: list[float]) -> float:
    return max(differences, default=float("nan"))
