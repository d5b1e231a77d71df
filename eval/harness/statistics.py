"""How sure a mean over images is, and whether two models differ: bootstrap intervals and a paired permutation test.

Intervals: bias-corrected and accelerated bootstrap (BCa; Efron, "Better bootstrap confidence intervals", JASA 1987),
95 %, over images. The images of a test set are few and their figures skewed, which BCa corrects for in part; with five
images no interval is reliable, and too narrow ones are the rule.

Test: sign flips of the paired differences (Fisher's randomisation test). If two models were alike, each difference
could as well have the other sign. The statistic is the mean difference itself, which is what the tables show (Wilcoxon's
test ranks instead and speaks of another quantity); ties and zeros need no special rule; and it is exact for few images.
Two-sided, its smallest possible p for n images is 2 / 2^n: 0.0625 for five, so five images can never reach p < 0.05.

Both depend on the values alone: the seed is fixed and values are sorted first, so the order of images does not matter.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
DRAWS = 9999  # resamples of the bootstrap, and sign flips where not all are tried
ALL_FLIPS = 13  # images up to which every one of the 2^n flips is tried: 8192, as many as are drawn beyond
SEED = 0
AT_ONCE = 2**22  # numbers drawn at once, which bounds the memory

NORMAL = statistics.NormalDist()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One model against another on the same images; None: too few images."""

    difference: float | None  # mean of value - baseline
    low: float | None  # 95 % interval of that mean
    high: float | None
    p: float | None  # two-sided
    n: int  # images with both values


def mean_interval(values: Iterable[float | None]) -> tuple[float | None, float | None, float | None]:
    """Return (mean, low, high): the mean over images and its 95 % bootstrap interval.

    None (n/a) is left out. Without any value all three are None; with one value low and high are.
    """
    given = known(values)
    if not given:
        return None, None, None
    mean = math.fsum(given) / len(given)
    return mean, *interval(given)


def paired(values: Sequence[float | None], baseline: Sequence[float | None]) -> Comparison:
    """Compare two models by their figures of the same images, in the same order.

    Pairs with None (n/a) on either side are left out.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(values) != len(baseline):
        raise ValueError(f"values are {len(values)} and baseline {len(baseline)}; give both for the same images")
    pairs = zip(values, baseline, strict=True)
    differences = known(None if v is None or b is None else v - b for v, b in pairs)
    if not differences:
        return Comparison(difference=None, low=None, high=None, p=None, n=0)
    mean = math.fsum(differences) / len(differences)
    low, high = interval(differences)
    return Comparison(difference=mean, low=low, high=high, p=sign_flip_p(differences), n=len(differences))


def known(values: Iterable[float | None]) -> list[float]:
    """Return the values that are there, sorted."""
    return sorted(v for v in values if v is not None)


def interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the BCa bootstrap interval of the mean, (None, None) for fewer than two values."""
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return None, None
    if x[0] == x[-1]:
        return float(x[0]), float(x[0])
    mean = x.mean()
    means = np.sort(_drawn(len(x), lambda rng, rows: x[rng.integers(0, len(x), (rows, len(x)))].mean(axis=1)))
    tie = 1e-12 * np.abs(x).max()  # a resample that holds every value once has the mean up to rounding; ties count half
    below = ((means < mean - tie).mean() + (means <= mean + tie).mean()) / 2
    bias = NORMAL.inv_cdf(min(max(below, 1 / (DRAWS + 1)), DRAWS / (DRAWS + 1)))  # z0
    influence = x - mean  # the jackknife's, of a mean
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)  # a
    low, high = (
        float(np.quantile(means, _shifted(NORMAL.inv_cdf(q), bias, acceleration)))
        for q in ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
    )
    return low, high


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the share of sign flips whose mean is at least as far from zero as the observed one.

    All 2^n for n <= `ALL_FLIPS`; beyond that `DRAWS` random ones and the observed one, so that p is never zero.
    """
    d = np.asarray(differences, dtype=np.float64)
    n, total = len(d), math.fsum(differences)
    least = abs(total) - 1e-9 * np.abs(d).sum()  # sums of the same terms in another order count as equal
    if n <= ALL_FLIPS:
        flips = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((np.abs(total - 2 * (flips @ d)) >= least).mean())

    def sums(rng: np.random.Generator, rows: int) -> np.ndarray:
        return total - 2 * (rng.integers(0, 2, (rows, n), dtype=np.int8) @ d)

    return float(((np.abs(_drawn(n, sums)) >= least).sum() + 1) / (DRAWS + 1))


def _shifted(z: float, bias: float, acceleration: float) -> float:
    """Return the level of the bootstrap distribution that stands for the normal quantile z, Efron (1987) eq. (6.8)."""
    return NORMAL.cdf(bias + (bias + z) / (1 - acceleration * (bias + z)))


def _drawn(n: int, draw: Callable[[np.random.Generator, int], np.ndarray]) -> np.ndarray:
    """Return `DRAWS` statistics of n values each, drawn in parts of bounded memory."""
    rng = np.random.default_rng(SEED)
    rows = max(1, AT_ONCE // n)
    return np.concatenate([draw(rng, min(rows, DRAWS - start)) for start in range(0, DRAWS, rows)])
