"""NIQE: the fit against distributions whose shape is known, invariances, and images that have no score."""

import math

import numpy as np
import pytest
import torch

from resdiff.metrics.niqe import _fit, _pristine, block_features, distance_to_pristine, luma_plane, niqe, normalized


def textured(*shape, seed=0):
    """Smoothed noise of a few scales, uint8."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(shape)
    for scale in (1, 3, 9):
        coarse = torch.randn(*shape[:2], -(-shape[2] // scale), -(-shape[3] // scale), generator=generator)
        x += torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bilinear") * scale**0.5
    return (128 + 25 * x).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_fit_finds_a_normal_distribution(scale):
    x = scale * torch.randn(2, 500, 500, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    alpha, left, right = _fit(x)
    assert alpha.tolist() == pytest.approx([2, 2], abs=0.03)
    # density exp(-(x / beta)^alpha): beta of a normal distribution is sqrt(2) of its deviation
    assert left.tolist() == pytest.approx([scale * math.sqrt(2)] * 2, rel=0.02)
    assert right.tolist() == pytest.approx([scale * math.sqrt(2)] * 2, rel=0.02)


def test_the_fit_finds_an_asymmetric_laplace_distribution():
    generator = torch.Generator().manual_seed(1)
    magnitude = -torch.rand(1, 700, 700, dtype=torch.float64, generator=generator).log()
    # scales 1 and 3, sides drawn in that proportion: the density has no step at 0
    negative = torch.rand(magnitude.shape, dtype=torch.float64, generator=generator) < 0.25
    alpha, left, right = _fit(torch.where(negative, -magnitude, 3 * magnitude))
    assert alpha.item() == pytest.approx(1, abs=0.03)
    assert (left.item(), right.item()) == (pytest.approx(1, rel=0.03), pytest.approx(3, rel=0.03))


def test_normalised_images_of_one_contrast_are_alike():
    x = 40 * torch.rand(64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    n = normalized(x + 100)
    assert torch.allclose(n, normalized(x), atol=1e-9)
    assert n.abs().max() < 4 and n.mean().abs() < 0.05
    assert torch.equal(normalized(torch.full((16, 16), 7.0, dtype=torch.float64)).abs() < 1e-9, torch.ones(16, 16) > 0)


def test_only_whole_blocks_count():
    x = textured(1, 3, 192, 288)
    wider = torch.cat([x, 255 - x[..., :95]], dim=-1)
    assert niqe(wider).item() == niqe(x).item()
    assert (
        niqe(textured(1, 3, 200, 296), crop_border=4).item() == niqe(textured(1, 3, 200, 296)[..., 4:-4, 4:-4]).item()
    )


def test_the_order_of_blocks_does_not_matter_and_pristine_statistics_are_at_distance_zero():
    mean, cov = _pristine()
    values, vectors = torch.linalg.eigh(cov)
    # points at +- each axis of the ellipsoid: this sample has exactly the pristine mean and covariance
    axes = vectors * (values.clamp(min=0) * (2 * 36 - 1) / 2).sqrt()
    sample = mean + torch.cat([axes.T, -axes.T])
    assert distance_to_pristine(sample).item() == pytest.approx(0, abs=1e-6)
    moved = sample + 0.1
    assert distance_to_pristine(moved).item() == pytest.approx(
        (0.01 * torch.linalg.pinv(cov).sum()).sqrt().item(), rel=1e-6
    )
    assert distance_to_pristine(moved.flip(0)).item() == pytest.approx(distance_to_pristine(moved).item(), rel=1e-9)


def test_every_image_has_its_own_value_and_lumas_differ():
    x = textured(2, 3, 192, 192)
    values = niqe(x)
    assert values.dtype == torch.float64 and values.tolist() == [niqe(x[:1]).item(), niqe(x[1:]).item()]
    assert 1e-4 < (niqe(x, luma="yiq") - values).abs().max() < 1


def test_grey_is_its_own_luma():
    grey = textured(1, 1, 192, 192)
    assert niqe(grey).item() == pytest.approx(niqe(grey, luma="yiq").item(), rel=1e-3)  # float32 moments
    assert niqe(grey, luma="yiq").item() == pytest.approx(
        niqe(grey.expand(1, 3, 192, 192), luma="yiq").item(), rel=1e-12
    )


def test_flat_blocks_are_left_out_and_a_flat_image_has_no_score():
    x = textured(1, 1, 192, 288)
    x[..., :110, :110] = 90  # the windows of the first block, at both scales, see nothing else
    features = block_features(x[0, 0].double())
    assert features.shape == (6, 36)
    assert features.isnan().any(dim=1).tolist() == [True] + [False] * 5
    assert niqe(x).isfinite()
    assert niqe(torch.full((1, 3, 192, 192), 90)).isnan()


def test_small_images_and_unknown_lumas_are_refused():
    with pytest.raises(ValueError, match="191x120 pixels are fewer than two blocks of 96x96"):
        niqe(torch.zeros(1, 3, 191, 120))
    with pytest.raises(ValueError, match="187x187 pixels"):
        niqe(torch.zeros(1, 3, 195, 195), crop_border=4)
    with pytest.raises(ValueError, match="luma is 'ycbcr'"):
        niqe(torch.zeros(1, 3, 192, 192), luma="ycbcr")


@pytest.mark.parametrize(("rgb", "rounded"), [((2, 44, 141), 52), ((5, 65, 25), 52), ((128, 128, 128), 126)])
def test_ties_of_bt601_luma_are_decided_as_in_float32(rgb, rounded):
    image = torch.tensor(rgb, dtype=torch.uint8)[None, :, None, None]
    r, g, b = (np.float64(np.float32(value) / np.float32(255)) for value in rgb)  # as BasicSR reads an image
    y = np.float32((65.481 * r + 128.553 * g + 24.966 * b + 16) / 255)
    assert luma_plane(image, "bt601").item() == np.round(y * np.float32(255)) == rounded
