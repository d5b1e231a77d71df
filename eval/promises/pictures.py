"""The images of the measurements, 8 bits: read, reduced baselines, and made by the model with one seed each."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from diffusers.utils.logging import disable_progress_bar
from torch import Tensor

from resdiff.eval.harness.images import read_image
from resdiff.eval.harness.testsets import Sample
from resdiff.pipelines import SRPipeline
from resdiff.resize import bicubic
from resdiff.runs.restorer import weights_hash

SCALE = 4
Meaning = tuple[float, ...]  # the numbers of a prompt's embedding


@dataclass(frozen=True)
class Place:
    """One image of a set."""

    set: str
    sample: Sample


class Pair:
    """An LR image with its HR image, uint8 (C, h, w) and (C, H, W); a grey image has one channel."""

    def __init__(self, sample: Sample):
        if sample.lr is None:
            raise ValueError(f"{sample.name} has no LR file; give a set of LR + HR pairs or LR images")
        self.lr = read_image(sample.lr)
        self._hr = sample.hr

    @cached_property
    def hr(self) -> Tensor:
        """The HR image, with as many channels as LR. Raises ValueError where there is none."""
        if self._hr is None:
            raise ValueError("this set has no HR images; pass it as --real")
        hr = read_image(self._hr)
        if hr.shape[0] != self.lr.shape[0]:
            raise ValueError(f"{self._hr.name} and its LR image differ in colour; give both grey or both coloured")
        return hr


def enlarged_bicubic(lr: Tensor) -> Tensor:
    """Return uint8 (C, 4 h, 4 w) of uint8 (C, h, w): MATLAB's bicubic in floats, rounded once."""
    size = SCALE * lr.shape[-2], SCALE * lr.shape[-1]
    return to_8_bits(bicubic(lr[None].double(), size, "matlab")[0])


def to_8_bits(x: Tensor) -> Tensor:
    """Round values of 0..255, clamped."""
    return x.round().clamp(0, 255).to(torch.uint8)


class Enlarger:
    """The model, called on one LR image at a time with noise of the same seed.

    Args:
        model: as `SRPipeline.from_pretrained` takes it, None is the bundled one; float32.
    """

    def __init__(self, model: str | Path | None = None, seed: int = 0):
        disable_progress_bar()  # of loading
        self.pipe = SRPipeline.from_pretrained(model, dtype=torch.float32)
        self.pipe.set_progress_bar_config(disable=True)
        self._seed = seed

    def __call__(
        self, lr: Tensor, *, steps: int | None = None, prompt: str | None = None, fidelity: float | None = None
    ) -> Tensor:
        """Return uint8 (C, 4 h, 4 w) of uint8 (C, h, w); None: the model's own setting."""
        return self._call(self.pipe, lr, steps, prompt, fidelity)

    def without_words(self, lr: Tensor, *, steps: int) -> Tensor:
        """Return what the model makes when its text encoder is taken away."""
        return self._call(self._without_words, lr, steps, None, None)

    def meaning(self, prompt: str) -> Meaning:
        """Return all that the network gets to know of a prompt, () of nothing: prompts of one meaning give one picture."""
        if not prompt or not self.pipe.takes_prompt:
            return ()
        with torch.no_grad():
            row = self.pipe.encode_prompt(prompt).flatten()
        return tuple(row.tolist()) if row.any() else ()

    def fingerprint(self) -> str:
        """Return what stands for the weights and settings of the model, and the seed."""
        return f"{weights_hash(self.pipe)}, seed {self._seed}"

    @cached_property
    def _without_words(self) -> SRPipeline:
        pipe = SRPipeline.from_pipe(self.pipe, text_encoder=None)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _call(
        self, pipe: SRPipeline, lr: Tensor, steps: int | None, prompt: str | None, fidelity: float | None
    ) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed)
        result = pipe(lr, prompt, num_inference_steps=steps, fidelity=fidelity, generator=generator)
        (image,) = result.images
        pixels = torch.from_numpy(np.array(image))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
