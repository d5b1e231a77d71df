"""LPIPS gives the numbers of the package lpips, from a trunk in a file."""

import warnings

import pytest
import torch

from resdiff.metrics.lpips import LPIPS, TRUNKS, load_lpips
from resdiff.metrics.weights import MissingWeights


@pytest.fixture
def squeeze(trunk_folder) -> LPIPS:
    return load_lpips("squeeze", trunk_folder(TRUNKS["squeeze"]))


def package_lpips(net: str, version: str, folder):
    """The package's own network with the trunk of a file."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's, about how the package builds its trunk
        theirs = lpips.LPIPS(net=net, version=version, pnet_rand=True, verbose=False)
    state = torch.load(folder / TRUNKS[net].weights.file, weights_only=True)
    names = {name: "features." + name.split(".", 1)[1] for name in theirs.net.state_dict()}
    theirs.net.load_state_dict({ours: state[name] for ours, name in names.items()})
    return theirs


@pytest.mark.parametrize(("net", "version"), [("squeeze", "0.1"), ("squeeze", "0.0"), ("alex", "0.1"), ("vgg", "0.1")])
def test_distance_terms_and_map_are_those_of_the_package(net, version, trunk_folder, pair):
    folder = trunk_folder(TRUNKS[net])
    ours, theirs = load_lpips(net, folder, version), package_lpips(net, version, folder)
    with torch.no_grad():
        distance, terms = theirs(*pair, retPerLayer=True, normalize=True)
        theirs.spatial = True
        spatial = theirs(*pair, normalize=True)
    torch.testing.assert_close(ours(*pair), distance.flatten(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.terms(*pair), torch.cat(terms, dim=1).flatten(1), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.spatial(*pair), spatial, rtol=1e-4, atol=1e-6)


def test_distance_is_zero_for_equal_images_symmetric_and_grows_with_noise(squeeze, pair):
    sr, hr = pair
    assert torch.equal(squeeze(hr, hr), torch.zeros(2))
    torch.testing.assert_close(squeeze(sr, hr), squeeze(hr, sr))
    nearer = squeeze((sr + hr) / 2, hr)
    assert ((nearer > 0) & (nearer < squeeze(sr, hr))).all()


def test_distance_is_the_same_alone_and_in_a_batch_and_twice(squeeze, pair):
    sr, hr = pair
    together = squeeze(sr, hr)
    alone = torch.cat([squeeze(a[None], b[None]) for a, b in zip(sr, hr, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-8)
    assert torch.equal(together, squeeze(sr, hr))


def test_full_precision_is_kept_under_autocast_and_gradients_are_not(squeeze, pair):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = squeeze(pair[0].clone().requires_grad_(), pair[1])
    assert under_autocast.dtype == torch.float32 and not under_autocast.requires_grad
    assert torch.equal(under_autocast, squeeze(*pair))


def test_convolutions_run_by_one_fixed_algorithm_in_float32(squeeze, pair):
    cudnn, seen = torch.backends.cudnn, []
    squeeze.features[0].register_forward_hook(
        lambda *_: seen.append((cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32))
    )
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    squeeze(*pair)
    assert seen == [(True, False, False)]
    assert (cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32) == before


def test_missing_weights_unknown_nets_versions_and_images_are_refused(squeeze, pair, tmp_path):
    with pytest.raises(MissingWeights, match=r"alexnet-owt-7be5be79\.pth"):
        load_lpips("alex", tmp_path)
    with pytest.raises(ValueError, match="net is 'resnet'; choose one of alex, vgg, squeeze"):
        load_lpips("resnet")
    with pytest.raises(ValueError, match=r"version is '0\.2'"):
        load_lpips("alex", version="0.2")
    with pytest.raises(ValueError, match=r"hr spans -1\.\.\S+; give values in \[0, 1\]"):
        squeeze(pair[0], torch.where(pair[1] < 0.5, -1, pair[1]))
    with pytest.raises(ValueError, match="at least 17x17"):
        squeeze(pair[0][..., :16], pair[1][..., :16])
