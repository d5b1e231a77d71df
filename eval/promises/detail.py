"""Fidelity and detail: PSNR of one and four steps, and whether what four steps add is HR's detail.

Sharpening or grain added afterwards passes some of these and fails others, grids fail one. NIQE is BT.601's, of images
with at least six blocks. Its opponents are nine unsharp masks of bicubic; the best is the one of the lowest mean over the
set.
"""

import functools
import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from resdiff.eval.promises.part import Figures, Sets, geometric_mean, mean, values
from resdiff.eval.promises.pictures import SCALE, Enlarger, Pair, enlarged_bicubic, to_8_bits
from resdiff.eval.promises.planes import MOST_GRID, correlation, grid_excess, has_flat_noise, luma_plane, unsharp_mask
from resdiff.eval.promises.promise import Promise, at_least, at_most
from resdiff.metrics.consistency import color_shift
from resdiff.metrics.measures import Images
from resdiff.metrics.niqe import BLOCK, niqe
from resdiff.metrics.protocols import CLASSIC_Y
from resdiff.metrics.psnr import psnr
from resdiff.metrics.suite import Suite
from resdiff.metrics.texture import flat_noise, sharpness

PSNR = {  # of one step, dB, by where it was trained
    "cpu": {"set5": 31.0, "set14": 27.9, "bsd100": 27.0},
    "gpu": {"set5": 31.5, "set14": 28.2, "bsd100": 27.3},
}
PSNR_LOSS = 0.6  # dB, of four steps
PSNR_ONLY = {"set5"}  # five small images are not judged on detail
LEAST_BLOCKS = 6  # below, NIQE is unstable
UNSHARP = tuple(product((1.0, 1.5, 2.0), (1.5, 2.0, 3.0)))  # sigma in pixels, amount
PERCEPTUAL = ("lpips", "dists")


def measure(pair: Pair, enlarge: Enlarger) -> dict[str, float]:
    """Return the figures of one image: of bicubic, one step, four steps, HR and the unsharp masks."""
    lr, hr = pair.lr, pair.hr
    up = enlarged_bicubic(lr)
    made = {"bicubic": up, "one": enlarge(lr, steps=1), "four": enlarge(lr, steps=4)}
    figures = {f"psnr {name}": float(psnr(sr[None], hr[None], SCALE)) for name, sr in made.items()}
    figures |= {f"color shift {name}": float(color_shift(sr[None], lr[None])) for name, sr in made.items()}
    everything = made | {"hr": hr}
    for name, image in everything.items():
        figures[f"sharpness {name}"] = float(sharpness(image[None]))
    if has_flat_noise(hr):
        figures |= {
            f"flat noise {name}": float(flat_noise(image[None], hr[None])) for name, image in everything.items()
        }
    planes = {name: luma_plane(image) for name, image in everything.items()}
    rest = {name: plane - planes["bicubic"] for name, plane in planes.items()}
    figures |= {f"correlation {name}": correlation(rest[name], rest["hr"]) for name in ("one", "four")}
    figures["grid four"] = grid_excess(planes["four"], planes["hr"], SCALE)
    figures |= _niqe(everything | {_mask_name(*m): to_8_bits(unsharp_mask(up.double(), *m)) for m in UNSHARP})
    figures |= _perceptual(made, hr)
    return figures


def promises(sets: Sets, trained_on: str) -> list[Promise]:
    """Judge the sets; `trained_on`, "cpu" or "gpu", says which PSNR is promised."""
    found: list[Promise] = []
    for where, images in sets.items():
        found += _fidelity(where, images, PSNR[trained_on].get(where))
        if where not in PSNR_ONLY:
            found += _detail(where, images)
    missing = {name: column.missing for name, column in _suite().columns.items() if column.missing}
    for name, reason in missing.items():
        label = _suite().columns[name].figure.label
        found.append(Promise(name=label, where="", measured=math.nan, remark=f"({reason.split(':')[0]})"))
    return found


def _fidelity(where: str, images: Sequence[Figures], bound: float | None) -> list[Promise]:
    one, four = mean(images, "psnr one"), mean(images, "psnr four")
    name = "PSNR-Y of one step, dB"
    return [
        Promise(name="PSNR-Y of bicubic, dB", where=where, measured=mean(images, "psnr bicubic")),
        Promise(name=name, where=where, measured=one) if bound is None else at_least(name, where, one, bound),
        Promise(name="PSNR-Y of four steps, dB", where=where, measured=four),
        at_most("PSNR-Y lost by four steps, dB", where, one - four, PSNR_LOSS),
    ]


