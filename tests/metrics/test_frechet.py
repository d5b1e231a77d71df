"""FID and KID against closed forms and definitions, also with fewer images than features."""

import pytest
import torch
from torch import Tensor

from resdiff.metrics.frechet import frechet_distance, frechet_from_moments, kid, moments


def features(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("n", "d"), [(50, 8), (9, 30)], ids=["more images", "more features"])
def test_a_shift_costs_its_square_and_a_scale_the_variance_of_the_difference(n, d):
    x = features(n, d)
    shift = torch.linspace(0, 1, d, dtype=torch.float64)
    trace = x.var(dim=0).sum()
    torch.testing.assert_close(frechet_distance(x, x + shift), shift.square().sum(), rtol=1e-12, atol=1e-12)
    # S_b = 9 S_a, so tr(S_a + S_b - 2 (S_a S_b)^(1/2)) = (1 + 9 - 6) tr(S_a)
    centred = x - x.mean(dim=0)
    torch.testing.assert_close(frechet_distance(centred, 3 * centred), 4 * trace, rtol=1e-12, atol=1e-12)
    assert float(frechet_distance(x, x)) == pytest.approx(0, abs=1e-12)


def test_covariances_in_different_directions_share_nothing():
    a, b = torch.zeros(4, 6, dtype=torch.float64), torch.zeros(5, 6, dtype=torch.float64)
    a[:, :3], b[:, 3:] = features(4, 3), features(5, 3, seed=1)
    a, b = a - a.mean(dim=0), b - b.mean(dim=0)
    expected = a.var(dim=0).sum() + b.var(dim=0).sum()
    torch.testing.assert_close(frechet_distance(a, b), expected, rtol=1e-13, atol=0)


def test_distance_is_that_of_the_eigenvalues_of_the_product():
    mixing = features(12, 12, seed=5)
    a, b = features(80, 12) @ mixing, features(60, 12, seed=1) + 0.5
    (mean_a, s_a), (mean_b, s_b) = moments(a), moments(b)
    roots = torch.linalg.eigvals(s_a @ s_b).real.sqrt().sum()
    expected = (mean_a - mean_b).square().sum() + s_a.trace() + s_b.trace() - 2 * roots
    torch.testing.assert_close(frechet_distance(a, b), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize(("n", "m", "d"), [(40, 30, 8), (12, 9, 30), (40, 9, 30)])
def test_features_and_their_moments_give_one_distance_symmetric(n, m, d):
    a, b = features(n, d), 2 * features(m, d, seed=1) + 1
    distance = frechet_distance(a, b)
    torch.testing.assert_close(frechet_from_moments(*moments(a), *moments(b)), distance, rtol=1e-11, atol=0)
    torch.testing.assert_close(frechet_distance(b, a), distance, rtol=1e-13, atol=0)
    torch.testing.assert_close(frechet_distance(a.float(), b.float()), distance, rtol=1e-5, atol=0)


def test_moments_divide_by_one_less_than_the_images():
    mean, covariance = moments(torch.tensor([[0.0, 1.0], [2.0, 5.0]]))
    assert mean.tolist() == [1, 3] and covariance.tolist() == [[2, 4], [4, 8]]


def test_kid_is_the_unbiased_estimate_over_all_pairs():
    a, b = features(5, 3), features(4, 3, seed=1) + 0.3

    def k(x: Tensor, y: Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within_a = sum(k(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_b = sum(k(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
    across = sum(k(x, y) for x in a for y in b) / 20
    assert float(kid(a, b)) == pytest.approx(within_a + within_b - 2 * across, rel=1e-12)


def test_sets_that_cannot_be_compared_are_refused():
    x = features(4, 3)
    for metric in (frechet_distance, kid):
        with pytest.raises(ValueError, match=r"features_b has the shape \(1, 3\); .* at least 2 images"):
            metric(x, x[:1])
        with pytest.raises(ValueError, match="features_a have 3 numbers per image and features_b 2"):
            metric(x, x[:, :2])
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        moments(x[:1])
    mean, covariance = moments(x)
    with pytest.raises(ValueError, match=r"moments have the shapes .*\(2, 3\)"):
        frechet_from_moments(mean, covariance[:2], mean, covariance)
