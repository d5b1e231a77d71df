"""Depthwise filtering of ragged batches, and unsharp masking."""

import pytest
import torch
import torch.nn.functional as F

from resdiff.data.degradation import filters
from resdiff.data.degradation.filters import filter2d, usm_sharpen
from resdiff.data.degradation.kernels import delta_kernel, gaussian_kernel
from resdiff.data.degradation.ragged import Ragged


def images(*sizes: tuple[int, int]) -> Ragged:
    """Random images of these sizes."""
    generator = torch.Generator().manual_seed(0)
    canvas = torch.rand(len(sizes), 3, max(h for h, _ in sizes), max(w for _, w in sizes), generator=generator)
    return Ragged(canvas, sizes).map(lambda pixels: pixels)


def kernels(count: int, k: int) -> torch.Tensor:
    random = torch.rand(count, k, k, generator=torch.Generator().manual_seed(1))
    return random / random.sum((1, 2), keepdim=True)


def convolved(image: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """One image (C, h, w) by one kernel, by torch's convolution in float64."""
    margin = kernel.shape[-1] // 2
    padded = F.pad(image[:, None].double(), (margin,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.double()[None, None])[:, 0].float()


@pytest.fixture(params=["direct", "fft"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute the same: directly, as for images of a test's size, and by FFT."""
    if request.param == "fft":
        monkeypatch.setattr(filters, "DIRECT", 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("k", [1, 3, 7, 21])
@pytest.mark.parametrize("sizes", [[(32, 32)] * 3, [(25, 31), (40, 17), (11, 64)]])
def test_each_image_is_correlated_with_its_own_kernel(k, sizes):
    x, own = images(*sizes), kernels(3, k)
    y = filter2d(x, own)
    assert y.sizes == x.sizes
    for i in range(3):
        torch.testing.assert_close(y.image(i), convolved(x.image(i), own[i]), rtol=0, atol=2e-6)
    assert y.pixels.where(x.mask(), 0.0).equal(y.pixels)


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("height", [1, 7, 33])
def test_the_direct_way_equals_torchs_convolution_to_the_last_bit(count, height):
    x, own = images(*[(height, 40)] * count), kernels(count, 11)
    padded = filters._reflect_pad(x, 5)
    expected = F.conv2d(
        padded.reshape(1, -1, *padded.shape[-2:]),
        own[:, None].repeat_interleave(3, 0),
        groups=3 * count,
    )
    assert torch.equal(filter2d(x, own).pixels, expected.view(count, 3, height, 40))


def test_large_windows_on_large_images_go_by_fft(monkeypatch):
    calls = []
    monkeypatch.setattr(filters, "_convolved_by_fft", lambda padded, k: calls.append(k) or padded[..., 50:, 50:])
    filter2d(Ragged.of(torch.rand(1, 1, 170, 170)), kernels(1, 51))
    filter2d(Ragged.of(torch.rand(1, 1, 64, 64)), kernels(1, 51))
    assert len(calls) == 1


@pytest.mark.usefixtures("way")
def test_one_kernel_serves_all_images():
    x, kernel = images((20, 30), (25, 25)), kernels(1, 5)
    assert torch.equal(filter2d(x, kernel).pixels, filter2d(x, kernel[0]).pixels)
    assert torch.equal(filter2d(x, kernel).pixels, filter2d(x, kernel.expand(2, -1, -1)).pixels)


@pytest.mark.usefixtures("way")
def test_the_kernel_is_not_flipped():
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    kernel = kernels(1, 3)
    torch.testing.assert_close(filter2d(Ragged.of(point), kernel).pixels[0, 0, 3:6, 3:6], kernel[0].flip(0, 1))


@pytest.mark.usefixtures("way")
def test_a_delta_changes_nothing():
    x = images((13, 40), (50, 9))
    torch.testing.assert_close(filter2d(x, delta_kernel(21)).pixels, x.pixels, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("way")
def test_an_image_smaller_than_the_kernel_is_mirrored_to_and_fro():
    image = torch.arange(3.0).expand(1, 1, 1, 3)
    weights = torch.zeros(7, 7)
    weights[3, 0] = 1  # takes the pixel three to the left: of 2 1 0 1 2 1 0 ...
    assert filter2d(Ragged.of(image), weights).pixels.round().flatten().tolist() == [1, 2, 1]


def test_a_mean_survives_at_the_borders():
    flat = torch.full((1, 3, 20, 33), 0.7)
    torch.testing.assert_close(filter2d(Ragged.of(flat), gaussian_kernel(21, "iso", 3.0)).pixels, flat)


@pytest.mark.usefixtures("way")
def test_autocast_does_not_change_the_result():
    x, own = images((20, 30), (25, 25)), kernels(2, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = filter2d(x, own).pixels
    assert torch.equal(inside, filter2d(x, own).pixels)


@pytest.mark.parametrize("shape", [(2, 4, 4), (3, 5, 5), (1, 5, 7), (1, 1, 5, 5)])
def test_kernels_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="odd k"):
        filter2d(images((8, 8), (8, 8)), torch.ones(shape))


def test_sharpening_is_its_formula():
    x = images((64, 72)).pixels
    window = torch.exp(-((torch.arange(51, dtype=torch.float64) - 25) ** 2) / (2 * 8.0**2))
    window = torch.outer(window, window) / window.sum() ** 2
    blurred = convolved(x[0], window)
    residual = x[0] - blurred
    soft = convolved((residual.abs() * 255 > 10).float(), window)
    expected = soft * (x[0] + 0.5 * residual).clamp(0, 1) + (1 - soft) * x[0]
    torch.testing.assert_close(usm_sharpen(x)[0], expected, rtol=0, atol=5e-6)


def test_sharpening_leaves_flat_pictures_and_the_range_alone():
    flat = torch.full((1, 3, 40, 40), 0.4)
    torch.testing.assert_close(usm_sharpen(flat), flat)
    edge = (torch.arange(60) > 30).float().expand(1, 3, 60, 60)
    sharp = usm_sharpen(edge, weight=3.0)
    assert sharp.min() >= 0 and sharp.max() <= 1


def test_an_even_window_gets_one_more_pixel():
    x = images((64, 64)).pixels
    assert torch.equal(usm_sharpen(x, radius=50), usm_sharpen(x, radius=51))


def test_a_higher_threshold_sharpens_less():
    x = images((64, 64)).pixels * 0.2 + 0.4
    assert (usm_sharpen(x, threshold=60.0) - x).abs().max() < 1e-6 < (usm_sharpen(x) - x).abs().max()
