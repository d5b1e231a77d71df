"""LPIPS (Zhang et al. 2018, 1801.03924) with VGG-16 as a training loss: the lpips package, without its download.

The package brings the linear weights but fetches VGG-16 from the network when it is built. Here the backbone comes from
a file that lies on the machine already: torchvision's `vgg16-397923af.pth`, as a path or in torch hub's cache.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

VGG_FILE = "vgg16-397923af.pth"
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"


def find_vgg(path: Path | None) -> Path:
    """Return the file of the backbone's weights. Raises ValueError that says where to get it and where to put it."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / VGG_FILE
    found = path if path is not None else cached
    if not found.is_file():
        where = f"{path} does not exist" if path is not None else f"{cached} does not exist"
        raise ValueError(f"LPIPS needs the VGG-16 of torchvision, and {where}: download {VGG_URL} to there")
    return found


class Lpips(nn.Module):
    """Distance of images to their originals; frozen, differentiable in both.

    Raises ValueError when the backbone's weights are missing or are not those of VGG-16.
    """

    def __init__(self, weights: Path | None = None):
        super().__init__()
        path = find_vgg(weights)
        import lpips

        self.net = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
        state = torch.load(path, map_location="cpu", weights_only=True)
        own = self.net.net.state_dict()  # "slice<k>.<layer>.weight", torchvision's "features.<layer>.weight"
        names = {name: "features." + name.split(".", 1)[1] for name in own}
        missing = [
            theirs for ours, theirs in names.items() if theirs not in state or state[theirs].shape != own[ours].shape
        ]
        if missing:
            raise ValueError(f"{path} is not torchvision's VGG-16: {missing[0]} is missing or of another shape")
        self.net.net.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Return the distance of each pair, (B, 3, H, W) in [-1, 1] twice -> (B,)."""
        return self.net(image, target).flatten()
