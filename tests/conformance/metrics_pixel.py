"""Conformance handler of the pixel metrics: kind metrics/full_reference.

NIQE's block features (`mid/*`) are compared here: the score alone says little about them. The reference computes luma and
resize in float32, so that features of flat parts, which hang on rounding, are not ours: nine in ten must agree.
"""

from typing import Protocol

import torch
from torch import Tensor

from resdiff.metrics.niqe import BLOCK, block_features, luma_plane, niqe
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim

FEATURE_LIMIT = 2e-3  # of NIQE's features, two steps of the shape table
AGREEING = 0.9  # of the features
FULL_REFERENCE = {"psnr": psnr, "ssim": ssim}
VARIANTS = {  # of the recorded names: Y or RGB, rounded or not
    "rgb": {"y_channel": False},
    "y": {"round_y": False},
    "yround": {"round_y": True},
}


class Case(Protocol):
    """One recorded file: its tensors without the `in/`, `out/` and `mid/` prefixes."""

    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    mid: dict[str, Tensor]


def full_reference(case: Case) -> dict[str, Tensor]:
    """metrics/full_reference: <metric>_<variant>_crop<pixels> of 8-bit (H, W, 3) pairs, niqe and niqe_crop4 of `sr`.

    Raises ValueError where NIQE's block features are not the recorded ones.
    """
    sr, hr = (case.inputs[name].permute(2, 0, 1)[None] for name in ("sr", "hr"))
    if "niqe_block_features" in case.mid:
        _check_features(case.mid["niqe_block_features"], sr)
    return {name: _figure(name, sr, hr) for name in case.expected}


def _figure(name: str, sr: Tensor, hr: Tensor) -> Tensor:
    metric, *words = name.split("_")
    border = next((int(word.removeprefix("crop")) for word in words if word.startswith("crop")), 0)
    if metric == "niqe":
        return niqe(sr, crop_border=border)
    return FULL_REFERENCE[metric](sr, hr, border, **VARIANTS[words[0]])


def _check_features(theirs: Tensor, sr: Tensor) -> None:
    features = block_features(luma_plane(sr, "bt601")[0, 0])
    # recorded column by column
    ours = features.unflatten(0, (-1, sr.shape[-1] // BLOCK)).transpose(0, 1).flatten(0, 1)
    if ours.shape != theirs.shape:
        raise ValueError(f"mid/niqe_block_features: shape {tuple(ours.shape)} for {tuple(theirs.shape)}")
    close = torch.isclose(ours, theirs, rtol=FEATURE_LIMIT, atol=FEATURE_LIMIT, equal_nan=True).double().mean()
    if close < AGREEING:
        raise ValueError(f"mid/niqe_block_features: only {float(close):.0%} of them agree")
