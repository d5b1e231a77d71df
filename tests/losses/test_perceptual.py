"""LPIPS as a training loss: the package's linear weights over a backbone that is read from a file."""

from pathlib import Path

import pytest
import torch

from resdiff.losses.perceptual import Lpips
from resdiff.metrics.trunks import VGG


@pytest.fixture(scope="module")
def vgg(tmp_path_factory) -> Path:
    """A file of random weights, named and shaped as torchvision's."""
    import lpips

    torch.manual_seed(0)
    backbone = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).net.state_dict()
    path = tmp_path_factory.mktemp("vgg") / VGG.weights.file
    torch.save({f"features.{name.split('.', 1)[1]}": weight for name, weight in backbone.items()}, path)
    return path


@pytest.fixture(scope="module")
def net(vgg) -> Lpips:
    return Lpips(vgg)


def test_distance_is_that_of_the_lpips_package_and_nothing_is_trained(net, vgg) -> None:
    import lpips

    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = torch.load(vgg, weights_only=True)
    theirs.net.load_state_dict({name: state[f"features.{name.split('.', 1)[1]}"] for name in theirs.net.state_dict()})
    a, b = torch.rand(2, 2, 3, 40, 36, generator=torch.Generator().manual_seed(1)) * 2.2 - 1.1  # a decoder overshoots
    torch.testing.assert_close(net(a, b), theirs(a, b).flatten().detach(), atol=1e-6, rtol=1e-5)
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_distance_is_one_number_per_pair_and_zero_for_equals(net) -> None:
    a, b = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distance = net(a, b)
    assert distance.shape == (2,) and (distance > 0).all()
    assert net(a, a).tolist() == [0.0, 0.0]
    torch.testing.assert_close(distance, torch.cat([net(a[:1], b[:1]), net(a[1:], b[1:])]))
    assert (net(a, a + 0.1 * (b - a)) < distance).all()


def test_the_gradient_reaches_the_image(net) -> None:
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)
    target = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    net(image, target).sum().backward()
    assert float(image.grad.abs().max()) > 0


def test_another_network_is_refused_in_one_line(vgg, tmp_path) -> None:
    state = torch.load(vgg, weights_only=True)
    del state["features.28.weight"]
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"other.pth.*28.weight") as caught:
        Lpips(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_where_to_get_it(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"vgg16-397923af.pth.*https://download.pytorch.org"):
        Lpips(tmp_path / "none.pth")
