"""From the names of figures to a function of the images: what a protocol says is told to each metric here.

Figures that come out of one computation, or need the same weights, are built together: `GROUPS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from resdiff.metrics.clip_iqa import clip_iqa, clip_iqa_pair, load_clip_iqa, load_clip_iqa_plus
from resdiff.metrics.clip_weights import BACKBONES, LEARNED, find_clip
from resdiff.metrics.consistency import color_shift, lr_consistency
from resdiff.metrics.dists import load_dists
from resdiff.metrics.figures import Figure
from resdiff.metrics.lpips import TRUNKS, Net, load_lpips
from resdiff.metrics.niqe import niqe
from resdiff.metrics.optional_pyiqa import PYIQA, load_pyiqa
from resdiff.metrics.protocols import Protocol
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.metrics.texture import flat_noise, sharpness
from resdiff.metrics.trunks import VGG
from resdiff.metrics.weights import find_weights


@dataclass(frozen=True, eq=False)
class Images:
    """One comparison: uint8 (1, 1 or 3, H, W) on the metrics' device, all of one number of channels."""

    sr: Tensor
    hr: Tensor | None = None  # of the size of sr
    lr: Tensor | None = None

    def has(self, wanted: Figure) -> bool:
        """Whether `wanted` is defined for these images."""
        there = not (wanted.needs_hr and self.hr is None) and not (wanted.needs_lr and self.lr is None)
        return there and wanted.fits(*self.sr.shape[-2:])


@dataclass(frozen=True)
class Setting:
    """What figures are computed under."""

    protocol: Protocol
    border: int  # px left out on every side by PSNR and SSIM
    device: torch.device
    weights_dir: Path | None  # None: caches, then publishers


@dataclass(frozen=True)
class Measure:
    """A function that gives one or several figures."""

    run: Callable[[Images], dict[str, Tensor]]  # figure -> (1,)
    variants: dict[str, str]  # figure -> how it is computed, in words
    files: Sequence[Path] = ()  # with its weights
    border: int = 0  # px of an image that it leaves out on every side


Names = Sequence[str]
Build = Callable[[Names, Setting], Measure]


def build_measures(names: Names, setting: Setting) -> list[tuple[Names, Callable[[], Measure]]]:
    """Return the figures of images in groups, each with what builds it: that raises MissingWeights, CheckpointError."""
    found: list[tuple[Names, Callable[[], Measure]]] = []
    for group, build in GROUPS.items():
        if wanted := [name for name in names if name in group]:
            found.append((wanted, partial(build, wanted, setting)))
    found += [([name], partial(_pyiqa, [name], setting)) for name in names if name in PYIQA]
    return found


# --- one function for each group -----------------------------------------------------------------------------------------


def _psnr(names: Names, setting: Setting) -> Measure:
    p = setting.protocol
    eps = f", {p.psnr_eps:g} added to the MSE" if p.psnr_eps else ""

    def run(images: Images) -> dict[str, Tensor]:
        pair = images.sr, _given(images.hr), setting.border
        return {n: psnr(*pair, n == "psnr_y", round_y=p.psnr_round_y, eps=p.psnr_eps) for n in names}

    variants = {n: f"{_channels(n, p.psnr_round_y)}, crop {setting.border}{eps}" for n in names}
    return Measure(run, variants, border=setting.border)


def _ssim(names: Names, setting: Setting) -> Measure:
    p = setting.protocol
    clamp = ", negative structure as 0" if p.ssim_clamp else ""

    def run(images: Images) -> dict[str, Tensor]:
        pair = images.sr, _given(images.hr), setting.border
        return {n: ssim(*pair, n == "ssim_y", round_y=p.ssim_round_y, clamp=p.ssim_clamp) for n in names}

    variants = {n: f"{_channels(n, p.ssim_round_y)}, crop {setting.border}{clamp}" for n in names}
    return Measure(run, variants, border=setting.border)


def _lpips(names: Names, setting: Setting, net: Net) -> Measure:
    file = find_weights(TRUNKS[net].weights, setting.weights_dir)
    metric = load_lpips(net, file).to(setting.device)
    return _pairwise(names, f"{net} v0.1, whole image", lambda sr, hr: metric(unit(sr), unit(hr)), [file])


def _dists(names: Names, setting: Setting) -> Measure:
    file = find_weights(VGG.weights, setting.weights_dir)
    metric = load_dists(file).to(setting.device)
    return _pairwise(names, "whole image, not resized", lambda sr, hr: metric(unit(sr), unit(hr)), [file])


