"""What a model makes of one photo: with its defaults, with every prompt, and at every position of the fidelity dial."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from resdiff.pipelines import SRPipeline

BICUBIC, ORIGINAL, NO_PROMPT = "bicubic", "original", "no prompt"


@dataclass(frozen=True, kw_only=True)
class Variants:
    """The pictures of one photo by their captions, RGB (H, W, 3) uint8 of one size."""

    enlarged: dict[str, np.ndarray]  # bicubic, the model and, where there is one, the original, in this order
    prompts: dict[str, np.ndarray]  # "no prompt", then the prompts in quotation marks; empty where it takes none
    dial: dict[str, np.ndarray]  # "fidelity 0" ...; empty where it has none

    @property
    def results(self) -> list[np.ndarray]:
        """Every picture but the original."""
        enlarged = [image for caption, image in self.enlarged.items() if caption != ORIGINAL]
        return [*enlarged, *self.prompts.values(), *self.dial.values()]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Which variants of every photo are made."""

    model: str  # its caption
    scale: float  # output over input size
    prompts: Sequence[str]  # none for a model that takes no text
    fidelities: Sequence[float]  # positions of the dial, 0 to 1; none for a model without one
    seed: int  # of the noise


def make_variants(pipe: SRPipeline, lr: np.ndarray, hr: np.ndarray | None, asked: Asked) -> Variants:
    """Enlarge one photo in every way that is asked; all start from the same noise and differ by what is asked alone.

    Args:
        pipe: the model.
        lr: RGB (h, w, 3) uint8.
        hr: the original at the result's size, or None.
        asked: the variants.
    """

    def enlarge(by: SRPipeline, **options: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(asked.seed)
        return np.asarray(by(lr, scale=asked.scale, generator=generator, **options).images[0])

    enlarged = {BICUBIC: enlarge(SRPipeline.from_pretrained("bicubic")), asked.model: (plain := enlarge(pipe))}
    if hr is not None:
        enlarged[ORIGINAL] = hr
    worded = {NO_PROMPT: plain} if asked.prompts else {}
    worded |= {f"“{prompt}”": enlarge(pipe, prompt=prompt) for prompt in asked.prompts}
    dial = {f"fidelity {fidelity:g}": enlarge(pipe, fidelity=fidelity) for fidelity in asked.fidelities}
    return Variants(enlarged=enlarged, prompts=worded, dial=dial)
