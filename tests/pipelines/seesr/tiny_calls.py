"""How the tests beside this file call a pipeline: the photo, the seed, the steps."""

import torch
from torch import Tensor

LR = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
SIDE = 32  # px of the result
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(pipe, images=LR, **options) -> Tensor:
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt", "generator": seeded()} | options
    return pipe(images, **options).images


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed)) * 0.3
