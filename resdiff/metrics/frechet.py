"""FID and KID: how far apart two sets of images are, from features of each image (`resdiff.metrics.inception`).

Frechet distance of Gaussians: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 1706.08500, as
GaParmar/clean-fid computes it (covariance over N - 1). Difference: the trace of (S1 S2)^(1/2) is the sum of the singular
values of A B^T, where A^T A = S1 and B^T B = S2; those are the roots of the eigenvalues of S1^(1/2) S2 S1^(1/2), but no
root of a rounding error is ever taken, which is what costs `sqrtm` its digits when there are fewer images than features.
KID: Binkowski et al., "Demystifying MMD GANs", 1801.01401, the unbiased estimate over all images at once.

With fewer than 2048 images FID is strongly biased upwards: compare only sets of equal size.
"""

import torch
from torch import Tensor


def frechet_distance(features_a: Tensor, features_b: Tensor) -> Tensor:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of the means and covariances of two sets; symmetric.

    Args:
        features_a: (N, D), one row per image.
        features_b: (M, D).

    Returns:
        () float64, 0 for equal sets.

    Raises:
        ValueError: fewer than 2 images in a set, or different D.
    """
    a, b = _checked_sets(features_a, features_b)
    return _distance(a.mean(dim=0), _root_of_features(a), b.mean(dim=0), _root_of_features(b))


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and the covariance (D, D) over N - 1 of (N, D) features, float64: all that FID keeps of a set.

    Raises ValueError for fewer than 2 images.
    """
    x = _checked_set("features", features)
    mean = x.mean(dim=0)
    centred = x - mean
    return mean, centred.T @ centred / (len(x) - 1)


def frechet_from_moments(mean_a: Tensor, covariance_a: Tensor, mean_b: Tensor, covariance_b: Tensor) -> Tensor:
    """Return `frechet_distance` of two sets of which only the `moments` are known, () float64.

    Raises ValueError unless the means are (D,) and the covariances (D, D).
    """
    size = len(mean_a) if mean_a.ndim == 1 else 0
    if mean_b.shape != (size,) or covariance_a.shape != (size, size) or covariance_b.shape != (size, size):
        shapes = [tuple(x.shape) for x in (mean_a, covariance_a, mean_b, covariance_b)]
        raise ValueError(f"moments have the shapes {shapes}; give (D,), (D, D), (D,), (D, D)")
    root_a, root_b = _root_of_covariance(covariance_a.double()), _root_of_covariance(covariance_b.double())
    return _distance(mean_a.double(), root_a, mean_b.double(), root_b)


def kid(features_a: Tensor, features_b: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, over all pairs; may be below 0.

    Args:
        features_a: (N, D), one row per image.
        features_b: (M, D).

    Returns:
        () float64.

    Raises:
        ValueError: fewer than 2 images in a set, or different D.
    """
    a, b = _checked_sets(features_a, features_b)
    return _mean_off_diagonal(_kernel(a, a)) + _mean_off_diagonal(_kernel(b, b)) - 2 * _kernel(a, b).mean()


def _distance(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> Tensor:
    cross = torch.linalg.svdvals(root_a @ root_b.T).sum()
    squares = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum()
    return (squares - 2 * cross).clamp(min=0)


def _root_of_features(x: Tensor) -> Tensor:
    """Return A, (min(N, D), D), whose A^T A is the covariance of the rows of x (N, D)."""
    a = (x - x.mean(dim=0)) / (len(x) - 1) ** 0.5
    return a if len(x) <= x.shape[1] else torch.linalg.qr(a, mode="r").R


def _root_of_covariance(covariance: Tensor) -> Tensor:
    """Return A, (rank, D), with A^T A = covariance; eigenvalues that are rounding errors of zero do not count."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
    return (vectors[:, kept] * values[kept].sqrt()).T


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _mean_off_diagonal(k: Tensor) -> Tensor:
    n = len(k)
    return (k.sum() - k.diagonal().sum()) / (n * (n - 1))


def _checked_sets(features_a: Tensor, features_b: Tensor) -> tuple[Tensor, Tensor]:
    a, b = _checked_set("features_a", features_a), _checked_set("features_b", features_b)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features_a have {a.shape[1]} numbers per image and features_b {b.shape[1]}; use one network")
    return a, b


def _checked_set(name: str, features: Tensor) -> Tensor:
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} has the shape {tuple(features.shape)}; give (N, D) with at least 2 images")
    if not features.isfinite().all():
        raise ValueError(f"{name} holds NaN or Inf; look for the image that gave it")
    return features.double()
