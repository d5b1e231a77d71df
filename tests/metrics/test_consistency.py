"""Agreement with the LR: known shifts, an exact enlargement, and sizes that do not fit."""

import math

import pytest
import torch

from resdiff.metrics.consistency import color_shift, lr_consistency
from resdiff.metrics.psnr import psnr
from resdiff.resize import bicubic


def random_images(*shape, low=0, high=256):
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_shift_of_each_channel_is_measured_in_levels():
    lr = random_images(2, 3, 8, 10, low=60, high=190)
    shift = torch.tensor([[6, -3, 0], [0, 0, 30]]).reshape(2, 3, 1, 1)
    sr = lr.repeat_interleave(4, -1).repeat_interleave(4, -2).int() + shift
    base = color_shift(sr - shift, lr)
    assert base.max() < 0.5  # the mean moves a little at mirrored borders
    assert (color_shift(sr, lr) - torch.tensor([3.0, 10.0])).abs().max() < 0.5


def test_flat_images_have_closed_forms():
    lr = torch.full((1, 3, 5, 7), 100)
    sr = torch.full((1, 3, 15, 21), 104)
    assert color_shift(sr, lr).item() == pytest.approx(4, abs=1e-12)
    assert lr_consistency(sr, lr).item() == pytest.approx(20 * math.log10(255 / 4), abs=1e-9)


def test_shifts_of_opposite_sign_in_two_channels_do_not_cancel():
    lr = torch.full((1, 3, 4, 4), 100)
    sr = torch.full((1, 3, 8, 8), 100) + torch.tensor([9, -9, 0]).reshape(1, 3, 1, 1)
    assert color_shift(sr, lr).item() == pytest.approx(6, abs=1e-12)


def test_the_consistency_is_the_psnr_of_the_unrounded_reduction():
    hr = random_images(2, 3, 24, 32)
    reduced = bicubic(hr.double(), (6, 8), "matlab").clamp(0, 255)
    lr = reduced.round().to(torch.uint8)
    assert torch.allclose(lr_consistency(hr, lr), psnr(reduced, lr.double(), 0, y_channel=False), atol=1e-9)
    assert lr_consistency(hr, lr).min() > 57  # rounding alone: 58.9 dB
    assert lr_consistency(255 - hr, lr).max() < 20


def test_the_same_size_and_grey_are_fine():
    x = random_images(1, 1, 12, 9)
    assert color_shift(x, x).item() == 0 and lr_consistency(x, x).item() > 200


def test_a_value_does_not_depend_on_the_batch():
    lr, sr = random_images(3, 3, 8, 8), random_images(3, 3, 32, 32)
    assert lr_consistency(sr, lr).tolist() == [lr_consistency(sr[i : i + 1], lr[i : i + 1]).item() for i in range(3)]


@pytest.mark.parametrize(
    "sr, lr, message",
    [
        (torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 4, 5), "sr of 16x16 pixels is not lr of 4x5"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 8, 8), "sr of 4x4 pixels is not lr of 8x8"),
        (torch.zeros(2, 3, 8, 8), torch.zeros(1, 3, 4, 4), "give pairs"),
        (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 4, 4), "give pairs"),
        (torch.zeros(1, 3, 8, 8), torch.full((1, 3, 4, 4), 300), "lr spans 300"),
    ],
)
def test_bad_pairs_are_refused(sr, lr, message):
    for metric in (color_shift, lr_consistency):
        with pytest.raises(ValueError, match=message):
            metric(sr, lr)
