"""DISTS: similarity of structure and texture in the activations of VGG-16.

Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", 2004.07728; weights alpha and beta of
dingkeyan93/DISTS (DISTS_pytorch, MIT), shipped with resdiff. The numbers are those of its `DISTS_pt.py`, without the
reduction of the shorter side to 256 px in its demo: real-world tables are made on whole images. Difference: variance and
covariance are taken of centred activations, which rounds less.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import resdiff
from resdiff.checkpoints.io import read_state_dict
from resdiff.devices import exact_inference
from resdiff.metrics.rgb import check_rgb_pair
from resdiff.metrics.trunks import VGG, Features, load_trunk

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's RGB values in [0, 1]
STD = (0.229, 0.224, 0.225)
C1 = C2 = 1e-6
SHIPPED = Path(resdiff.__file__).parent / "weights" / "metrics" / "dists.safetensors"


class L2Pool(nn.Module):
    """Hanning-weighted root mean square over 3x3, stride 2, in place of max pooling: does not alias (Sec. 3.1)."""

    window: Tensor

    def __init__(self, channels: int):
        super().__init__()
        window = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("window", torch.outer(window, window).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, ceil(h / 2), ceil(w / 2))."""
        return (F.conv2d(x * x, self.window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


class DISTS(nn.Module):
    """DISTS; see `load_dists`."""

    alpha: Tensor
    beta: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        features: Features,  # VGG-16 up to its last tap; its max pools are replaced
        alpha: Tensor,  # (1475,) weights of the channels' means, the texture
        beta: Tensor,  # (1475,) weights of their covariances, the structure
    ):
        super().__init__()
        channels = iter(VGG.channels)
        self.features = Features(*(L2Pool(next(channels)) if isinstance(m, nn.MaxPool2d) else m for m in features))
        total = alpha.sum() + beta.sum()
        self.register_buffer("alpha", alpha.float() / total)
        self.register_buffer("beta", beta.float() / total)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Return the distance of each pair, Eq. (7), 0 for identical images, symmetric.

        Args:
            sr: (B, 3, H, W) RGB in [0, 1], any size.
            hr: the same shape.

        Returns:
            (B,) float32 in [0, 1].

        Raises:
            ValueError: shapes differ, or not such images.
        """
        check_rgb_pair(sr, hr)
        images = torch.cat([sr, hr]).float()
        with exact_inference(images.device):
            similarities = [_similarities(x) for x in self.stages(images)]
            texture, structure = (torch.cat(part, dim=1) for part in zip(*similarities, strict=True))  # (B, 1475) each
            # as a sum of dissimilarities it is exactly 0 for equal images
            return (self.alpha * (1 - texture) + self.beta * (1 - structure)).sum(dim=1)

    def stages(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the images (B, 3, H, W) and the activations of the five taps."""
        yield images
        yield from self.features.activations((images - self.mean) / self.std, VGG.taps)


def load_dists(trunk: str | Path | None = None) -> DISTS:
    """Return DISTS on the CPU, in eval mode and frozen.

    Args:
        trunk: torchvision's VGG-16 file or a folder that holds it (`resdiff.metrics.trunks.load_trunk`); None: cache,
            hub or download.

    Raises:
        MissingWeights: the trunk's weights are nowhere.
        CheckpointError: they are damaged or of another network.
    """
    state = read_state_dict(SHIPPED)
    return DISTS(load_trunk(VGG, trunk), state["alpha"], state["beta"]).eval()


def _similarities(x: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity of means and of deviations per channel, Eq. (5) and (6): sr above hr, (2B, C, h, w) -> (B, C) twice."""
    x = x.flatten(2)
    means = x.mean(dim=2)
    centred = x - means[..., None]
    (mu_x, mu_y), (sr, hr) = means.chunk(2), centred.chunk(2)
    var_x, var_y, covariance = ((a * b).mean(dim=2) for a, b in ((sr, sr), (hr, hr), (sr, hr)))
    texture = (2 * mu_x * mu_y + C1) / (mu_x**2 + mu_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return texture, structure
