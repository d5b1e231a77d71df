"""Sliding windows against torch's convolution."""

import pytest
import torch
import torch.nn.functional as F

from resdiff.metrics.window import gaussian_window, window_mean


def test_a_gaussian_window_sums_to_one_and_falls_off_as_a_gaussian():
    window = gaussian_window(11, 1.5)
    assert sum(window) == pytest.approx(1, abs=1e-15) and window == window[::-1]
    assert window[6] / window[5] == pytest.approx(2.718281828459045 ** (-1 / 4.5), abs=1e-15)


@pytest.mark.parametrize("size", [3, 7])
def test_window_means_equal_a_convolution(size):
    x = torch.rand(2, 3, 12, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    window = gaussian_window(size, 1.2)
    kernel = torch.outer(*[torch.tensor(window, dtype=torch.float64)] * 2)[None, None]
    expected = F.conv2d(x.reshape(6, 1, 12, 17), kernel).reshape(2, 3, 13 - size, 18 - size)
    assert torch.allclose(window_mean(x, window), expected, atol=1e-14)