def _clip_iqa(names: Names, setting: Setting) -> Measure:
    file = find_clip(BACKBONES["RN50"], setting.weights_dir)
    metric = load_clip_iqa(weights=file, device=setting.device)

    def run(images: Images) -> dict[str, Tensor]:
        probabilities = metric(unit(images.sr))
        return {"clip_iqa": clip_iqa(probabilities), "clip_iqa_pair": clip_iqa_pair(probabilities)}

    pairs = {"clip_iqa": "5 pairs", "clip_iqa_pair": "1 pair"}
    return Measure(run, {n: f"RN50, {pairs[n]}, not resized" for n in names}, [file])


def _clip_iqa_plus(names: Names, setting: Setting) -> Measure:
    clip = find_clip(BACKBONES["RN50"], setting.weights_dir)
    words = find_weights(LEARNED["RN50"].weights, setting.weights_dir)
    metric = load_clip_iqa_plus(weights=clip, context=words, device=setting.device)
    return _of_result(names, "RN50, learned words, not resized", lambda sr: metric(unit(sr))[:, 0], [clip, words])


def _niqe(names: Names, setting: Setting) -> Measure:
    luma = setting.protocol.niqe_luma
    words = {"bt601": "BT.601 Y", "yiq": "full-range YIQ luma"}[luma]
    return _of_result(names, f"{words} rounded, crop 0", lambda sr: niqe(sr, luma=luma))


def _against_lr(names: Names, setting: Setting) -> Measure:
    functions = {"color_shift": color_shift, "lr_consistency": lr_consistency}
    return Measure(
        lambda images: {n: functions[n](images.sr, _given(images.lr)) for n in names},
        dict.fromkeys(names, "result reduced by MATLAB's bicubic against LR"),
    )


def _sharpness(names: Names, setting: Setting) -> Measure:
    return _of_result(names, "std of the Laplacian of BT.601 Y", sharpness)


def _flat_noise(names: Names, setting: Setting) -> Measure:
    return _pairwise(names, "where HR's 9x9 std of Y is below 3", flat_noise)


def _pyiqa(names: Names, setting: Setting) -> Measure:
    score, figure = load_pyiqa(names[0], setting.device), PYIQA[names[0]]
    variant = ", ".join(filter(None, (f"pyiqa {version('pyiqa')}", figure.weights, figure.remark)))
    if figure.needs_hr:
        return _pairwise(names, variant, lambda sr, hr: score(unit(sr), unit(hr)))
    return _of_result(names, variant, lambda sr: score(unit(sr), None))


GROUPS: dict[tuple[str, ...], Build] = {
    ("psnr_y", "psnr_rgb"): _psnr,
    ("ssim_y", "ssim_rgb"): _ssim,
    ("lpips",): partial(_lpips, net="alex"),
    ("lpips_vgg",): partial(_lpips, net="vgg"),
    ("lpips_squeeze",): partial(_lpips, net="squeeze"),
    ("dists",): _dists,
    ("clip_iqa", "clip_iqa_pair"): _clip_iqa,
    ("clip_iqa_plus",): _clip_iqa_plus,
    ("niqe",): _niqe,
    ("color_shift", "lr_consistency"): _against_lr,
    ("sharpness",): _sharpness,
    ("flat_noise",): _flat_noise,
}


def _channels(name: str, rounded: bool) -> str:
    return "RGB" if name.endswith("rgb") else "BT.601 Y rounded" if rounded else "BT.601 Y"


def _pairwise(
    names: Names, variant: str, function: Callable[[Tensor, Tensor], Tensor], files: Sequence[Path] = ()
) -> Measure:
    return Measure(lambda images: {names[0]: function(images.sr, _given(images.hr))}, {names[0]: variant}, files)


def _of_result(names: Names, variant: str, function: Callable[[Tensor], Tensor], files: Sequence[Path] = ()) -> Measure:
    return Measure(lambda images: {names[0]: function(images.sr)}, {names[0]: variant}, files)


def _given(x: Tensor | None) -> Tensor:
    if x is None:
        raise ValueError("this figure compares with an image that is not there; choose another")
    return x


def unit(x: Tensor) -> Tensor:
    """8-bit values to RGB in [0, 1], float32; grey in all channels."""
    return (x.float() / 255).expand(-1, 3, -1, -1)
