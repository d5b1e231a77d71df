"""Random weights of the ImageNet networks, in files as torchvision publishes them."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resdiff.metrics.trunks import Trunk


def random_trunk(trunk: Trunk, seed: int = 0) -> dict[str, Tensor]:
    """Draw weights that keep the activations' scale, under torchvision's names, with a classifier that is not used."""
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in trunk.build(weights=None).features.state_dict().items()}
    state = {"classifier.1.bias": torch.zeros(3)}
    for name, shape in shapes.items():
        gain = math.sqrt(2 / math.prod(shape[1:])) if name.endswith("weight") else 0.05
        state[f"features.{name}"] = gain * torch.randn(shape, generator=generator)
    return state


@pytest.fixture(scope="session")
def trunk_folder(tmp_path_factory) -> Callable[[Trunk], Path]:
    """A function that returns a folder with random weights of a trunk, drawn once."""
    folder = tmp_path_factory.mktemp("trunks")

    def folder_with(trunk: Trunk) -> Path:
        file = folder / trunk.weights.file
        if not file.exists():
            torch.save(random_trunk(trunk), file)
        return folder

    return folder_with


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    """Two RGB images in [0, 1] and what noise makes of them, of odd size."""
    generator = torch.Generator().manual_seed(1)
    hr = torch.rand(2, 3, 67, 50, generator=generator)
    sr = (hr + 0.1 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
    return sr, hr
