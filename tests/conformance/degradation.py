"""Degradation cases, but for the whole pipelines: kernels, filters, resizing, noise and JPEG.

Tolerances: 1e-5 for kinds kernels (float64: 1e-12), filter2d_usm, resize and noise; 1e-4 for diffjpeg; for face_pipeline
1e-5, but for `jpeg_q*`, which another JPEG encoder made: a few grey levels.
"""

import io
import re
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resdiff.data.degradation.filters import filter2d, usm_sharpen
from resdiff.data.degradation.jpeg import jpeg_tensor
from resdiff.data.degradation.kernels import gaussian_kernel, sinc_kernel
from resdiff.data.degradation.noise import add_gaussian, add_poisson
from resdiff.data.degradation.ragged import Ragged
from resdiff.data.degradation.resample import resize as resample
from resdiff.data.degradation.resample import scaled


class Case(Protocol):
    """One recorded file: its call arguments, and its tensors without the `in/` and `out/` prefixes."""

    config: dict
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


@dataclass
class Recorded:
    """Recorded draws in place of random ones: the grey draws of the batch where there are any, and the colour draws."""

    grey: Tensor | None  # (h, w), the same for all samples, or (B, 1, h, w)
    colour: Tensor  # (B, 3, h, w)

    def normal(self, i: int, shape: tuple[int, int, int]) -> Tensor:
        """Return the recorded normal field of sample `i`."""
        return self._of(i, shape[0])

    def poisson(self, i: int, rate: Tensor) -> Tensor:
        """Return the recorded counts of sample `i`."""
        return self._of(i, len(rate))

    def _of(self, i: int, channels: int) -> Tensor:
        if channels > 1:
            return self.colour[i]
        if self.grey is None:
            raise ValueError(f"sample {i} is gray, but no gray draw was recorded")
        return self.grey[None] if self.grey.ndim == 2 else self.grey[i]


def kernels(case: Case) -> dict[str, Tensor]:
    """degradation/kernels: one kernel for each entry of the list that `config` is."""
    return {f"kernel_{i}": kernel_of(entry) for i, entry in enumerate(case.config)}


def kernel_of(entry: dict[str, Any]) -> Tensor:
    """Return the kernel of one entry of the config."""
    if entry["type"] == "sinc":
        return sinc_kernel(entry["size"], entry["cutoff"], entry.get("pad_to", 0))
    names = ("size", "sigma_x", "sigma_y", "theta", "beta")
    size, sigma_x, sigma_y, theta, beta = (entry.get(name, 0) for name in names)
    return gaussian_kernel(size, entry["type"], sigma_x, sigma_y, theta, beta)


def filter2d_usm(case: Case) -> dict[str, Tensor]:
    """degradation/filter2d_usm: one kernel per sample, the first for all, and sharpening."""
    x, given, usm = Ragged.of(case.inputs["x"]), case.inputs["kernels"], case.config["usm"]
    out = {"per_sample": filter2d(x, given).tensor(), "shared": filter2d(x, given[0]).tensor()}
    for name in case.expected.keys() - out.keys():
        weight, threshold = usm["weight"], usm["threshold"]
        if match := re.fullmatch(r"usm_w([\d.]+)_t([\d.]+)", name):
            weight, threshold = (float(number) for number in match.groups())
        elif name != "usm":
            continue
        out[name] = usm_sharpen(case.inputs["x_usm"], weight, usm["radius"], threshold)
    return out


def resize(case: Case) -> dict[str, Tensor]:
    """degradation/resize: `scale_<s>_<mode>` and `size_<h>x<w>_<mode>` of the same images."""
    x, out = Ragged.of(case.inputs["x"]), {}
    for name in case.expected:
        how, argument, mode = name.split("_")
        scale = float(argument) if how == "scale" else None
        size = scaled(x.sizes[0], scale) if scale else tuple(int(side) for side in argument.split("x"))
        count = len(x.sizes)
        out[name] = resample(x, [size] * count, [mode] * count, [scale] * count).tensor()
    return out


