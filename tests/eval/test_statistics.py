"""Intervals and paired tests: against scipy, at the limits of few images, and whatever the order."""

import numpy as np
import pytest

from resdiff.eval.harness.statistics import ALL_FLIPS, Comparison, mean_interval, paired, sign_flip_p

stats = pytest.importorskip("scipy.stats")


def draw(n: int, seed: int = 0) -> list[float]:
    return np.random.default_rng(seed).gamma(2, 1, n).tolist()


@pytest.mark.parametrize("n", [14, 100])
def test_the_interval_is_scipys_bca_up_to_the_draw(n):
    x = draw(n)
    mean, low, high = mean_interval(x)
    theirs = stats.bootstrap((x,), np.mean, n_resamples=9999, method="BCa", random_state=3).confidence_interval
    width = theirs.high - theirs.low
    assert mean == pytest.approx(np.mean(x), rel=1e-14)
    assert abs(low - theirs.low) < 0.04 * width and abs(high - theirs.high) < 0.04 * width


def test_the_interval_leans_to_the_long_tail_of_a_skewed_figure():
    mean, low, high = mean_interval(draw(14))
    assert low < mean < high and high - mean > mean - low
    _, mirrored_low, mirrored_high = mean_interval([-v for v in draw(14)])
    assert (-mirrored_high, -mirrored_low) == pytest.approx((low, high), abs=0.03 * (high - low))


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    covered = 0
    for seed in range(300):
        _, low, high = mean_interval(np.random.default_rng(seed).normal(5, 2, 30).tolist())
        covered += low <= 5 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_without_several_values_there_is_no_interval():
    assert mean_interval([]) == (None, None, None)
    assert mean_interval([None, None]) == (None, None, None)
    assert mean_interval([3.5, None]) == (3.5, None, None)
    assert mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0)
    assert mean_interval([1.0, 3.0]) == (2.0, 1.0, 3.0)


def test_neither_order_nor_missing_values_change_a_number():
    x, y = draw(20), draw(20, seed=1)
    order = np.random.default_rng(5).permutation(20)
    assert mean_interval(x) == mean_interval([*(x[i] for i in order), None])
    assert paired(x, y) == paired([x[i] for i in order] + [1.0], [y[i] for i in order] + [None])
    assert mean_interval(x) == mean_interval(x)


def test_a_comparison_is_about_the_paired_differences():
    baseline = draw(14)
    better = [b + 0.5 + 0.1 * (-1) ** i for i, b in enumerate(baseline)]
    found = paired(better, baseline)
    assert found.difference == pytest.approx(0.5) and found.n == 14
    assert 0.4 <= found.low < 0.5 < found.high <= 0.6
    assert found.p < 0.001
    other = paired(baseline, better)
    assert other.p == found.p and other.difference == -found.difference


@pytest.mark.parametrize("n", [5, ALL_FLIPS])
def test_p_is_the_share_of_all_sign_flips(n):
    d = (np.random.default_rng(2).normal(0.4, 1, n)).tolist()
    theirs = stats.permutation_test(
        (d, [0.0] * n),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert sign_flip_p(d) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_beyond_that_p_is_estimated_and_never_zero():
    d = np.random.default_rng(2).normal(0.2, 1, 100).tolist()
    assert sign_flip_p(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)
    assert sign_flip_p([1.0 + 0.01 * i for i in range(100)]) == 1e-4


def test_five_images_cannot_reach_five_percent():
    assert paired([2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 5).p == 2 / 2**5
    assert paired([2.0], [1.0]) == Comparison(difference=1.0, low=None, high=None, p=1.0, n=1)


def test_equal_models_differ_by_nothing():
    x = draw(12)
    assert paired(x, x) == Comparison(difference=0.0, low=0.0, high=0.0, p=1.0, n=12)


def test_pairs_without_a_number_are_left_out():
    found = paired([None, 3.0, 2.0, 5.0], [1.0, 2.0, None, 4.0])
    assert found.n == 2 and found.difference == 1.0
    assert paired([None], [1.0]) == Comparison(difference=None, low=None, high=None, p=None, n=0)


def test_unpaired_figures_are_refused():
    with pytest.raises(ValueError, match="values are 1 and baseline 2"):
        paired([1.0], [1.0, 2.0])
