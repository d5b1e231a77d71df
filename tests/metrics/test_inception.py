"""The Inception network of FID is torchvision's but for its pooling; images are resized as Pillow does it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models import inception

from resdiff.checkpoints.io import CheckpointError
from resdiff.metrics.inception import WEIGHTS, FIDInception, fid_input, load_inception
from resdiff.metrics.weights import MissingWeights


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with a file like the published one, random, and torchvision's network with its weights."""
    torch.manual_seed(0)
    with torch.device("meta"):
        net = inception.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    net = net.to_empty(device="cpu").eval()
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data.normal_(std=(2 / part.weight[0].numel()) ** 0.5)
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(0.7, 1.3)
            part.bias.data.normal_(0, 0.1)
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 1.5)
            part.num_batches_tracked.zero_()
    net.fc.weight.data.normal_()
    net.fc.bias.data.zero_()
    folder = tmp_path_factory.mktemp("inception")
    torch.save(net.state_dict(), folder / WEIGHTS.file)
    return folder, net


@pytest.fixture(scope="module")
def network(published) -> FIDInception:
    return load_inception(published[0])


def test_features_are_torchvisions_with_the_pooling_of_the_original(network, published, monkeypatch):
    pools = iter(range(9))  # one in each block A, C and E, the ninth in the last
    average = F.avg_pool2d

    def pool(x, kernel_size, stride, padding):
        if next(pools) == 8:
            return F.max_pool2d(x, kernel_size, stride, padding)
        return average(x, kernel_size, stride, padding, count_include_pad=False)

    images = torch.rand(1, 3, 120, 90)
    ours = network(images)
    theirs = published[1]
    monkeypatch.setattr(F, "avg_pool2d", pool)
    theirs.fc = nn.Identity()
    with torch.no_grad():
        expected = theirs(fid_input(images))
    assert ours.shape == (1, 2048) and next(pools, None) is None
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(60, 80), (299, 299), (333, 512)])
def test_images_are_resized_as_pillow_does_it_on_floats(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    channels = [Image.fromarray(image[..., k].astype(np.float32)).resize((299, 299), Image.BICUBIC) for k in range(3)]
    expected = (torch.from_numpy(np.stack(channels)).clamp(0, 255) - 128) / 128
    ours = fid_input(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours[0], expected, rtol=0, atol=1e-6)


def test_files_without_the_counters_of_batch_normalisation_load(published, network, tmp_path):
    state = torch.load(published[0] / WEIGHTS.file, weights_only=True)
    torch.save({k: v for k, v in state.items() if not k.endswith("tracked")}, tmp_path / "old.pth")
    old = load_inception(tmp_path / "old.pth").net.state_dict()
    assert all(torch.equal(tensor, old[name]) for name, tensor in network.net.state_dict().items())


def test_missing_or_other_weights_and_other_images_are_refused(network, tmp_path):
    with pytest.raises(MissingWeights, match=WEIGHTS.file):
        load_inception(tmp_path)
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth does not fit"):
        load_inception(tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"images spans 0\.\.255"):
        network(torch.tensor([0.0, 255.0]).repeat(1, 3, 8, 4))
