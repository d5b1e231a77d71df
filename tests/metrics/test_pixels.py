"""Checks of 8-bit images, and strips that cover every window once."""

import pytest
import torch

from resdiff.metrics.pixels import check_pair, check_pixels, crop, strips


@pytest.mark.parametrize("overlap", [0, 10])
@pytest.mark.parametrize("height", [11, 12, 40, 203])
def test_strips_hold_every_window_exactly_once(height, overlap):
    image = torch.arange(height * 7.0).reshape(1, 1, height, 7)
    starts = [x[..., : x.shape[-2] - overlap, :] for x, _ in strips(image, image, overlap=overlap, samples=7 * 16)]
    assert torch.equal(torch.cat(starts, dim=-2), image[..., : height - overlap, :])
    assert len(starts) == -(-(height - overlap) // 16)


def test_a_strip_is_at_least_as_high_as_its_overlap():
    wide = torch.zeros(1, 1, 30, 1000)
    assert [x.shape[-2] for x, _ in strips(wide, wide, overlap=10, samples=1)] == [20, 20]


@pytest.mark.parametrize(
    "x, message",
    [
        (torch.zeros(3, 8, 8), r"x is of shape \(3, 8, 8\)"),
        (torch.zeros(1, 4, 8, 8), "give \\(B, 3, H, W\\)"),
        (torch.zeros(0, 3, 8, 8), "shape"),
        (torch.full((1, 3, 8, 8), -1.0), "spans -1..-1"),
        (torch.full((1, 3, 8, 8), 256), "spans 256..256"),
        (torch.full((1, 3, 8, 8), float("nan")), "spans nan"),
    ],
)
def test_what_is_no_8_bit_image_is_refused(x, message):
    with pytest.raises(ValueError, match=message):
        check_pixels("x", x)


def test_pairs_have_one_shape_and_borders_leave_something():
    x = torch.zeros(1, 3, 8, 9)
    with pytest.raises(ValueError, match="must both be"):
        check_pair(x, x.mT)
    assert crop(x, 3).shape == (1, 3, 2, 3) and crop(x, 0).shape == x.shape
    for border in (-1, 4):
        with pytest.raises(ValueError, match=f"crop_border is {border}"):
            crop(x, border)
