"""What the page of a benchmark is made of: places worth a look, pictures within a budget, plots."""

import re

import numpy as np
import pytest

from resdiff.eval.harness.page.crops import box_mean, place
from resdiff.eval.harness.page.pictures import data_uri, shared_limit, within
from resdiff.eval.harness.page.plots import Axis, Point, scatter, tick_label, ticks

from .conftest import decoded

# --- where to look


def test_the_square_is_where_the_images_differ_most() -> None:
    base = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    other = base.copy()
    other[40:60, 72:88] //= 2
    top, left, height, width = place([base, base, other], side=20)
    assert (abs(top - 40) <= 1, abs(left - 70) <= 2, height, width) == (True, True, 20, 20)
    top, left, _, _ = place([base, other], side=24, step=8)
    assert top % 8 == left % 8 == 0
    assert top <= 40 < 60 <= top + 24 and left <= 72 < 88 <= left + 24


def test_equal_images_are_looked_at_in_the_middle_and_small_ones_whole() -> None:
    grey = np.full((64, 100, 3), 90, dtype=np.uint8)
    assert place([grey, grey], side=32) == (16, 34, 32, 32)
    assert place([grey[:10, :12], grey[:10, :12]], side=32) == (0, 0, 10, 12)


def test_a_single_image_is_looked_at_where_its_contrast_is_largest() -> None:
    image = np.full((60, 60, 3), 200, dtype=np.uint8)
    image[30:50, 10:30][::2] = 0
    top, left, _, _ = place([image], side=20)
    assert abs(top - 30) <= 1 and left == 10


def test_images_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="same size"):
        place([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)])


def test_box_means_are_those_of_every_window() -> None:
    values = np.random.default_rng(0).random((9, 7))
    windows = np.lib.stride_tricks.sliding_window_view(values, (4, 3))
    np.testing.assert_allclose(box_mean(values, 4, 3), windows.mean((-2, -1)), rtol=1e-12)


# --- pictures


def test_small_pictures_leave_their_share_to_large_ones() -> None:
    assert shared_limit([10, 100, 100], 110) == 50
    assert shared_limit([10, 20], 30) == float("inf")
    assert shared_limit([40, 40], 40) == 20


def test_pictures_stay_below_the_budget_however_badly_they_compress() -> None:
    noise = [np.random.default_rng(i).integers(0, 256, (200, 200, 3), dtype=np.uint8) for i in range(3)]
    budget = 60_000
    uris, limit = within(budget, [40_000] * 3, lambda limit: [[data_uri(n, pixels=limit)] for n in noise])
    used = sum(len(uri) for [uri] in uris)
    assert 0.3 * budget < used <= budget
    assert limit < 40_000


def test_a_lossless_picture_comes_back_as_it_was() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    assert (decoded(data_uri(image, lossless=True)) == image).all()


# --- plots


def test_ticks_are_round_and_inside() -> None:
    assert ticks(24.3, 31.2) == [26, 28, 30]
    assert [tick_label(v, 0.2) for v in ticks(0.05, 1.0)] == ["0.2", "0.4", "0.6", "0.8", "1.0"]
    assert ticks(0.008, 3.0, log=True) == pytest.approx([0.01, 0.1, 1.0])
    assert ticks(0.9, 6.0, log=True) == pytest.approx([1, 2, 5])
    for low in (1e-4, 0.3, 7, 5e3):
        assert 2 <= len(ticks(low, 1.7 * low)) <= 7


def test_a_plot_names_its_points_and_says_what_is_better() -> None:
    points = [
        Point(label="a <b>", style=0, x=1.0, y=2.0, x_interval=(0.5, 1.5)),
        Point(label="other steps=4", style=1, x=3.0, y=1.0),
    ]
    svg = str(
        scatter(points, Axis(label="PSNR", better="higher"), Axis(label="NIQE", better="lower"), "NIQE over PSNR")
    )
    at = [tuple(map(float, m)) for m in re.findall(r'<g transform="translate\(([\d.]+) ([\d.]+)\)">', svg)]
    assert at[0][0] < at[1][0] and at[0][1] < at[1][1]  # y grows downwards
    assert "a &lt;b&gt;" in svg and "<b>" not in svg
    assert re.findall(r"<tspan[^>]*>([^<]*)</tspan>", svg)[-2:] == ["other", "steps=4"]
    assert "PSNR (better →)" in svg and "NIQE (better ↓)" in svg and ">↘<" in svg
    assert 'aria-label="NIQE over PSNR"' in svg
    assert len(re.findall('class="whisker', svg)) == 1


def test_a_tenfold_cost_is_as_far_anywhere_on_a_logarithmic_axis() -> None:
    points = [Point(label=str(x), style=0, x=x, y=1.0) for x in (0.01, 0.1, 1.0)]
    svg = str(scatter(points, Axis(label="s", better="lower", log=True), Axis(label="q", better="none"), "t"))
    x = [float(m) for m in re.findall(r'<g transform="translate\(([\d.]+)', svg)]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)
