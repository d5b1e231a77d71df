"""Real photos without HR images: NIQE (BT.601) is reported, nothing is promised."""

from resdiff.eval.promises.detail import LEAST_BLOCKS, niqe_blocks
from resdiff.eval.promises.part import Sets, mean, values
from resdiff.eval.promises.pictures import Enlarger, Pair, enlarged_bicubic
from resdiff.eval.promises.promise import Promise
from resdiff.metrics.niqe import niqe

WAYS = {"bicubic": "bicubic", "one": "one step", "four": "four steps"}


def measure(pair: Pair, enlarge: Enlarger) -> dict[str, float]:
    """Return the figures of one photo, none where it is too small."""
    bicubic = enlarged_bicubic(pair.lr)
    if niqe_blocks(bicubic) < LEAST_BLOCKS:
        return {}
    made = {"bicubic": bicubic, "one": enlarge(pair.lr, steps=1), "four": enlarge(pair.lr, steps=4)}
    return {name: float(niqe(sr[None])) for name, sr in made.items()}


def promises(sets: Sets) -> list[Promise]:
    """Report every set."""
    return [
        Promise(
            name=f"NIQE of {words}",
            where=where,
            measured=mean(images, name),
            remark=f"({len(values(images, name))} images)",
        )
        for where, images in sets.items()
        for name, words in WAYS.items()
    ]
