"""Bicubic kernels against Pillow, torch and slow loops; the legacy 8-bit resize; padding."""

import math
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resdiff.resize import bicubic, cubic_taps, matlab_legacy, pad_to_multiple

DATA = Path(os.environ.get("RESDIFF_DATA") or Path(__file__).parents[2] / "shared" / "data")
SIZES = [(1, 1), (3, 5), (17, 31), (64, 64), (101, 77)]
TARGETS = [(1, 1), (4, 7), (16, 16), (33, 99), (64, 124), (256, 256)]


def keys(x):
    """Keys' cubic kernel, a = -1/2, exact on fractions."""
    x = abs(x)
    if x <= 1:
        return Fraction(3, 2) * x**3 - Fraction(5, 2) * x**2 + 1
    return -Fraction(1, 2) * x**3 + Fraction(5, 2) * x**2 - 4 * x + 2 if x < 2 else Fraction(0)


def slow_resize(row, out_length, scale, border):
    """One row of integers by the definition, in exact arithmetic; `border` maps any index into the row."""
    stretch = min(scale, Fraction(1))
    result = []
    for i in range(out_length):
        centre = (i + Fraction(1, 2)) / scale - Fraction(1, 2)
        reach = math.ceil(2 / stretch) + 1
        taps = range(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        weights = [keys((centre - j) * stretch) for j in taps]
        total = sum(w * row[border(j, len(row))] for w, j in zip(weights, taps, strict=True))
        result.append(total / sum(weights))
    return result


def clamped(index, length):
    return min(max(index, 0), length - 1)


def mirrored(index, length):
    index %= 2 * length
    return index if index < length else 2 * length - 1 - index


def slow_legacy(image, scale):
    """Rows first, then columns, each pass rounded half up to 8 bits."""
    for _ in range(2):
        columns = [list(map(int, column)) for column in image.T]
        out_length = math.ceil(scale * image.shape[0])
        resized = [slow_resize(column, out_length, scale, clamped) for column in columns]
        eight_bit = [[min(max(math.floor(v + Fraction(1, 2)), 0), 255) for v in column] for column in resized]
        image = np.array(eight_bit, dtype=np.uint8)  # transposed: the second pass takes the other axis
    return image


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", SIZES)
def test_pil_kernel_equals_pillow_on_float_images(size, target):
    image = np.random.default_rng(0).random(size, dtype=np.float32)
    expected = np.array(Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC))
    x = torch.from_numpy(image)[None, None]
    assert np.abs(bicubic(x, target, "pil")[0, 0].numpy() - expected).max() < 1e-5
    assert np.abs(bicubic(x.double(), target, "pil")[0, 0].numpy() - expected).max() < 5e-7


