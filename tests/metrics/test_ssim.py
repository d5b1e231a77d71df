"""SSIM against closed forms and a direct window-by-window computation."""

import math

import pytest
import torch

from resdiff.metrics.luma import rgb_to_y
from resdiff.metrics.ssim import ssim


def random_images(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def direct_ssim(x, y, clamp=False):
    """Mean over all 11x11 windows of two (H, W) planes, each window's moments taken by themselves."""
    g = torch.tensor([math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-5, 6)], dtype=torch.float64)
    window = torch.outer(g, g) / g.sum() ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11].double(), y[i : i + 11, j : j + 11].double()
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb = (window * (a - ma) ** 2).sum(), (window * (b - mb) ** 2).sum()
            cov = (window * (a - ma) * (b - mb)).sum()
            structure = (2 * cov + 58.5225) / (va + vb + 58.5225)
            structure = structure.clamp(min=0) if clamp else structure
            values.append((2 * ma * mb + 6.5025) / (ma**2 + mb**2 + 6.5025) * structure)
    return torch.stack(values).mean().item()


def test_identical_images_score_one():
    x = random_images(2, 3, 24, 19)
    assert torch.allclose(ssim(x, x, 4), torch.ones(2, dtype=torch.float64), atol=1e-12)


def test_flat_images_have_a_closed_form():
    x, y = torch.full((1, 1, 16, 16), 50.0), torch.full((1, 1, 16, 16), 80.0)
    assert ssim(x, y, 0).item() == pytest.approx((2 * 50 * 80 + 6.5025) / (50**2 + 80**2 + 6.5025), abs=1e-9)


def test_luma_equals_the_direct_computation():
    sr, hr = random_images(2, 3, 22, 25).split(1)
    expected = direct_ssim(rgb_to_y(sr)[0, 0, 4:-4, 4:-4], rgb_to_y(hr)[0, 0, 4:-4, 4:-4])
    assert ssim(sr, hr, 4).item() == pytest.approx(expected, abs=1e-10)
    unrounded = direct_ssim(rgb_to_y(sr, round_y=False)[0, 0], rgb_to_y(hr, round_y=False)[0, 0])
    assert ssim(sr, hr, 0, round_y=False).item() == pytest.approx(unrounded, abs=1e-10)


def test_rgb_is_the_mean_over_channels_and_grey_is_its_own_luma():
    sr, hr = random_images(2, 3, 13, 14).split(1)
    channels = [direct_ssim(sr[0, c], hr[0, c]) for c in range(3)]
    assert ssim(sr, hr, 0, y_channel=False).item() == pytest.approx(sum(channels) / 3, abs=1e-10)
    assert ssim(sr[:, 1:2], hr[:, 1:2], 0).item() == pytest.approx(channels[1], abs=1e-10)


def test_order_does_not_matter_and_every_image_has_its_own_value():
    sr, hr = random_images(4, 3, 20, 20).split(2)
    values = ssim(sr, hr, 4)
    assert values.shape == (2,) and torch.allclose(values, ssim(hr, sr, 4), atol=1e-12)
    assert torch.allclose(values[1], ssim(sr[1:], hr[1:], 4)[0], atol=1e-12)


def test_an_inverted_image_scores_below_zero():
    x = random_images(1, 1, 32, 32)
    assert ssim(255 - x, x, 0).item() < -0.5


def test_too_small_images_are_refused():
    x = random_images(1, 3, 18, 30)
    with pytest.raises(ValueError, match="10x22 pixels are left"):
        ssim(x, x, 4)


def test_clamp_counts_negative_structure_as_zero():
    sr, hr = random_images(2, 1, 24, 24).split(1)
    assert ssim(sr, hr, 0, clamp=True).item() == pytest.approx(direct_ssim(sr[0, 0], hr[0, 0], clamp=True), abs=1e-10)
    assert ssim(sr, hr, 0, clamp=True) > ssim(sr, hr, 0) + 0.01
    assert ssim(255 - hr, hr, 0, clamp=True).item() < 0.01


def test_a_tall_image_is_the_sum_of_its_strips():
    sr, hr = random_images(2, 1, 700, 400).split(1)  # 3 strips
    direct = ssim(sr[..., :400, :], hr[..., :400, :], 0) * 390 + ssim(sr[..., 390:, :], hr[..., 390:, :], 0) * 300
    assert ssim(sr, hr, 0).item() == pytest.approx(direct.item() / 690, abs=1e-12)


def test_a_value_does_not_depend_on_the_batch():
    sr, hr = random_images(6, 3, 90, 70).split(3)
    for y_channel in (True, False):
        singly = [ssim(s, h, 0, y_channel).item() for s, h in zip(sr.split(1), hr.split(1), strict=True)]
        assert ssim(sr, hr, 0, y_channel).tolist() == singly
