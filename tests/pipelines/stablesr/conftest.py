"""StableSR around a tiny Stable Diffusion, and how the tests in this folder call it."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from resdiff.pipelines.stablesr import StableSRPipeline

Run = Callable[..., Tensor]


@pytest.fixture
def own_stablesr(stablesr) -> StableSRPipeline:
    """StableSR, the test's own but for the tokenizer, which is slow to copy."""
    own = copy.deepcopy(stablesr, {id(stablesr.tokenizer): stablesr.tokenizer})
    own.set_progress_bar_config(disable=True)
    return own


@pytest.fixture(scope="session")
def photo() -> Callable[..., Tensor]:
    """A random photo by its seed and size, (1, 3, h, w) in [0, 1]."""

    def make(seed: int = 0, height: int = 16, width: int = 18) -> Tensor:
        return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope="session")
def run() -> Run:
    """A call of two steps with a seed, its images as tensors or what else is asked for."""

    def call(pipe: StableSRPipeline, lr: Tensor, seed: int | list[int] = 0, **options) -> Tensor:
        seeds = [torch.Generator().manual_seed(s) for s in (seed if isinstance(seed, list) else [seed])]
        generator = seeds if isinstance(seed, list) else seeds[0]
        settings = {"num_inference_steps": 2, "output_type": "pt", "generator": generator} | options
        return pipe(lr, **settings).images

    return call
