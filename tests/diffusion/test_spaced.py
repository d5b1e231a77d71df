"""Stable Diffusion's noise levels and the timesteps of respaced chains are the published ones."""

import math
from itertools import pairwise

import pytest
import torch

from resdiff.diffusion.spaced import (
    ddim_timesteps,
    levels,
    published_ddim_levels,
    scaled_linear_betas,
    spaced_timesteps,
)

BOTH = [spaced_timesteps, ddim_timesteps]


def test_square_roots_of_the_betas_are_linear() -> None:
    betas = scaled_linear_betas()
    assert (len(betas), betas.dtype) == (1000, torch.float64)
    assert betas[0].item() == pytest.approx(0.00085, rel=1e-14) and betas[-1].item() == pytest.approx(0.012, rel=1e-14)
    middle = (math.sqrt(0.1) + 2 * math.sqrt(0.4)) / 3
    torch.testing.assert_close(scaled_linear_betas(0.1, 0.4, 4)[2].item(), middle**2, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [0]),
        (2, [0, 999]),
        (3, [0, 500, 999]),  # 499.5 goes to the even side
        (4, [0, 333, 666, 999]),
        (5, [0, 250, 500, 749, 999]),
        (7, [0, 166, 333, 500, 666, 832, 999]),  # 499.5 and 832.5
    ],
)
def test_timesteps_are_spaced_evenly_and_rounded_to_even(steps, expected) -> None:
    assert spaced_timesteps(steps) == expected


def test_a_stride_is_added_up_with_its_rounding_errors() -> None:
    """Ten times 49.95 in floating point is less than 499.5."""
    assert spaced_timesteps(21)[10] == 499


@pytest.mark.parametrize("total", [1, 2, 6, 97, 1000])
def test_every_chain_goes_over_distinct_timesteps_from_the_first_to_the_last(total) -> None:
    for steps in range(2, total + 1):
        kept = spaced_timesteps(steps, total)
        assert (kept[0], kept[-1], len(kept)) == (0, total - 1, steps)
        assert all(a < b for a, b in pairwise(kept))
        assert all(abs(t - i * (total - 1) / (steps - 1)) <= 0.5 + 1e-6 for i, t in enumerate(kept))
    assert spaced_timesteps(total, total) == list(range(total))


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, [0]), (4, [0, 250, 500, 750]), (5, [0, 200, 400, 600, 800]), (7, [0, 142, 284, 426, 568, 710, 852])],
)
def test_the_other_list_goes_by_whole_strides_and_has_no_surplus(steps, expected) -> None:
    assert ddim_timesteps(steps) == expected


def test_the_other_list_ends_far_below_the_first_where_it_loses_its_surplus() -> None:
    assert len(ddim_timesteps(600)) == 600 and ddim_timesteps(600)[-1] == 599
    assert spaced_timesteps(600)[-1] == 999


@pytest.mark.parametrize("list_of", BOTH)
@pytest.mark.parametrize("steps", [0, -3, 1001])
def test_an_impossible_number_of_steps_is_one_line(list_of, steps) -> None:
    with pytest.raises(ValueError, match=rf"num_inference_steps={steps} must lie between 1 and the 1000") as caught:
        list_of(steps)
    assert "\n" not in str(caught.value)


def test_a_chain_ends_at_the_image_and_the_published_ddim_before_it() -> None:
    alpha_bars = torch.tensor([0.9, 0.8, 0.6, 0.4, 0.3, 0.1], dtype=torch.float64)
    assert levels(alpha_bars, spaced_timesteps(3, 6)).tolist() == [1, 0.9, 0.6, 0.1]
    assert published_ddim_levels(alpha_bars, 3).tolist() == [0.9, 0.9, 0.6, 0.3]
    assert published_ddim_levels(alpha_bars, 4).tolist() == [0.9, 0.9, 0.8, 0.6, 0.4]  # of 0, 1, .. 5
