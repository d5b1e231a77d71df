"""The figures of luma planes that the promises stand on, with numbers that can be worked out."""

import math

import pytest
import torch

from resdiff.eval.promises.planes import (
    blocking,
    blurred,
    correlation,
    flat_share,
    grid_excess,
    has_flat_noise,
    linear_filter_share,
    luma_plane,
    rises,
    unsharp_mask,
    unsharp_mask_of_sharpness,
)
from resdiff.metrics.texture import laplacian


def noise(height: int = 48, width: int = 56, seed: int = 0) -> torch.Tensor:
    return 128 + 20 * torch.randn(height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sharpness(y: torch.Tensor) -> float:
    return float(laplacian(y[None, None]).std(correction=0))


def test_a_grey_image_is_its_own_luma_and_white_is_235() -> None:
    grey = torch.full((1, 4, 4), 200, dtype=torch.uint8)
    assert luma_plane(grey).unique().tolist() == [200.0]
    assert luma_plane(torch.full((3, 4, 4), 255, dtype=torch.uint8)).mean() == pytest.approx(235.0)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.0])
def test_a_blur_spreads_a_point_by_its_sigma(sigma: float) -> None:
    point = torch.zeros(41, 41, dtype=torch.float64)
    point[20, 20] = 1
    spread = blurred(point, sigma)
    offsets = torch.arange(41, dtype=torch.float64) - 20
    assert spread.sum() == pytest.approx(1)
    assert math.sqrt(float((spread.sum(0) * offsets**2).sum())) == pytest.approx(sigma, rel=2e-3)


def test_an_unsharp_mask_overshoots_a_step_by_its_amount_times_half_of_it() -> None:
    step = torch.zeros(3, 20, 60, dtype=torch.float64)
    step[..., 30:] = 100
    masked = unsharp_mask(step, 2.0, 1.5)
    centre = float(blurred(step, 2.0)[0, 10, 30])
    assert float(masked[0, 10, 30]) == pytest.approx(100 + 1.5 * (100 - centre))
    assert torch.equal(masked[..., :10], step[..., :10])  # farther than four sigmas


def test_an_unsharp_mask_of_amount_zero_changes_nothing() -> None:
    assert torch.equal(unsharp_mask(noise(), 1.0, 0.0), noise())


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.7])
def test_an_unsharp_mask_meets_the_sharpness_it_is_asked_for(factor: float) -> None:
    y = blurred(noise(), 1.0)
    wanted = factor * sharpness(y)
    assert sharpness(unsharp_mask_of_sharpness(y, 1.5, wanted)) == pytest.approx(wanted)


def test_an_unsharp_mask_leaves_a_constant_plane_alone() -> None:
    y = torch.full((20, 20), 7.0, dtype=torch.float64)
    assert torch.equal(unsharp_mask_of_sharpness(y, 1.0, 3.0), y)


def test_correlation_ignores_scale_and_offset_and_is_undefined_for_a_constant() -> None:
    a, b = noise(seed=0), noise(seed=1)
    assert correlation(a, 3 * a + 5) == pytest.approx(1)
    assert correlation(a, -a) == pytest.approx(-1)
    assert abs(correlation(a, b)) < 0.1
    assert correlation(a + b, a) == pytest.approx(1 / math.sqrt(2), abs=0.05)
    assert math.isnan(correlation(a, torch.ones_like(a)))


def test_a_linear_filter_of_the_plane_is_explained_by_a_linear_filter() -> None:
    y = noise(150, 70)
    assert linear_filter_share(y, unsharp_mask(y, 1.0, 2.0) - y) == pytest.approx(1, abs=1e-6)
    assert linear_filter_share(y, y.roll((3, -4), (0, 1)) + 9) == pytest.approx(1)


def test_other_changes_are_not_explained_by_a_linear_filter() -> None:
    y = noise(150, 70)
    independent = noise(150, 70, seed=1)
    assert linear_filter_share(y, independent) < 82 / (142 * 62) * 2  # what 81 taps fit by chance
    assert linear_filter_share(y, (y - 128) + (independent - 128)) == pytest.approx(0.5, abs=0.05)
    assert linear_filter_share(y, (y - 128).abs()) < 0.1
    assert linear_filter_share(y, y.roll(5, 1)) < 0.05  # beyond the reach of nine taps


def test_the_explained_share_of_no_change_is_undefined() -> None:
    assert math.isnan(linear_filter_share(noise(), torch.zeros(48, 56, dtype=torch.float64)))


def test_blocks_show_as_the_ratio_of_the_steps_across_the_grid() -> None:
    ramp = torch.arange(64, dtype=torch.float64).expand(64, 64)  # steps of 1 in one direction, of 0 in the other
    assert blocking(ramp, 16) == pytest.approx(1)
    blocks = ramp + ramp.T + 4 * (torch.arange(64) // 16)[None, :] + 4 * (torch.arange(64) // 16)[:, None]
    assert blocking(blocks, 16) == pytest.approx(5)
    assert blocking(blocks[3:, 3:], 16) < 1  # a grid elsewhere is not the one of these blocks


def test_blocking_is_undefined_without_steps_or_grid() -> None:
    assert math.isnan(blocking(torch.ones(64, 64, dtype=torch.float64), 16))
    assert math.isnan(blocking(noise(16, 16), 32))


def pattern(period: int) -> torch.Tensor:
    """A sine of that wavelength in both directions, of power 100."""
    wave = math.sqrt(2) * torch.cos(2 * math.pi * (torch.arange(96, dtype=torch.float64) / period + 1 / 8))
    return 10 * wave[:, None] * wave


@pytest.mark.parametrize("period", [4, 2])
def test_a_grid_of_the_period_or_its_harmonics_exceeds_hr_by_its_power(period: int) -> None:
    hr = noise(96, 96)
    assert grid_excess(hr, hr, 4) == 1
    assert grid_excess(hr + pattern(period), hr, 4) > 10
    assert grid_excess(2 * hr, hr, 4) == pytest.approx(4, rel=0.01)


def test_other_patterns_and_levels_are_no_grid() -> None:
    hr = noise(96, 96)
    assert grid_excess(hr + pattern(8) + 50, hr, 4) < 1.5
    assert grid_excess(torch.full_like(hr, 9.0), hr, 4) < 0.01
    assert grid_excess(torch.full_like(hr, 9.0), torch.zeros_like(hr), 4) == 1  # rounding alone


def test_a_grid_is_undefined_in_less_than_eight_periods() -> None:
    assert math.isnan(grid_excess(noise(31, 96), noise(31, 96), 4))


def test_flat_noise_is_judged_only_where_enough_is_flat_but_not_exactly() -> None:
    random = torch.Generator().manual_seed(0)
    rough = torch.randint(0, 256, (1, 64, 64), dtype=torch.uint8, generator=random)
    constant = torch.full((1, 64, 64), 90, dtype=torch.uint8)
    grainy = constant + torch.randint(0, 4, (1, 64, 64), dtype=torch.uint8, generator=random)
    assert (flat_share(rough), flat_share(constant), flat_share(grainy)) == (0, 1, 1)
    assert [has_flat_noise(image) for image in (rough, constant, grainy)] == [False, False, True]


def test_values_rise_by_their_smallest_step() -> None:
    assert rises([1.0, 1.5, 3.0]) == 0.5
    assert rises([1.0, 1.0, 3.0]) == 0
    assert rises([1.0, 3.0, 2.0]) == -1
