"""PSNR and the studio-swing luma against closed forms."""

import math

import pytest
import torch

from resdiff.metrics.psnr import psnr, rgb_to_y


def random_images(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_luma_of_black_white_and_primaries():
    colours = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=torch.uint8)
    x = colours.T.reshape(1, 3, 1, 5)
    assert rgb_to_y(x).flatten().tolist() == [16, 235, 81, 145, 41]
    assert torch.allclose(rgb_to_y(x, round_y=False).flatten()[2:], torch.tensor([81.481, 144.553, 40.966]).double())


def test_luma_is_rounded_half_up():
    # 65.481 R + 128.553 G + 24.966 B is an exact multiple of 255 / 2 here: Y = 81.5
    tie = next(
        (r, g, b) for r in range(256) for g in range(256) for b in range(0, 256)
        if (65481 * r + 128553 * g + 24966 * b) % 510000 == 127500
    )  # fmt: skip
    exact = (65481 * tie[0] + 128553 * tie[1] + 24966 * tie[2]) / 255000 + 16
    assert rgb_to_y(torch.tensor(tie).reshape(1, 3, 1, 1)).item() == exact + 0.5


def test_constant_difference_has_a_closed_form():
    hr = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    sr = hr + 10
    assert psnr(sr, hr, 0, y_channel=False).item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-12)
    assert psnr(sr, hr, 0, round_y=False).item() == pytest.approx(20 * math.log10(255 / (10 * 219 / 255)), abs=1e-12)
    assert psnr(sr, hr, 0).item() == pytest.approx(20 * math.log10(255 / 8), abs=1e-12)  # Y 101.88, 110.47 -> 102, 110


def test_grey_images_are_their_own_luma():
    hr = torch.full((1, 1, 16, 16), 100, dtype=torch.uint8)
    assert psnr(hr + 10, hr, 4).item() == pytest.approx(20 * math.log10(255 / 10), abs=1e-12)


def test_every_image_has_its_own_value_and_identical_ones_are_infinite():
    hr = random_images(3, 3, 12, 14)
    sr = random_images(3, 3, 12, 14).flip(-1)
    sr[1] = hr[1]
    values = psnr(sr, hr, 2)
    assert values.shape == (3,) and values.dtype == torch.float64 and values[1] == math.inf
    assert values[2] == psnr(sr[2:], hr[2:], 2)[0]


def test_order_and_dtype_do_not_matter():
    sr, hr = random_images(2, 3, 20, 20).split(1)
    assert psnr(sr, hr, 4) == psnr(hr, sr, 4) == psnr(sr.float(), hr.float(), 4)


def test_only_the_border_is_cropped():
    hr = random_images(1, 3, 20, 24)
    sr = hr.clone()
    sr[..., :4, :] = sr[..., -4:, :] = 255 - hr[..., :4, :]
    sr[..., :4] = sr[..., -4:] = 255 - hr[..., :4]
    assert psnr(sr, hr, 4).item() == math.inf
    assert psnr(sr, hr, 3).item() < 40


@pytest.mark.parametrize(
    "sr, hr, crop, message",
    [
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9), 0, "must both be"),
        (torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), 0, "must both be"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), 4, "crop_border is 4"),
        (torch.full((1, 3, 8, 8), -1.0), torch.zeros(1, 3, 8, 8), 0, "sr spans -1"),
    ],
)
def test_bad_pairs_are_refused(sr, hr, crop, message):
    with pytest.raises(ValueError, match=message):
        psnr(sr, hr, crop)


def test_luma_needs_colour():
    with pytest.raises(ValueError, match="its own Y"):
        rgb_to_y(torch.zeros(1, 1, 4, 4))