def _detail(where: str, images: Sequence[Figures]) -> list[Promise]:
    """Return the promises of four steps."""
    niqes = {name: mean(images, f"niqe {name}") for name in ("bicubic", "one", "four", "hr")}
    masks = {mask: mean(images, f"niqe {_mask_name(*mask)}") for mask in UNSHARP}
    best = min(masks, key=lambda mask: masks[mask])
    per_image = mean([{"least": min(least)} for least in map(_mask_scores, images) if least], "least")
    correlations = mean(images, "correlation four"), mean(images, "correlation one")
    found = [
        at_least("sharpness over bicubic's", where, _ratio(images, "sharpness four", "sharpness bicubic"), 2.5),
        at_most("sharpness over HR's", where, _ratio(images, "sharpness four", "sharpness hr"), 1.05),
        Promise(
            name="one step: sharpness over HR's", where=where, measured=_ratio(images, "sharpness one", "sharpness hr")
        ),
        at_most(
            "flat noise over HR's", where, _ratio(images, "flat noise four", "flat noise hr"), 1.2,
            remark=f"({len(values(images, 'flat noise hr'))} images)",
        ),
        Promise(
            name="one step: flat noise over HR's", where=where,
            measured=_ratio(images, "flat noise one", "flat noise hr"),
        ),
        at_most("power at 4 px and its harmonics over HR's", where, geometric_mean(images, "grid four"), MOST_GRID),
        at_least(
            "correlation with HR - bicubic, over one step's", where, correlations[0] / correlations[1], 0.92,
            remark=f"({correlations[0]:.3f} / {correlations[1]:.3f})",
        ),
        Promise(name="NIQE", where=where, measured=niqes["four"], remark=f"({len(values(images, 'niqe hr'))} images)"),
        Promise(name="one step: NIQE", where=where, measured=niqes["one"]),
        at_most("NIQE less bicubic's", where, niqes["four"] - niqes["bicubic"], -2.0, remark=f"({niqes['bicubic']:.3f})"),
        at_most(
            "NIQE less the best unsharp mask's", where, niqes["four"] - masks[best], -0.7,
            remark=f"({masks[best]:.3f}: sigma {best[0]:g}, amount {best[1]:g})",
        ),
        Promise(name="NIQE less the best unsharp mask's of each image", where=where, measured=niqes["four"] - per_image),
        at_least("NIQE less HR's", where, niqes["four"] - niqes["hr"], -0.3, remark=f"({niqes['hr']:.3f})"),
        at_most("mean colour shift, 1/255", where, mean(images, "color shift four"), 0.5),
    ]  # fmt: skip
    for name in PERCEPTUAL:
        if values(images, f"{name} four"):
            figures = {of: mean(images, f"{name} {of}") for of in ("bicubic", "one", "four")}
            remark = f"({figures['bicubic']:.3f} bicubic, {figures['one']:.3f} one step)"
            found.append(Promise(name=name.upper(), where=where, measured=figures["four"], remark=remark))
    return found


def niqe_blocks(image: Tensor) -> int:
    """Return how many blocks of NIQE fit into an image (C, H, W)."""
    return (image.shape[-2] // BLOCK) * (image.shape[-1] // BLOCK)


def _niqe(images: dict[str, Tensor]) -> dict[str, float]:
    return {f"niqe {n}": float(niqe(i[None])) for n, i in images.items() if niqe_blocks(i) >= LEAST_BLOCKS}


def _perceptual(made: dict[str, Tensor], hr: Tensor) -> dict[str, float]:
    """Return the perceptual distances whose weights are at hand."""
    found: dict[str, float] = {}
    for of, sr in made.items():
        scores = _suite().measure(Images(sr[None], hr[None]), _suite().of_image)
        found |= {f"{name} {of}": score for name, score in scores.items() if score is not None}
    return found


@functools.cache
def _suite() -> Suite:
    return Suite(PERCEPTUAL, CLASSIC_Y, scale=SCALE, device=torch.device("cpu"), skip_missing=True)


def _mask_name(sigma: float, amount: float) -> str:
    return f"unsharp {sigma:g} {amount:g}"


def _mask_scores(figures: Figures) -> list[float]:
    return [score for mask in UNSHARP if (score := figures.get(f"niqe {_mask_name(*mask)}")) is not None]


def _ratio(images: Sequence[Figures], name: str, of: str) -> float:
    """Return the mean over the images of the ratio of two figures."""
    return mean([{"ratio": f[name] / f[of]} for f in images if name in f and f.get(of)], "ratio")
