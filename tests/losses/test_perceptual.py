"""LPIPS as a training loss: the package's linear weights over a backbone that is read from a file."""

from pathlib import Path

import pytest
import torch

from resdiff.losses.perceptual import VGG_FILE, Lpips, find_vgg


@pytest.fixture(scope="module")
def vgg(tmp_path_factory) -> Path:
    """A file of random weights, named and shaped as torchvision's."""
    import lpips

    torch.manual_seed(0)
    backbone = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).net.state_dict()
    path = tmp_path_factory.mktemp("vgg") / VGG_FILE
    torch.save({f"features.{name.split('.', 1)[1]}": weight for name, weight in backbone.items()}, path)
    return path


@pytest.fixture(scope="module")
def net(vgg) -> Lpips:
    return Lpips(vgg)


def test_the_backbone_is_that_of_the_file_and_nothing_is_trained(net, vgg) -> None:
    state = torch.load(vgg, weights_only=True)
    assert len(state) == 26  # weights and biases of VGG-16's 13 convolutions
    assert torch.equal(net.net.net.slice1[0].weight, state["features.0.weight"])
    assert torch.equal(net.net.net.slice5[-2].weight, state["features.28.weight"])
    assert not net.training and not any(p.requires_grad for p in net.parameters())


def test_the_linear_weights_are_the_published_ones(net) -> None:
    means = [float(getattr(net.net, f"lin{i}").model[-1].weight.mean()) for i in range(5)]
    assert means == pytest.approx([0.10822, 0.06921, 0.06842, 0.10063, 0.09186], abs=1e-5)  # of lpips' v0.1/vgg.pth


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


def test_a_missing_file_says_where_to_get_it_and_where_to_put_it(tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"none.pth does not exist: download https://download.pytorch.org/.*vgg16"):
        find_vgg(tmp_path / "none.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ValueError, match=rf"{tmp_path}/checkpoints/{VGG_FILE} does not exist: download"):
        find_vgg(None)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / VGG_FILE).touch()
    assert find_vgg(None) == tmp_path / "checkpoints" / VGG_FILE


@pytest.mark.parametrize("damage", ["missing", "shape"])
def test_another_network_is_refused_in_one_line(vgg, tmp_path, damage) -> None:
    state = torch.load(vgg, weights_only=True)
    if damage == "missing":
        del state["features.28.weight"]
    else:
        state["features.28.weight"] = torch.zeros(1)
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(
        ValueError, match=r"is not torchvision's VGG-16: features.28.weight is missing or of another shape"
    ):
        Lpips(path)
