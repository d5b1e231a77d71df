"""Validation during training: the real pipeline on held-out photos, with figures and a grid to look at."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from resdiff.data.degradation.base import Degradation
from resdiff.data.scan import scan
from resdiff.images import read_photos, to_uint8
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import WINDOW, ssim
from resdiff.pipelines.base import SRPipeline
from resdiff.resize import bicubic

logger = logging.getLogger(__name__)

SHOWN = 4  # photos in the grid
SEED = 0  # of the degradation and of the sampler: figures of one run differ by the weights alone


@dataclass(frozen=True)
class ValidationPair:
    """One held-out photo: hr (1, 3, H, W) and lr (1, 3, h, w), in [-1, 1]."""

    hr: Tensor
    lr: Tensor


def validation_pairs(
    folder: Path,
    lr_folder: Path | None,
    degradation: Degradation,
    *,
    scale: int,
    resolution: int,  # at most; the centre of larger photos is used
    limit: int | None = None,
) -> list[ValidationPair]:
    """Read held-out photos once; without `lr_folder` their LR comes from the degradation of the training.

    Photos that are too small to be measured are named and left out. Raises ValueError for a `resolution` that is, and as
    `resdiff.data.scan.scan` does.
    """
    smallest = -(-WINDOW // scale) * scale + 2 * scale  # HR side that SSIM needs, in whole LR pixels
    if lr_folder is None and resolution < smallest:
        raise ValueError(f"--validation_resolution {resolution} must be at least {smallest}")
    found = scan(folder, lr_data_dir=lr_folder, crop=(smallest, smallest), scale=scale)
    for skipped in found.skipped:
        logger.warning("not validated on: %s %s", skipped.path, skipped.reason)
    pairs = []
    for i, file in enumerate(found.used[:limit]):
        hr = read_photos(file.hr)[0].pixels[None]
        if file.lr is not None:
            lr = read_photos(file.lr)[0].pixels[None]
        else:
            height, width = (min(resolution, side) // scale * scale for side in hr.shape[-2:])
            top, left = (hr.shape[-2] - height) // 2, (hr.shape[-1] - width) // 2
            hr = hr[..., top : top + height, left : left + width]
            lr = degradation((hr + 1) / 2, torch.Generator().manual_seed(SEED + i)) * 2 - 1
        pairs.append(ValidationPair(hr, lr))
    return pairs


def validate(
    pipe: SRPipeline,
    pairs: Sequence[ValidationPair],
    scale: int,
    steps: Sequence[int],
    accelerator: Accelerator,
    step: int,
) -> dict[str, float]:
    """Return mean PSNR and SSIM on Y (8 bits, `scale` pixels shaved) for each number of sampling steps.

    A grid of the first photos goes to the trackers.
    """
    figures = {}
    for number in steps:
        srs = []
        for pair in pairs:
            generator = torch.Generator().manual_seed(SEED)
            lr = ((pair.lr + 1) / 2).clamp(0, 1)
            srs.append(pipe(lr, num_inference_steps=number, generator=generator, output_type="pt").images.cpu() * 2 - 1)
        for name, metric in (("psnr_y", psnr), ("ssim_y", ssim)):
            values = [metric(to_uint8(sr), to_uint8(p.hr), crop_border=scale) for sr, p in zip(srs, pairs, strict=True)]
            figures[f"{name}_{number}_step"] = float(torch.cat(values).mean())
        log_grid(accelerator, step, f"validation_{number}_step", pairs[:SHOWN], srs[:SHOWN])
    return figures


def log_grid(
    accelerator: Accelerator, step: int, name: str, pairs: Sequence[ValidationPair], srs: Sequence[Tensor]
) -> None:
    """Send rows of bicubic | restored | original, cut to one size, to every tracker that takes pictures."""
    height, width = (min(sr.shape[axis] for sr in srs) for axis in (-2, -1))
    rows = []
    for pair, sr in zip(pairs, srs, strict=True):
        enlarged = bicubic(pair.lr, (sr.shape[-2], sr.shape[-1]), "pil")
        rows.append(torch.cat([x[..., :height, :width] for x in (enlarged, sr, pair.hr)], dim=-1))
    picture = to_uint8(torch.cat(rows, dim=-2)).permute(0, 2, 3, 1).numpy()  # (1, rows * H, 3 * W, 3)
    for tracker in accelerator.trackers:
        if hasattr(tracker, "log_images"):
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}  # else it expects NCHW
            tracker.log_images({name: picture}, step=step, **layout)
