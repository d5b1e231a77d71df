"""Trunks are torchvision's convolutional layers, filled strictly from a file."""

import pytest
import torch

from resdiff.checkpoints.io import CheckpointError
from resdiff.metrics.trunks import ALEX, SQUEEZE, VGG, load_trunk
from resdiff.metrics.weights import MissingWeights

from .conftest import random_trunk


@pytest.mark.parametrize("trunk", [ALEX, SQUEEZE, VGG], ids=lambda trunk: trunk.build.__name__)
def test_taps_are_relus_with_the_published_channels(trunk, trunk_folder):
    features = load_trunk(trunk, trunk_folder(trunk))
    activations = list(features.activations(torch.rand(1, 3, trunk.smallest, trunk.smallest), trunk.taps))
    with pytest.raises(RuntimeError):  # one pixel less leaves nothing to pool
        list(features.activations(torch.rand(1, 3, trunk.smallest - 1, trunk.smallest - 1), trunk.taps))
    assert [a.shape[1] for a in activations] == list(trunk.channels)
    assert all((a >= 0).all() and (a == 0).any() for a in activations)  # after a ReLU


def test_weights_of_the_features_alone_load_with_and_without_their_prefix(tmp_path, pair):
    whole = random_trunk(SQUEEZE)
    alone = {name: tensor for name, tensor in whole.items() if name.startswith("features.")}
    bare = {name.removeprefix("features."): tensor for name, tensor in alone.items()}
    outputs = []
    for k, state in enumerate((whole, alone, bare)):
        torch.save(state, tmp_path / f"{k}.pth")
        outputs.append(list(load_trunk(SQUEEZE, tmp_path / f"{k}.pth").activations(pair[0], SQUEEZE.taps))[-1])
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_weights_of_another_network_are_refused_with_the_file(tmp_path):
    file = tmp_path / "squeeze.pth"
    torch.save(random_trunk(SQUEEZE), file)
    with pytest.raises(CheckpointError, match=r"squeeze\.pth does not fit Features: .* missing"):
        load_trunk(ALEX, file)


def test_without_weights_there_is_no_trunk(tmp_path):
    with pytest.raises(MissingWeights, match=r"vgg16-397923af\.pth .* https://download\.pytorch\.org"):
        load_trunk(VGG, tmp_path)


def test_digests_are_those_in_the_published_names():
    assert [trunk.weights.sha256 for trunk in (ALEX, VGG, SQUEEZE)] == ["7be5be79", "397923af", "b8a52dc0"]
