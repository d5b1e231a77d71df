"""Sharpness and flat-area noise of noise, steps and gradients whose filtered deviation is known."""

import math

import pytest
import torch

from resdiff.metrics.texture import flat_noise, sharpness
from resdiff.metrics.window import gaussian_window


def noise(sigma, *shape, seed=0):
    return sigma * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def residual_gain():
    """Deviation of white noise of deviation 1 minus its 11x11 Gaussian blur."""
    g = gaussian_window(11, 1.5)
    return math.sqrt(1 - 2 * g[5] ** 2 + sum(w * w for w in g) ** 2)


def test_sharpness_of_white_noise_is_the_norm_of_the_filter():
    x = 128 + noise(5, 1, 1, 300, 300)
    assert sharpness(x).item() == pytest.approx(5 * math.sqrt(20), rel=0.02)


def test_sharpness_of_one_bright_pixel_is_exact():
    x = torch.zeros(1, 1, 7, 8)
    x[..., 3, 3] = 10  # the filter gives -40 once and 10 four times over 5 x 6 positions, of mean 0
    assert sharpness(x).item() == pytest.approx(math.sqrt((40**2 + 4 * 10**2) / 30), abs=1e-12)


def test_ramps_are_not_sharp_and_colour_counts_by_its_unrounded_luma():
    ramp = torch.arange(12.0).expand(1, 1, 9, 12)
    assert sharpness(ramp).item() == 0
    assert sharpness(ramp.expand(1, 3, 9, 12)).item() == pytest.approx(0, abs=1e-12)
    x = torch.zeros(1, 3, 7, 8)
    x[..., 3, 3] = 10
    assert sharpness(x).item() == pytest.approx(219 / 255 * math.sqrt(2000 / 30), abs=1e-12)


def test_flat_noise_of_white_noise_is_its_deviation_less_what_the_blur_keeps():
    hr = torch.full((1, 1, 300, 300), 120.0, dtype=torch.float64)
    assert residual_gain() == pytest.approx(0.945, abs=1e-3)
    for sigma in (1, 4):
        assert flat_noise(hr + noise(sigma, *hr.shape), hr).item() == pytest.approx(sigma * residual_gain(), rel=0.02)
    assert flat_noise(hr, hr).item() == pytest.approx(0, abs=1e-9)


def test_only_flat_parts_of_the_reference_count():
    hr = torch.full((1, 1, 60, 80), 120.0, dtype=torch.float64)
    hr[..., 40:] += noise(20, 1, 1, 60, 40).clamp(-100, 100)
    sr = hr.clone()
    sr[..., 50:] = 255 - sr[..., 50:]
    # windows that reach over the edge are not flat; the blur of flat pixels must not reach there either
    assert flat_noise(sr, hr).item() < 0.5
    sr[..., :30] += noise(3, 1, 1, 60, 30, seed=1)
    assert flat_noise(sr, hr).item() == pytest.approx(3 * residual_gain() * math.sqrt(25 / 31), rel=0.15)


def test_the_border_is_left_out():
    hr = torch.full((1, 1, 41, 41), 120.0)
    sr = hr.clone()
    sr[..., 20, 20] = 130
    g = gaussian_window(11, 1.5)
    kernel = -torch.outer(*[torch.tensor(g, dtype=torch.float64)] * 2)
    kernel[5, 5] += 1
    values = torch.zeros(31, 31, dtype=torch.float64)
    values[10:21, 10:21] = 10 * kernel
    assert flat_noise(sr, hr).item() == pytest.approx(values.std(correction=0).item(), abs=1e-12)


def test_an_image_without_a_flat_pixel_has_no_value():
    hr = torch.cat([(128 + noise(20, 1, 1, 40, 40)).clamp(0, 255), torch.full((1, 1, 40, 40), 9.0)])
    values = flat_noise(hr, hr)
    assert values.isnan().tolist() == [True, False]


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="2x5 pixels is too small, give at least 3x3"):
        sharpness(torch.zeros(1, 3, 2, 5))
    with pytest.raises(ValueError, match="give at least 11x11"):
        flat_noise(torch.zeros(1, 3, 10, 20), torch.zeros(1, 3, 10, 20))
