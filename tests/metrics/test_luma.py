"""The two lumas against exact arithmetic."""

import pytest
import torch

from resdiff.metrics.luma import rgb_to_y, rgb_to_yiq_luma


def pixels(*colours, dtype=torch.uint8):
    return torch.tensor(colours, dtype=dtype).T.reshape(1, 3, 1, len(colours))


PRIMARIES = pixels([0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255])


def test_studio_swing_of_black_white_and_primaries():
    assert rgb_to_y(PRIMARIES).flatten().tolist() == [16, 235, 81, 145, 41]
    exact = torch.tensor([81.481, 144.553, 40.966], dtype=torch.float64)
    assert torch.allclose(rgb_to_y(PRIMARIES, round_y=False).flatten()[2:], exact)


def test_full_range_of_black_white_and_primaries():
    assert rgb_to_yiq_luma(PRIMARIES).flatten().tolist() == [0, 255, 76, 150, 29]
    exact = torch.tensor([0, 255, 76.245, 149.685, 29.07], dtype=torch.float64)
    assert torch.allclose(rgb_to_yiq_luma(PRIMARIES, round_y=False).flatten(), exact)


def test_studio_swing_is_rounded_half_up():
    # 65.481 R + 128.553 G + 24.966 B is an exact multiple of 255 / 2 here: Y = 81.5
    tie = next(
        (r, g, b) for r in range(256) for g in range(256) for b in range(0, 256)
        if (65481 * r + 128553 * g + 24966 * b) % 510000 == 127500
    )  # fmt: skip
    exact = (65481 * tie[0] + 128553 * tie[1] + 24966 * tie[2]) / 255000 + 16
    assert rgb_to_y(torch.tensor(tie).reshape(1, 3, 1, 1)).item() == exact + 0.5


def test_every_tie_of_the_full_range_is_rounded_half_up():
    values = torch.arange(256)
    colours = torch.cartesian_prod(values[::5], values, values[::5])
    thousandths = colours @ torch.tensor([299, 587, 114])
    ties = thousandths % 1000 == 500
    assert ties.sum() > 100
    x = colours[ties].T.reshape(1, 3, 1, -1)
    assert torch.equal(rgb_to_yiq_luma(x).flatten(), (thousandths[ties] // 1000 + 1).double())


def test_the_dtype_does_not_matter_and_the_image_is_left_alone():
    x = torch.randint(0, 256, (2, 3, 8, 9), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for luma in (rgb_to_y, rgb_to_yiq_luma):
        wide = x.double()
        assert torch.equal(luma(x), luma(wide)) and torch.equal(luma(x), luma(x.float()))
        assert torch.equal(wide, x.double()) and luma(x).dtype == torch.float64


def test_luma_needs_colour():
    for luma in (rgb_to_y, rgb_to_yiq_luma):
        with pytest.raises(ValueError, match="its own Y"):
            luma(torch.zeros(1, 1, 4, 4))
