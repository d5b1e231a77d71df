"""DISTS: similarity of means and covariances of VGG-16's activations with the shipped weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from resdiff.metrics.dists import DISTS, L2Pool, load_dists
from resdiff.metrics.trunks import VGG
from resdiff.metrics.weights import MissingWeights


@pytest.fixture(scope="module")
def dists(trunk_folder) -> DISTS:
    return load_dists(trunk_folder(VGG))


def by_the_paper(sr: Tensor, hr: Tensor, state: dict[str, Tensor], alpha: Tensor, beta: Tensor) -> Tensor:
    """Eq. (5) to (7) in float64, written out: convolutions, L2 pools before the 3rd, 5th, 8th and 11th, five taps."""
    window = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    window = torch.outer(window, window) / 16
    convolutions = [name.removesuffix(".weight") for name in state if name.endswith("weight")]

    def stages(x: Tensor) -> list[Tensor]:
        found = [x]
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).double()
        x = (x - mean[:, None, None]) / std[:, None, None]
        for k, name in enumerate(convolutions):
            if k in (2, 4, 7, 10):
                kernel = window.expand(x.shape[1], 1, 3, 3)
                x = (F.conv2d(x**2, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()
            x = F.conv2d(x, state[f"{name}.weight"].double(), state[f"{name}.bias"].double(), padding=1).relu()
            if k in (1, 3, 6, 9, 12):
                found.append(x)
        return found

    total = torch.zeros(len(sr), dtype=torch.float64)
    offset = 0
    for x, y in zip(stages(sr.double()), stages(hr.double()), strict=True):
        here = slice(offset, offset := offset + x.shape[1])
        mx, my = x.mean(dim=(2, 3)), y.mean(dim=(2, 3))
        vx, vy = x.var(dim=(2, 3), correction=0), y.var(dim=(2, 3), correction=0)
        cov = (x * y).mean(dim=(2, 3)) - mx * my
        s1 = (2 * mx * my + 1e-6) / (mx**2 + my**2 + 1e-6)
        s2 = (2 * cov + 1e-6) / (vx + vy + 1e-6)
        total += (alpha[here].double() * s1 + beta[here].double() * s2).sum(dim=1)
    return 1 - total


def test_distance_is_the_papers_formula(dists, trunk_folder, pair):
    state = torch.load(trunk_folder(VGG) / VGG.weights.file, weights_only=True)
    state = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    expected = by_the_paper(*pair, state, dists.alpha, dists.beta)
    torch.testing.assert_close(dists(*pair).double(), expected, rtol=0, atol=1e-6)


def test_shipped_weights_are_the_published_ones_and_sum_to_one(dists):
    assert dists.alpha.shape == dists.beta.shape == (3 + sum(VGG.channels),) == (1475,)
    assert float(dists.alpha.sum()) == pytest.approx(0.8760, abs=5e-5)
    assert float(dists.beta.sum()) == pytest.approx(0.1240, abs=5e-5)
    assert float((dists.alpha + dists.beta).sum()) == pytest.approx(1, abs=1e-6)


def test_distance_is_zero_for_equal_images_symmetric_and_within_one(dists, pair):
    sr, hr = pair
    assert torch.equal(dists(hr, hr), torch.zeros(2))
    distance = dists(sr, hr)
    torch.testing.assert_close(distance, dists(hr, sr), rtol=0, atol=5e-7)
    assert ((distance > 1e-3) & (distance < 1)).all()


def test_distance_is_the_same_alone_and_in_a_batch(dists, pair):
    alone = torch.cat([dists(a[None], b[None]) for a, b in zip(*pair, strict=True)])
    torch.testing.assert_close(dists(*pair), alone, rtol=0, atol=5e-7)


def test_l2_pool_halves_rounding_up_and_keeps_constants():
    pooled = L2Pool(2)(torch.full((1, 2, 9, 6), 3.0))
    assert pooled.shape == (1, 2, 5, 3)
    torch.testing.assert_close(pooled[..., 1:-1, 1:], torch.full((1, 2, 3, 2), 3.0))


def test_missing_weights_are_refused_and_any_size_is_compared(dists, pair, tmp_path):
    with pytest.raises(MissingWeights, match=r"vgg16-397923af\.pth"):
        load_dists(tmp_path)
    for side in (8, 17):
        assert 0 < dists(pair[0][..., :side, :side], pair[1][..., :side, :side])[0] < 1
