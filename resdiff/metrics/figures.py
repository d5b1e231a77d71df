"""What a benchmark can say of an image: the names of its columns, which direction is better, range and needs."""

import difflib
from dataclasses import dataclass
from typing import Literal

from resdiff.metrics.optional_pyiqa import PYIQA, PyiqaMetric

Better = Literal["higher", "lower", "none"]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One column."""

    name: str  # as --metrics takes it
    label: str
    better: Better
    low: float | None = None  # the range; None: unbounded
    high: float | None = None
    unit: str = ""
    digits: int = 4  # after the point, in tables
    needs_hr: bool = False
    needs_lr: bool = False
    of_set: bool = False  # one value per set, not per image
    smallest: tuple[int, int] = (1, 1)  # px: shorter and longer side that an image must have


def _full_reference(name: str, label: str, better: Better, *, smallest: int, **fields: float | str | None) -> Figure:
    return Figure(name=name, label=label, better=better, needs_hr=True, smallest=(smallest, smallest), **fields)  # type: ignore[arg-type]


OWN = (
    _full_reference("psnr_y", "PSNR-Y", "higher", smallest=1, low=0, unit="dB", digits=2),
    _full_reference("psnr_rgb", "PSNR-RGB", "higher", smallest=1, low=0, unit="dB", digits=2),
    _full_reference("ssim_y", "SSIM-Y", "higher", smallest=11, low=-1, high=1),
    _full_reference("ssim_rgb", "SSIM-RGB", "higher", smallest=11, low=-1, high=1),
    _full_reference("lpips", "LPIPS (alex)", "lower", smallest=64, low=0),
    _full_reference("lpips_vgg", "LPIPS (vgg)", "lower", smallest=64, low=0),
    _full_reference("lpips_squeeze", "LPIPS (squeeze)", "lower", smallest=64, low=0),
    _full_reference("dists", "DISTS", "lower", smallest=32, low=0, high=1),
    Figure(name="clip_iqa", label="CLIP-IQA", better="higher", low=0, high=1, smallest=(32, 32)),
    Figure(name="clip_iqa_pair", label="CLIP-IQA (1 pair)", better="higher", low=0, high=1, smallest=(32, 32)),
    Figure(name="clip_iqa_plus", label="CLIP-IQA+", better="higher", low=0, high=1, smallest=(32, 32)),
    Figure(name="niqe", label="NIQE", better="lower", low=0, digits=3, smallest=(96, 192)),
    Figure(name="fid", label="FID", better="lower", low=0, digits=2, needs_hr=True, of_set=True),
    Figure(name="kid", label="KID", better="lower", digits=5, needs_hr=True, of_set=True),
    Figure(name="color_shift", label="colour shift", better="lower", low=0, high=255, unit="1/255", digits=3, needs_lr=True),
    Figure(name="lr_consistency", label="LR consistency", better="higher", low=0, unit="dB", digits=2, needs_lr=True),
    Figure(name="sharpness", label="sharpness", better="none", low=0, digits=2, smallest=(3, 3)),
    Figure(name="flat_noise", label="flat-area noise", better="none", low=0, digits=3, needs_hr=True, smallest=(9, 9)),
)  # fmt: skip


def _through_pyiqa(metric: PyiqaMetric) -> Figure:
    return Figure(
        name=metric.name,
        label=metric.name,
        better=metric.better,
        low=metric.low,
        high=metric.high,
        needs_hr=metric.needs_hr,
        smallest=(metric.smallest, metric.smallest),
    )


FIGURES: dict[str, Figure] = {figure.name: figure for figure in (*OWN, *map(_through_pyiqa, PYIQA.values()))}


def figure(name: str) -> Figure:
    """Return the column called `name`. Raises ValueError that names the nearest, or all of ours."""
    if name not in FIGURES:
        near = difflib.get_close_matches(name, FIGURES, n=1)
        ours = ", ".join(one.name for one in OWN)
        raise ValueError(
            f"metric {name!r} is unknown; "
            + (f"did you mean {near[0]}?" if near else f"there are {ours}; with pyiqa, {', '.join(PYIQA)}")
        )
    return FIGURES[name]