def noise(case: Case) -> dict[str, Tensor]:
    """degradation/noise: the recorded draws through both kinds; grey draws come first where any sample is grey."""
    given = case.inputs
    x, gray = Ragged.of(given["x"]), given["gray"] > 0
    x_float, count = Ragged.of(given["x_float"]), len(given["x_float"])
    float_scale, float_gray = torch.full((count,), 0.7), torch.zeros(count, dtype=torch.bool)  # see the vectors' README
    return {
        "gaussian": add_gaussian(x, given["sigma"], gray, recorded(given, "gauss")).tensor(),
        "poisson": add_poisson(x, given["scale"], gray, recorded(given, "poisson")).tensor(),
        "poisson_float_input": add_poisson(
            x_float, float_scale, float_gray, Recorded(None, given["poisson_float_draw"])
        ).tensor(),
    }


def recorded(given: dict[str, Tensor], kind: str) -> Recorded:
    """Return the draws `<kind>_draw_0` (grey, if there are two) and `<kind>_draw_1`."""
    draws = [given[name] for i in range(2) if (name := f"{kind}_draw_{i}") in given]
    return Recorded(draws[0] if len(draws) == 2 else None, draws[-1])


def diffjpeg(case: Case) -> dict[str, Tensor]:
    """degradation/diffjpeg: both roundings, with a quality per sample and with one, and the gradient."""
    x, quality, out = case.inputs["x"], case.inputs["quality"], {}
    for name in case.expected:
        if match := re.fullmatch(r"(round|diff)_scalar_q([\d.]+)", name):
            out[name] = jpeg_tensor(x, float(match[2]), differentiable=match[1] == "diff")
        elif name in ("round", "diff"):
            out[name] = jpeg_tensor(x, quality, differentiable=name == "diff")
        elif name == "diff_grad":
            leaf = x.clone().requires_grad_()
            (jpeg_tensor(leaf, quality, differentiable=True) * case.inputs["cotangent"]).sum().backward()
            out[name] = leaf.grad
    return out


def face_pipeline(case: Case) -> dict[str, Tensor]:
    """degradation/face_pipeline: OpenCV's blur, INTER_LINEAR, noise and JPEG; every other result within 1e-5.

    Tolerance of `jpeg_q*`: a few grey levels (it came from OpenCV's encoder, ours from Pillow's).
    """
    given, config = case.inputs, case.config
    x = Ragged.of(from_hwc(given["x_hwc_bgr"]))
    (height, width), scale = x.sizes[0], config["scale"]
    blur = filter2d(x, given["kernel"])
    down = resample(blur, [(int(height // scale), int(width // scale))], ["bilinear"])
    colour = Recorded(None, from_hwc(given["normal"]))
    noisy = add_gaussian(down, torch.tensor([config["sigma"]]), torch.tensor([False]), colour)
    up = resample(noisy, [(height, width)], ["bilinear"])
    quality = config["quality"]
    images = {"blur": blur, "down": down, "noisy": noisy, "up": up}
    out = {name: to_hwc(image.tensor()) for name, image in images.items()}
    return out | {f"jpeg_q{quality}": encoded(out["noisy"], int(quality))}


def encoded(bgr: Tensor, quality: int) -> Tensor:
    """Round (h, w, 3) BGR in [0, 1] to 8 bits, compress it as JPEG (4:2:0) and decompress it."""
    file = io.BytesIO()
    levels = (bgr.clamp(0, 1) * 255).round().to(torch.uint8)
    Image.fromarray(levels.flip(-1).numpy()).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    rgb = np.asarray(Image.open(file))
    return torch.from_numpy(rgb.copy()).flip(-1).float() / 255


def from_hwc(x: Tensor) -> Tensor:
    """(H, W, C) -> (1, C, H, W)."""
    return x.movedim(-1, 0)[None]


def to_hwc(x: Tensor) -> Tensor:
    """(1, C, H, W) -> (H, W, C)."""
    return x[0].movedim(0, -1)
