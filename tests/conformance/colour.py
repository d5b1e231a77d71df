"""Colour correction cases: what the recorded reference functions returned, computed by ours."""

from typing import Protocol

import torch
from torch import Tensor

from resdiff.color import adain, wavelet


class Case(Protocol):
    """One recorded file: its call arguments, and its tensors without the `in/` and `out/` prefixes."""

    config: dict
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


def color_adain(case: Case) -> dict[str, Tensor]:
    """stablesr/color_adain: any range, sizes may differ."""
    return {"result": adain(case.inputs["content"], case.inputs["style"])}


def color_wavelet(case: Case) -> dict[str, Tensor]:
    """stablesr/color_wavelet."""
    return {"result": wavelet(case.inputs["content"], case.inputs["style"])}


def color_pil(case: Case) -> dict[str, Tensor]:
    """stablesr/color_pil: 8-bit (H, W, 3) in and out, worked on in [0, 1] and truncated, not rounded, at the end."""
    target, source = (case.inputs[name].movedim(-1, -3) / 255 for name in ("target_u8", "source_u8"))
    if target.ndim == 3:
        target, source = target[None], source[None]
    shape = case.inputs["target_u8"].shape
    return {
        f"{name}_u8": (method(target, source).clamp(0, 1) * 255).to(torch.uint8).movedim(-3, -1).reshape(shape)
        for name, method in (("adain", adain), ("wavelet", wavelet))
    }


def color_fix(case: Case) -> dict[str, Tensor]:
    """seesr/color_fix: both methods on [0, 1] images, before the clamp."""
    content, style = case.inputs["content"], case.inputs["style"]
    return {"adain": adain(content, style), "wavelet": wavelet(content, style)}
