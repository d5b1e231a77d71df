"""The figures of a benchmark under one protocol: names to functions, weights found once, `n/a` where there are none.

The metrics themselves are functions in the files beside this one; here each is told what the protocol says.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from resdiff.metrics import inception
from resdiff.metrics.clip_iqa import clip_iqa, clip_iqa_pair, load_clip_iqa, load_clip_iqa_plus
from resdiff.metrics.clip_weights import BACKBONES, LEARNED, find_clip
from resdiff.metrics.consistency import color_shift, lr_consistency
from resdiff.metrics.dists import load_dists
from resdiff.metrics.figures import Figure, figure
from resdiff.metrics.frechet import frechet_distance, kid
from resdiff.metrics.lpips import TRUNKS, Net, load_lpips
from resdiff.metrics.niqe import niqe
from resdiff.metrics.optional_pyiqa import load_pyiqa
from resdiff.metrics.protocols import Protocol
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.metrics.texture import flat_noise, sharpness
from resdiff.metrics.trunks import VGG
from resdiff.metrics.weights import MissingWeights, find_weights


@dataclass(frozen=True, eq=False)
class Images:
    """One comparison: uint8 (1, 1 or 3, H, W) on the metrics' device, all of one number of channels."""

    sr: Tensor
    hr: Tensor | None = None  # of the size of sr
    lr: Tensor | None = None

    def has(self, wanted: Figure) -> bool:
        """Whether `wanted` is defined for these images."""
        shorter, longer = sorted(self.sr.shape[-2:])
        large_enough = shorter >= wanted.smallest[0] and longer >= wanted.smallest[1]
        return large_enough and not (wanted.needs_hr and self.hr is None) and not (wanted.needs_lr and self.lr is None)


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure as it is computed here: without this, the number cannot be compared."""

    figure: Figure
    variant: str  # in words
    weights: dict[str, str]  # file name -> SHA-256
    missing: str | None = None  # why it cannot be computed


@dataclass(frozen=True)
class Metric:
    """A function that gives one or several figures."""

    run: Callable[[Images], dict[str, Tensor]]  # figure -> (1,); for figures of a set: {"features": (1, D)}
    variants: dict[str, str]  # figure -> how it is computed
    files: Sequence[Path] = ()  # with its weights


class Suite:
    """The figures called `names` under `protocol`.

    Args:
        names: of `resdiff.metrics.figures.FIGURES`.
        scale: output side over input side, of which some protocols make the border.
        weights_dir: a folder with the weights of all network metrics under their published names; None: the caches,
            then the publishers.
        skip_missing: a metric whose weights or package cannot be had gets a column without numbers.

    Raises:
        ValueError: an unknown or repeated name. MissingWeights (unless `skip_missing`), CheckpointError.
    """

    def __init__(
        self,
        names: Sequence[str],
        protocol: Protocol,
        *,
        scale: int,
        device: torch.device,
        weights_dir: Path | None = None,
        skip_missing: bool = False,
    ):
        if not names or len(set(names)) < len(names):
            raise ValueError(f"metrics are {', '.join(names) or 'none'}; name each once")
        figures = {name: figure(name) for name in names}
        self.device = device
        self._metrics: list[Metric] = []
        found: dict[str, Column] = {}
        for group in _groups(names):
            try:
                metric = _build(group, protocol, scale, device, weights_dir)
            except MissingWeights as error:
                if not skip_missing:
                    raise
                found |= {n: Column(figure=figures[n], variant="", weights={}, missing=str(error)) for n in group}
                continue
            self._metrics.append(metric)
            weights = {file.name: _sha256(file) for file in metric.files}
            found |= {n: Column(figure=figures[n], variant=v, weights=weights) for n, v in metric.variants.items()}
        self.columns = {name: found[name] for name in names}

    @property
    def of_image(self) -> list[str]:
        """Names of the figures that every image has, and that can be computed."""
        return [n for n, column in self.columns.items() if column.missing is None and not column.figure.of_set]

    @property
    def of_set(self) -> list[str]:
        """Names of the figures that only a set has, and that can be computed."""
        return [n for n, column in self.columns.items() if column.missing is None and column.figure.of_set]

    def measure(self, images: Images, names: Iterable[str]) -> dict[str, float | None]:
        """Return the figures `names` of one image; None where one is not defined for it, or not finite."""
        wanted = [name for name in names if images.has(self.columns[name].figure)]
        values: dict[str, float | None] = dict.fromkeys(names)
        for metric in self._metrics:
            if any(name in metric.variants for name in wanted):
                for name, value in metric.run(images).items():
                    if name in wanted and math.isfinite(value.item()):
                        values[name] = value.item()
        return values

    def features(self, image: Tensor) -> Tensor:
        """Return what the figures of a set are computed from, (D,) on the CPU, of one image."""
        metric = next(m for m in self._metrics if any(name in m.variants for name in self.of_set))
        return metric.run(Images(sr=image))["features"][0].cpu()

    def measure_set(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Return the figures of a set from the features (N, D) of its results and of its HR images."""
        functions = {"fid": frechet_distance, "kid": kid}
        return {name: functions[name](sr, hr).item() for name in self.of_set}


# --- how each figure is computed ---------------------------------------------------------------------------------------


def _groups(names: Sequence[str]) -> list[list[str]]:
    """Return the names, those together that come out of one forward pass."""
    together = (("clip_iqa", "clip_iqa_pair"), ("fid", "kid"))
    rest = [[name] for name in names if not any(name in group for group in together)]
    return rest + [group for group in ([n for n in names if n in one] for one in together) if group]


