"""LPIPS: distance of two images in the activations of an ImageNet network, weighted to agree with human judgement.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 1801.03924. The weights of the
linear layers are those in the package `lpips` (richzhang/PerceptualSimilarity, lpips/lpips.py), and the numbers are its
numbers. Differences: the trunk comes from a file instead of a download inside the constructor, both images pass it as
one batch, and images are in [0, 1]. Papers mean AlexNet v0.1 when they report LPIPS; VGG-16 is for training losses.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.checkpoints.io import read_state_dict
from resdiff.devices import exact_inference
from resdiff.metrics.rgb import check_rgb_pair
from resdiff.metrics.trunks import ALEX, SQUEEZE, VGG, Features, Trunk, load_trunk

Net = Literal["alex", "vgg", "squeeze"]
Version = Literal["0.1", "0.0"]
TRUNKS: dict[Net, Trunk] = {"alex": ALEX, "vgg": VGG, "squeeze": SQUEEZE}
SHIFT = (-0.030, -0.088, -0.188)  # of images in [-1, 1]
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10  # added to the norm over channels


class LPIPS(nn.Module):
    """LPIPS with one trunk; see `load_lpips`."""

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        features: Features,
        trunk: Trunk,  # what `features` are of
        lins: Sequence[Tensor],  # non-negative weight of each channel, (1, C, 1, 1) per tap
        *,
        scaled: bool = True,  # whether images are normalised by SHIFT and SCALE; version 0.0 forgot it
    ):
        super().__init__()
        self.features = features
        self.trunk = trunk
        self.lins = nn.ParameterList(nn.Parameter(lin.float(), requires_grad=False) for lin in lins)
        shift, scale = (SHIFT, SCALE) if scaled else ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        self.register_buffer("shift", torch.tensor(shift)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(scale)[:, None, None], persistent=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the distance of each pair, 0 for identical images, symmetric.

        Args:
            sr: (B, 3, H, W) RGB in [0, 1], at least 31, 16 or 17 px a side (alex, vgg, squeeze).
            hr: the same shape.

        Returns:
            (B,) float32.

        Raises:
            ValueError: shapes differ, or not such images.
        """
        return self.terms(sr, hr).sum(dim=1)

    def terms(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return what each tap adds to the distance, (B, taps)."""
        return torch.stack([x.mean(dim=(1, 2, 3)) for x in self.maps(sr, hr)], dim=1)

    def spatial(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return where the images differ, (B, 1, H, W): the maps of all taps, enlarged bilinearly and summed."""
        size = sr.shape[-2:]
        maps = self.maps(sr, hr)
        return torch.stack([F.interpolate(x, size=size, mode="bilinear", align_corners=False) for x in maps]).sum(dim=0)

    def maps(self, sr: Tensor, hr: Tensor) -> list[Tensor]:
        """Return the weighted squared difference at each position of each tap, (B, 1, h, w), Eq. (1) before the mean."""
        check_rgb_pair(sr, hr, self.trunk.smallest)
        with exact_inference(sr.device):
            return self.differences(2 * sr.float() - 1, 2 * hr.float() - 1)

    def differences(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """Return the same of images in about [-1, 1], differentiable in both: what a training loss needs."""
        activations = self.features.activations((torch.cat([x, y]) - self.shift) / self.scale, self.trunk.taps)
        return [_weighted_difference(x, lin) for x, lin in zip(activations, self.lins, strict=True)]


def load_lpips(net: Net = "alex", trunk: str | Path | None = None, version: Version = "0.1") -> LPIPS:
    """Return LPIPS on the CPU, in eval mode and frozen.

    Args:
        net: the trunk.
        trunk: its file or a folder that holds it (`resdiff.metrics.trunks.load_trunk`); None: cache, hub or download.
        version: 0.1 is what is reported; 0.0, of the paper's first edition, does not normalise the images.

    Raises:
        ValueError: another net or version.
        MissingWeights: the trunk's weights are nowhere.
        CheckpointError: they are damaged or of another network.
    """
    if net not in TRUNKS:
        raise ValueError(f"net is {net!r}; choose one of {', '.join(TRUNKS)}")
    if version not in get_args(Version):
        raise ValueError(f"version is {version!r}; choose one of {', '.join(get_args(Version))}")
    features = load_trunk(TRUNKS[net], trunk)
    state = read_state_dict(lins_file(net, version))
    lins = [state[f"lin{k}.model.1.weight"] for k in range(len(TRUNKS[net].taps))]
    return LPIPS(features, TRUNKS[net], lins, scaled=version == "0.1").eval()


def lins_file(net: Net, version: Version = "0.1") -> Path:
    """Return the file of the package `lpips` with the linear weights of a net, without importing the package."""
    spec = find_spec("lpips")
    if spec is None or spec.origin is None:
        raise ValueError("the package lpips has LPIPS' linear weights and is not installed; pip install lpips")
    return Path(spec.origin).parent / "weights" / f"v{version}" / f"{net}.pth"


def _weighted_difference(x: Tensor, lin: Tensor) -> Tensor:
    """Squared difference of the unit vectors of sr (first half of the batch) and hr: (2B, C, h, w) -> (B, 1, h, w)."""
    x = x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + EPS)
    sr, hr = x.chunk(2)
    return F.conv2d((sr - hr).square(), lin)
