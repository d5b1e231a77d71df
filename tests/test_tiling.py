"""Tiles: covering, averaging, blending, and exactness where the halo covers the receptive field."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from resdiff.tiling import Box, Chop, Smooth, boxes, parse_chop, starts, tiled


def enlarge(x: Tensor, scale: int) -> Tensor:
    return x.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def test_starts_are_the_published_ones() -> None:
    assert starts(25, 16, 12) == [0, 9]  # 12 + 16 > 25 moves back to 9, 24 as well and is dropped
    assert starts(40, 16, 16) == [0, 16, 24]
    assert starts(16, 16, 12) == [0]
    assert starts(7, 16, 12) == [0]


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.data())
@settings(max_examples=60, deadline=None)
def test_every_pixel_is_covered_and_no_tile_leaves_the_canvas(height: int, width: int, size: int, data) -> None:
    stride = data.draw(st.integers(1, size))
    covered = torch.zeros(height, width)
    for box in boxes(height, width, size, stride):
        assert box.top + box.height <= height and box.left + box.width <= width
        box.crop(covered).add_(1)
    assert covered.min() >= 1


@pytest.mark.parametrize("tiling", [Chop(32, 28), Chop(16), Smooth(32, 8), Smooth(40, 24, 8), Smooth(40, 16, 8)])
@pytest.mark.parametrize("tile_batch", [1, 3])
def test_a_pointwise_function_is_unchanged_by_tiling(tiling: Chop | Smooth, tile_batch: int) -> None:
    x = torch.randn(2, 3, 101, 77)
    joined = tiled(lambda tiles, _: enlarge(tiles, 2) * 3, x, tiling, 2, tile_batch)
    torch.testing.assert_close(joined, enlarge(x, 2) * 3, atol=1e-5, rtol=1e-5)


def test_a_function_with_a_bounded_receptive_field_is_exact_when_the_halo_covers_it() -> None:
    kernel = torch.randn(1, 1, 7, 7)

    def blur(tiles: Tensor, _: list[Box]) -> Tensor:
        return F.conv2d(tiles, kernel, padding=3)  # zero padding: wrong within 3 px of an inner edge

    x = torch.randn(1, 1, 90, 70)
    torch.testing.assert_close(tiled(blur, x, Smooth(24, 8, 3)), blur(x, []), atol=1e-4, rtol=1e-4)
    assert (tiled(blur, x, Smooth(24, 8, 0)) - blur(x, [])).abs().max() > 0.1


def test_smooth_tiles_leave_no_step_where_their_levels_differ() -> None:
    def level(tiles: Tensor, group: list[Box]) -> Tensor:
        return torch.full_like(tiles, float(group[0].left))

    row = tiled(level, torch.zeros(1, 1, 8, 120), Smooth(40, 20))[0, 0, 0]
    averaged = tiled(level, torch.zeros(1, 1, 8, 120), Chop(40, 20))[0, 0, 0]
    assert row.diff().abs().max() <= 20 / 19
    assert averaged.diff().abs().max() >= 10


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 17"):
        Smooth(10, 16, 8)
    with pytest.raises(ValueError, match="stride"):
        Chop(10, 11)


def test_published_strides_and_their_scaling() -> None:
    assert [Chop(s).step for s in (512, 256, 64)] == [448, 224, 48]
    assert Chop(256).at_scale(1) == Chop(1024, 896)
    assert Chop(256).at_scale(4) == Chop(256, 224)


def test_the_published_tiling_has_a_spelling() -> None:
    assert parse_chop("reference") == Chop(512)
    assert parse_chop("reference:256") == Chop(256) and Chop(256).step == 224
    assert parse_chop("reference:64:64") == Chop(64, 64)
    assert parse_chop("reference:a") is None and parse_chop("auto") is None
