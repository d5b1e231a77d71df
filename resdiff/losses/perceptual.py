"""LPIPS (Zhang et al. 2018, 1801.03924) with VGG-16 as a training loss: the metric's network, with gradients."""

from pathlib import Path

from torch import Tensor, nn

from resdiff.metrics.lpips import load_lpips


class Lpips(nn.Module):
    """Distance of images to their originals; frozen, differentiable in both.

    Args:
        weights: torchvision's VGG-16 file; None: cache, hub or download, see `resdiff.metrics.weights.find_weights`.

    Raises MissingWeights when the file is nowhere, CheckpointError when it is not that of VGG-16.
    """

    def __init__(self, weights: Path | None = None):
        super().__init__()
        self.net = load_lpips("vgg", weights)
        self.eval()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each pair, (B, 3, H, W) in about [-1, 1] twice -> (B,)."""
        return sum(x.mean(dim=(1, 2, 3)) for x in self.net.differences(image, target))  # type: ignore[return-value]
