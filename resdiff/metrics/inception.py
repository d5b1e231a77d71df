"""The Inception network of FID, and the way an image is brought to its 299x299 px.

Weights: TensorFlow's Inception of 2015-12-05, converted by mseitzer/pytorch-fid. The network is torchvision's Inception
v3 but for the pooling branches: average pooling leaves the padding out, and the last block takes the maximum. Images are
resized as GaParmar/clean-fid does it ("On Aliased Resizing", 2104.11222): Pillow's bicubic on floats, channel by channel,
clipped to [0, 255], then (x - 128) / 128.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception

from resdiff.checkpoints.io import load_strictly, read_state_dict, with_counters
from resdiff.devices import exact_inference
from resdiff.metrics.rgb import check_rgb
from resdiff.metrics.weights import MetricWeights, find_weights
from resdiff.resize import bicubic

SIDE = 299  # px
WEIGHTS = MetricWeights(
    file="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
    licence="Apache-2.0",
)


def average(x: Tensor) -> Tensor:
    """Mean over 3x3, at the border over what lies inside."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """Maximum over 3x3."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class BlockA(inception.InceptionA):
    """Mixed_5b to 5d."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), five, double, self.branch_pool(average(x))]


class BlockC(inception.InceptionC):
    """Mixed_6b to 6e."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [self.branch1x1(x), seven, double, self.branch_pool(average(x))]


class BlockE(inception.InceptionE):
    """Mixed_7b and, with `maximum` for its pool, 7c."""

    pool = staticmethod(average)

    def _forward(self, x: Tensor) -> list[Tensor]:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            self.branch3x3_2a(three),
            self.branch3x3_2b(three),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(self.pool(x)),
        ]


class FIDInception(nn.Module):
    """Images to the 2048 numbers that FID and KID compare; see `load_inception`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = inception.Inception3(
            aux_logits=False,
            transform_input=False,
            init_weights=False,
            inception_blocks=[
                inception.BasicConv2d,
                BlockA,
                inception.InceptionB,
                BlockC,
                inception.InceptionD,
                BlockE,
                inception.InceptionAux,
            ],
        )
        self.net.Mixed_7c.pool = maximum
        self.net.fc = nn.Identity()  # the features are what comes before the classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (B, 2048) float32 of images (B, 3, H, W), RGB in [0, 1], any size.

        Raises ValueError for other images.
        """
        with exact_inference(images.device):
            return self.net(fid_input(images))


def fid_input(images: Tensor) -> Tensor:
    """Resize images (B, 3, H, W), RGB in [0, 1], as clean-fid does: (B, 3, 299, 299) float32 in about [-1, 1].

    Raises ValueError unless they are such images.
    """
    check_rgb("images", images)
    # float64: Pillow adds up in double precision
    values = bicubic(images.double() * 255, (SIDE, SIDE), "pil").clamp(0, 255)
    return ((values - 128) / 128).float()


def load_inception(weights: str | Path | None = None) -> FIDInception:
    """Return the network on the CPU, in eval mode and frozen.

    Args:
        weights: `pt_inception-2015-12-05-6726825d.pth` or a folder that holds it; None: cache, hub or download.

    Raises:
        MissingWeights: the file is nowhere.
        CheckpointError: it is damaged or of another network.
    """
    file = find_weights(WEIGHTS, weights)
    with torch.device("meta"):
        network = FIDInception()
    load_strictly(network.net, with_counters(network.net, read_state_dict(file)), ignorable=("fc.*",), source=file)
    return network.eval().requires_grad_(False)
