"""Resizing each image of a batch to its own size by its own method."""

import pytest
import torch
import torch.nn.functional as F

from resdiff.data.degradation import resample
from resdiff.data.degradation.ragged import Ragged
from resdiff.data.degradation.resample import MODES, resize, scaled

INTERPOLATED = ["area", "bilinear", "bicubic"]


def batch(count: int, height: int, width: int) -> Ragged:
    return Ragged.of(torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(params=["torch", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute the same: torch's own where all images are alike, and the weight matrices."""
    if request.param == "products":
        monkeypatch.setattr(resample, "_is_plain", lambda *_: False)
    return request.param


@pytest.mark.parametrize("mode", INTERPOLATED)
@pytest.mark.parametrize("scale", [0.15, 0.37, 0.5, 0.93, 1.0, 1.31, 1.5])
def test_a_factor_gives_what_torch_gives(mode, scale, way):
    x = batch(2, 50, 41)
    size = scaled((50, 41), scale)
    expected = F.interpolate(x.pixels, scale_factor=scale, mode=mode)
    result = resize(x, [size] * 2, [mode] * 2, [scale] * 2)
    torch.testing.assert_close(result.tensor(), expected, rtol=0, atol=3e-6 if way == "products" else 0)


@pytest.mark.parametrize("mode", INTERPOLATED)
@pytest.mark.parametrize("size", [(1, 1), (7, 60), (50, 41), (64, 33), (101, 99)])
def test_a_size_gives_what_torch_gives(mode, size, way):
    x = batch(2, 50, 41)
    expected = F.interpolate(x.pixels, size=size, mode=mode)
    result = resize(x, [size] * 2, [mode] * 2)
    torch.testing.assert_close(result.tensor(), expected, rtol=0, atol=3e-6 if way == "products" else 0)


def test_every_image_has_its_own_size_mode_and_factor():
    x = batch(4, 40, 30)
    first_sizes = [(40, 30), (20, 44), (33, 7), (5, 5)]
    x = resize(x, first_sizes, ["bilinear"] * 4)
    assert x.pixels.shape[-2:] == (40, 44)
    scales = [0.7, None, 1.4, None]
    sizes = [scaled(first_sizes[0], 0.7), (13, 60), scaled(first_sizes[2], 1.4), (16, 16)]
    modes = list(MODES)
    y = resize(x, sizes, modes, scales)
    assert y.sizes == tuple(sizes)
    assert y.pixels.where(y.mask(), 0.0).equal(y.pixels)
    for i in range(4):
        alone = resize(Ragged.of(x.image(i)[None]), [sizes[i]], [modes[i]], [scales[i]])
        torch.testing.assert_close(y.image(i), alone.tensor()[0], rtol=0, atol=1e-6)


def test_coverage_weighs_pixels_by_what_is_covered():
    row = torch.tensor([[1.0, 10.0, 100.0]]).expand(1, 1, 1, 3)
    result = resize(Ragged.of(row), [(1, 2)], ["coverage"]).tensor().flatten()
    torch.testing.assert_close(result, torch.tensor([(1 + 0.5 * 10) / 1.5, (0.5 * 10 + 100) / 1.5]))


def test_coverage_keeps_the_mean():
    x = batch(1, 57, 91)
    small = resize(x, [(13, 29)], ["coverage"]).tensor()
    torch.testing.assert_close(small.mean((2, 3)), x.pixels.mean((2, 3)))


def test_coverage_equals_area_at_whole_factors():
    x = batch(1, 48, 36)
    both = [resize(x, [(12, 12)], [mode]).tensor() for mode in ("coverage", "area")]
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("mode", MODES)
def test_the_same_size_changes_nothing(mode, way):
    x = batch(1, 19, 23)
    torch.testing.assert_close(resize(x, [(19, 23)], [mode]).tensor(), x.pixels)


def test_a_size_that_is_not_the_factors_own_is_given_all_the_same():
    row = torch.arange(4.0).expand(1, 1, 1, 4)
    result = resize(Ragged.of(row), [(1, 3)], ["bilinear"], [2.0]).tensor()  # samples at -1/4, 1/4 and 3/4
    torch.testing.assert_close(result.flatten(), torch.tensor([0.0, 0.25, 0.75]))


def test_autocast_does_not_change_the_result():
    x = batch(3, 20, 20)
    arguments = ([(9, 31)] * 3, INTERPOLATED)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = resize(x, *arguments).pixels
    assert torch.equal(inside, resize(x, *arguments).pixels)


def test_gradients_flow(way):
    x = batch(1, 12, 12).pixels.requires_grad_()
    resize(Ragged.of(x), [(5, 7)], ["bicubic"]).tensor().sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum(), torch.tensor(3 * 5 * 7.0))


def test_a_scaled_size_is_cut_off_and_never_empty():
    assert scaled((50, 41), 0.37) == (18, 15)
    assert scaled((3, 50), 0.15) == (1, 7)


@pytest.mark.parametrize(
    ("sizes", "modes", "message"),
    [
        ([(4, 4)], ["area", "area"], "one of each per image"),
        ([(4, 4)] * 2, ["area", "nearest"], "mode is 'nearest'"),
        ([(4, 4), (0, 4)], ["area", "area"], "at least 1"),
    ],
)
def test_impossible_resizes_are_refused(sizes, modes, message):
    with pytest.raises(ValueError, match=message):
        resize(batch(2, 8, 8), sizes, modes)