def _build(group: Sequence[str], p: Protocol, scale: int, device: torch.device, weights_dir: Path | None) -> Metric:
    """Return the metric that gives the figures `group`. Raises MissingWeights."""
    name = group[0]
    border = p.crop_border(scale)
    where = f"crop {border}"
    if name in ("psnr_y", "psnr_rgb"):
        on_y = name == "psnr_y"
        luma = _luma_words(p.psnr_round_y) if on_y else "RGB"
        eps = f", MSE + {p.psnr_eps:g}" if p.psnr_eps else ""
        return _pairwise(
            name,
            f"{luma}, {where}{eps}",
            lambda sr, hr: psnr(sr, hr, border, on_y, round_y=p.psnr_round_y, eps=p.psnr_eps),
        )
    if name in ("ssim_y", "ssim_rgb"):
        on_y = name == "ssim_y"
        luma = _luma_words(p.ssim_round_y) if on_y else "RGB"
        clamp = ", negative structure as 0" if p.ssim_clamp else ""
        return _pairwise(
            name,
            f"{luma}, {where}{clamp}",
            lambda sr, hr: ssim(sr, hr, border, on_y, round_y=p.ssim_round_y, clamp=p.ssim_clamp),
        )
    if name in LPIPS_NETS:
        net = LPIPS_NETS[name]
        lpips = load_lpips(net, weights_dir).to(device)
        file = find_weights(TRUNKS[net].weights, weights_dir)
        return _pairwise(name, f"{net} v0.1, whole image", lambda sr, hr: lpips(_unit(sr), _unit(hr)), [file])
    if name == "dists":
        dists = load_dists(weights_dir).to(device)
        file = find_weights(VGG.weights, weights_dir)
        return _pairwise(name, "whole image, not resized", lambda sr, hr: dists(_unit(sr), _unit(hr)), [file])
    if name in ("clip_iqa", "clip_iqa_pair"):
        clip = load_clip_iqa(weights=weights_dir, device=device)

        def both(images: Images) -> dict[str, Tensor]:
            probabilities = clip(_unit(images.sr))
            return {"clip_iqa": clip_iqa(probabilities), "clip_iqa_pair": clip_iqa_pair(probabilities)}

        variants = {"clip_iqa": "RN50, 5 pairs, not resized", "clip_iqa_pair": "RN50, 1 pair, not resized"}
        return Metric(both, {n: variants[n] for n in group}, [find_clip(BACKBONES["RN50"], weights_dir)])
    if name == "clip_iqa_plus":
        plus = load_clip_iqa_plus(weights=weights_dir, context=weights_dir, device=device)
        files = [find_clip(BACKBONES["RN50"], weights_dir), find_weights(LEARNED["RN50"].weights, weights_dir)]
        return _of_result(name, "RN50, learned words, not resized", lambda sr: plus(_unit(sr))[:, 0], files)
    if name == "niqe":
        words = {"bt601": "BT.601 Y", "yiq": "full-range YIQ luma"}[p.niqe_luma]
        return _of_result(name, f"{words} rounded, crop 0", lambda sr: niqe(sr, luma=p.niqe_luma))
    if name in ("fid", "kid"):
        network = inception.load_inception(weights_dir).to(device)
        variants = dict.fromkeys(group, "Inception 2015-12-05, Pillow bicubic to 299 px, whole images")
        file = find_weights(inception.WEIGHTS, weights_dir)
        return Metric(lambda images: {"features": network(_unit(images.sr))}, variants, [file])
    if name in ("color_shift", "lr_consistency"):
        function = color_shift if name == "color_shift" else lr_consistency
        return Metric(
            lambda images: {name: function(images.sr, _given(images.lr))},
            {name: "result reduced by MATLAB's bicubic against LR"},
        )
    if name == "sharpness":
        return _of_result(name, "std of the Laplacian of BT.601 Y", sharpness)
    if name == "flat_noise":
        return _pairwise(name, "where HR's 9x9 std of Y is below 3", flat_noise)
    score = load_pyiqa(name, device)
    if figure(name).needs_hr:
        return _pairwise(name, "pyiqa", lambda sr, hr: score(_unit(sr), _unit(hr)))
    return _of_result(name, "pyiqa", lambda sr: score(_unit(sr), None))


LPIPS_NETS: dict[str, Net] = {"lpips": "alex", "lpips_vgg": "vgg", "lpips_squeeze": "squeeze"}


def _luma_words(rounded: bool) -> str:
    return "BT.601 Y rounded" if rounded else "BT.601 Y"


def _pairwise(
    name: str, variant: str, function: Callable[[Tensor, Tensor], Tensor], files: Sequence[Path] = ()
) -> Metric:
    return Metric(lambda images: {name: function(images.sr, _given(images.hr))}, {name: variant}, files)


def _of_result(name: str, variant: str, function: Callable[[Tensor], Tensor], files: Sequence[Path] = ()) -> Metric:
    return Metric(lambda images: {name: function(images.sr)}, {name: variant}, files)


def _given(x: Tensor | None) -> Tensor:
    if x is None:
        raise ValueError("this figure compares with an image that is not there; choose another")
    return x


def _unit(x: Tensor) -> Tensor:
    """8-bit values to RGB in [0, 1], float32; grey in all channels."""
    return (x.float() / 255).expand(-1, 3, -1, -1)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