@pytest.mark.parametrize("factor", [Fraction(4), Fraction(2), Fraction(1, 2), Fraction(1, 4)])
def test_pil_kernel_equals_pillow_to_float_rounding_at_whole_factors(factor):
    image = np.random.default_rng(1).random((48, 72), dtype=np.float32)
    target = int(48 * factor), int(72 * factor)
    expected = np.array(Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC))
    assert np.abs(bicubic(torch.from_numpy(image)[None, None], target, "pil")[0, 0].numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("size, target", [((7, 5), (28, 20)), ((9, 13), (3, 30)), ((16, 12), (4, 3)), ((1, 2), (5, 4))])
def test_matlab_kernel_equals_its_definition_with_mirrored_borders(size, target):
    image = np.random.default_rng(2).integers(0, 256, size)
    half = [slow_resize([int(v) for v in c], target[0], Fraction(target[0], size[0]), mirrored) for c in image.T]
    rows = list(zip(*half, strict=True))
    expected = [[float(v) for v in slow_resize(r, target[1], Fraction(target[1], size[1]), mirrored)] for r in rows]
    x = torch.from_numpy(image).double()[None, None]
    assert (bicubic(x, target, "matlab")[0, 0] - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-10
    assert (bicubic(x.float(), target, "matlab")[0, 0] - torch.tensor(expected)).abs().max() < 2e-4


def test_torch_kernel_is_the_unantialiased_interpolation_of_torch():
    x = torch.rand(2, 3, 11, 9)
    assert torch.equal(bicubic(x, (5, 30), "torch"), F.interpolate(x, (5, 30), mode="bicubic", align_corners=False))


def test_kernels_differ_where_the_table_says():
    impulse = torch.zeros(1, 1, 16, 16)
    impulse[0, 0, 8, 8] = 1
    pil, matlab, torch_kernel = (bicubic(impulse, (64, 64), k) for k in ("pil", "matlab", "torch"))
    assert (pil - matlab).abs().max() < 1e-6  # the same kernel away from the border
    assert (pil - torch_kernel).abs().max() > 0.01  # a = -0.75
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
    assert (bicubic(ramp, (16, 64), "pil") - bicubic(ramp, (16, 64), "matlab")).abs()[..., 8:-8].max() < 1e-6
    assert (bicubic(ramp, (16, 64), "pil") - bicubic(ramp, (16, 64), "matlab")).abs().max() > 1e-4


@pytest.mark.parametrize("kernel", ["matlab", "pil", "torch"])
def test_same_size_is_identity_and_constants_stay(kernel):
    x = torch.rand(1, 2, 13, 8)
    assert (bicubic(x, (13, 8), kernel) - x).abs().max() < 1e-6
    assert (bicubic(torch.full((1, 1, 9, 6), -3.5), (31, 2), kernel) + 3.5).abs().max() < 1e-5


@pytest.mark.parametrize("kernel", ["matlab", "pil", "torch"])
def test_overshoot_is_not_clamped(kernel):
    step = torch.ones(1, 1, 12, 12)
    step[..., :6] = -1
    y = bicubic(step, (48, 48), kernel)
    assert y.max() > 1.02 and y.min() < -1.02


@pytest.mark.parametrize("kernel", ["matlab", "pil", "torch"])
def test_gradients_are_those_of_a_linear_map(kernel):
    x = torch.rand(1, 1, 6, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: bicubic(v, (9, 4), kernel), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["matlab", "pil", "torch"])
def test_half_precisions_are_computed_in_float32(kernel, dtype):
    x = torch.rand(1, 3, 8, 8).to(dtype)
    assert torch.equal(bicubic(x, (32, 20), kernel), bicubic(x.float(), (32, 20), kernel).to(dtype))


def test_bad_arguments_are_named():
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="kernel is 'cubic'"):
        bicubic(x, (8, 8), "cubic")
    with pytest.raises(ValueError, match="size is"):
        bicubic(x, (0, 8), "pil")
    with pytest.raises(ValueError, match="floating"):
        bicubic(x.to(torch.uint8), (8, 8), "pil")
    with pytest.raises(ValueError, match="uint8"):
        matlab_legacy(np.zeros((4, 4)), 0.25)
    with pytest.raises(ValueError, match="scale is"):
        matlab_legacy(np.zeros((4, 4), np.uint8), 0)
    with pytest.raises(ValueError, match="at least 1"):
        pad_to_multiple(x, 0)


def test_quarter_scale_has_sixteen_taps_of_weight_one():
    indices, weights = cubic_taps(32, 8, 0.25)
    assert weights.shape == (8, 16) and np.all(weights.sum(axis=1) == 1)
    assert indices[0].tolist() == list(range(-6, 10))


@pytest.mark.parametrize("scale", [Fraction(1, 4), Fraction(1, 2), Fraction(2)])
@pytest.mark.parametrize("size", [(12, 8), (9, 7), (1, 3)])
def test_legacy_resize_equals_its_definition_bit_for_bit(size, scale):
    image = np.random.default_rng(3).choice([0, 255, 17, 128], size).astype(np.uint8)
    assert np.array_equal(matlab_legacy(image, float(scale)), slow_legacy(image, scale))


def test_legacy_resize_treats_channels_alone_and_keeps_the_container():
    image = np.random.default_rng(4).integers(0, 256, (16, 12, 3), dtype=np.uint8)
    whole = matlab_legacy(image, 0.25)
    assert whole.shape == (4, 3, 3) and whole.dtype == np.uint8
    assert all(np.array_equal(whole[..., c], matlab_legacy(image[..., c], 0.25)) for c in range(3))
    as_tensor = matlab_legacy(torch.from_numpy(image), 0.25)
    assert isinstance(as_tensor, torch.Tensor) and np.array_equal(as_tensor.numpy(), whole)


@pytest.mark.parametrize("name, count", [("set5", 5), ("set14", 14), ("bsd100", 100)])
def test_legacy_resize_reproduces_the_published_low_resolution_images(name, count):
    if not (DATA / name / "HR").is_dir():
        pytest.skip(f"no images in {DATA / name}; set RESDIFF_DATA to the folder of the benchmark sets")
    paths = sorted((DATA / name / "HR").glob("*.png"))
    assert len(paths) == count
    for path in paths:
        hr, lr = (np.array(Image.open(p)) for p in (path, DATA / name / "LRx4" / path.name))
        assert np.array_equal(matlab_legacy(hr, 0.25), lr), path.name


@given(
    h=st.integers(1, 40),
    w=st.integers(1, 40),
    multiple=st.integers(1, 64),
)
@settings(max_examples=150, deadline=None)
def test_padding_reaches_multiples_and_crops_back(h, w, multiple):
    x = torch.arange(h * w, dtype=torch.float32).reshape(1, 1, h, w)
    padded, size = pad_to_multiple(x, multiple)
    ph, pw = padded.shape[-2:]
    assert ph % multiple == 0 and pw % multiple == 0 and 0 <= ph - h < multiple and 0 <= pw - w < multiple
    assert size == (h, w) and torch.equal(padded[..., :h, :w], x)
    if ph - h < h and pw - w < w:
        assert torch.equal(padded, F.pad(x, (0, pw - w, 0, ph - h), mode="reflect"))


def test_padding_goes_on_reflecting_where_torch_refuses():
    padded, _ = pad_to_multiple(torch.tensor([[0.0, 1.0, 2.0]]), 8)
    assert padded.shape == (8, 8)
    assert padded[0].tolist() == padded[7].tolist() == [0, 1, 2, 1, 0, 1, 2, 1]


@pytest.mark.parametrize("size", [(2, 3), (1, 120), (150, 2), (1, 1)])
def test_strong_reductions_are_those_of_pillow(size):
    rng = np.random.default_rng(0)
    array = rng.random((200, 170), dtype=np.float32)
    expected = np.asarray(Image.fromarray(array).resize(size[::-1], Image.Resampling.BICUBIC))
    ours = bicubic(torch.from_numpy(array)[None, None], size, "pil")[0, 0].numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-5)
