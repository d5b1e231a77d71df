"""PSNR against closed forms."""

import math

import pytest
import torch

from resdiff.metrics.psnr import psnr


def random_images(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


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


def test_eps_counts_in_units_of_the_full_range():
    hr = random_images(1, 3, 16, 16)
    assert psnr(hr, hr, 0, eps=1e-8).item() == pytest.approx(80, abs=1e-12)
    sr = 255 - hr
    mse = (sr.double() - hr.double()).square().mean().item()
    expected = 10 * math.log10(255**2 / (mse + 0.01 * 255**2))
    assert psnr(sr, hr, 0, y_channel=False, eps=0.01).item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(ValueError, match="eps is -1"):
        psnr(sr, hr, 0, eps=-1)


@pytest.mark.parametrize("y_channel", [False, True])
def test_large_images_have_no_rounding_error(y_channel):
    hr = torch.zeros(2, 3, 700, 900, dtype=torch.uint8)  # several strips, squares of 255 sum far beyond float32
    sr = hr + torch.tensor([255, 3], dtype=torch.uint8).reshape(2, 1, 1, 1)
    sr[..., ::7] = 0
    share = sr[0, 0, 0].count_nonzero().item() / 900
    levels = [219, 3] if y_channel else [255, 3]
    expected = [10 * math.log10(255**2 / (level**2 * share)) for level in levels]
    assert psnr(sr, hr, 0, y_channel).tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("y_channel", [False, True])
def test_a_value_does_not_depend_on_the_batch(y_channel):
    sr, hr = random_images(6, 3, 123, 257).split(3)
    for options in ({}, {"round_y": False}):
        values = psnr(sr, hr, 0, y_channel, **options)
        singly = [psnr(s, h, 0, y_channel, **options).item() for s, h in zip(sr.split(1), hr.split(1), strict=True)]
        assert values.tolist() == singly
