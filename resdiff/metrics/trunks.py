"""The ImageNet networks whose activations LPIPS and DISTS compare: torchvision's AlexNet, VGG-16 and SqueezeNet 1.1.

Only the convolutional part (`features`) up to the last tap exists here, 15 of VGG-16's 138 million weights. It is built
without storage and filled from a file, so that there is no moment at which it has random weights. The taps are those of
richzhang/PerceptualSimilarity (lpips/pretrained_networks.py), and for VGG-16 also of dingkeyan93/DISTS.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from resdiff.checkpoints.io import load_strictly, read_state_dict
from resdiff.metrics.weights import MetricWeights, find_weights


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """One network."""

    build: Callable[..., Any]  # torchvision's
    taps: tuple[int, ...]  # indices of `features` whose output is compared, all after a ReLU
    channels: tuple[int, ...]  # at each tap
    smallest: int  # px a side of an image: below, a layer has nothing left to pool
    weights: MetricWeights


def _torchvision(file: str) -> MetricWeights:
    digits = file.removesuffix(".pth").rpartition("-")[2]
    url = f"https://download.pytorch.org/models/{file}"
    return MetricWeights(file=file, url=url, sha256=digits, licence="torchvision, BSD-3-Clause")


ALEX = Trunk(
    build=models.alexnet,
    taps=(1, 4, 7, 9, 11),
    channels=(64, 192, 384, 256, 256),
    smallest=31,
    weights=_torchvision("alexnet-owt-7be5be79.pth"),
)
VGG = Trunk(
    build=models.vgg16,
    taps=(3, 8, 15, 22, 29),
    channels=(64, 128, 256, 512, 512),
    smallest=16,
    weights=_torchvision("vgg16-397923af.pth"),
)
SQUEEZE = Trunk(
    build=models.squeezenet1_1,
    taps=(1, 4, 7, 9, 10, 11, 12),
    channels=(64, 128, 256, 384, 384, 512, 512),
    smallest=17,
    weights=_torchvision("squeezenet1_1-b8a52dc0.pth"),
)


class Features(nn.Sequential):
    """Layers of a trunk, by torchvision's indices."""

    def activations(self, x: Tensor, taps: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield the output (B, C, h, w) of each layer in `taps`, which lie within the trunk and ascend.

        One at a time: those of a large image need not lie in memory together.
        """
        x = x.contiguous(memory_format=torch.channels_last)  # on a CPU up to twice as fast
        for index, layer in enumerate(self):
            x = layer(x)
            if index in taps:
                yield x


def load_trunk(trunk: Trunk, path: str | Path | None = None) -> Features:
    """Return the layers of `trunk` up to its last tap with torchvision's weights, in eval mode and frozen.

    Args:
        path: the file, or a folder that holds it, see `find_weights`: torchvision's state dict, or that of `features`
            alone, with or without this prefix.

    Raises:
        MissingWeights: the file is nowhere.
        CheckpointError: it is damaged or of another network.
    """
    file = find_weights(trunk.weights, path)
    state = {name.removeprefix("features."): tensor for name, tensor in read_state_dict(file).items()}
    with torch.device("meta"):
        features = Features(*trunk.build(weights=None).features[: trunk.taps[-1] + 1])
    load_strictly(features, state, ignorable=("classifier.*",), source=file)
    return features.to(memory_format=torch.channels_last).eval().requires_grad_(False)
