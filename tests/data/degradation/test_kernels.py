"""Blur kernels: closed forms, and what is drawn."""

from math import cos, exp, pi, sin

import numpy as np
import pytest
import torch

from resdiff.data.degradation.kernels import (
    SHAPES,
    FinalSinc,
    KernelRange,
    delta_kernel,
    gaussian_kernel,
    sinc_kernel,
)

RANGE = KernelRange(
    sizes=(7, 9, 11, 13, 15, 17, 19, 21),
    pad_to=21,
    sinc_prob=0.1,
    shape_probs=(0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
    sigma=(0.2, 3.0),
    betag=(0.5, 4.0),
    betap=(1.0, 2.0),
)


def q_of(row: int, column: int, sigma_x: float, sigma_y: float, theta: float) -> float:
    """x^T Sigma^-1 x with x = (column, row), by inverting Sigma."""
    u = np.array([[cos(theta), -sin(theta)], [sin(theta), cos(theta)]])
    sigma = u @ np.diag([sigma_x**2, sigma_y**2]) @ u.T
    x = np.array([column, row], dtype=float)
    return float(x @ np.linalg.inv(sigma) @ x)


def j1(x: float) -> float:
    """Bessel's J1 by Miller's backward recurrence J[n-1] = 2n/x J[n] - J[n+1], scaled so that J0 + 2 J2 + ... = 1."""
    start = 2 * (int(x) // 2) + 60
    values = [0.0] * (start + 2)
    values[start] = 1e-250
    for n in range(start, 0, -1):
        values[n - 1] = 2 * n / x * values[n] - values[n + 1]
    return values[1] / (values[0] + 2 * sum(values[2::2]))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [7, 13, 21])
def test_a_kernel_is_the_closed_form_over_its_sum(shape, size):
    sigma_x, sigma_y, theta, beta = 1.3, 2.4, 0.7, 1.6
    profile = {
        "gaussian": lambda q: exp(-q / 2),
        "generalized": lambda q: exp(-(q**beta) / 2),
        "plateau": lambda q: 1 / (1 + q**beta),
    }[shape.rpartition("_")[0] or "gaussian"]
    other, angle = (sigma_y, theta) if shape.endswith("aniso") else (sigma_x, 0.0)
    around = range(-(size // 2), size // 2 + 1)
    expected = np.array([[profile(q_of(row, column, sigma_x, other, angle)) for column in around] for row in around])
    kernel = gaussian_kernel(size, shape, sigma_x, sigma_y, theta, beta)
    assert kernel.dtype == torch.float64
    np.testing.assert_allclose(kernel.numpy(), expected / expected.sum(), rtol=0, atol=1e-14)


def test_the_angle_turns_the_first_axis_from_columns_to_rows():
    wide = gaussian_kernel(9, "aniso", 3.0, 0.5, 0.0)
    tall = gaussian_kernel(9, "aniso", 3.0, 0.5, pi / 2)
    assert wide[4, 0] > 100 * wide[0, 4]
    assert torch.allclose(tall, wide.T)


@pytest.mark.parametrize("size", [7, 13, 21, 41])
@pytest.mark.parametrize("cutoff", [pi / 5, 1.3, pi])
def test_a_sinc_kernel_is_the_circular_low_pass_over_its_sum(size, cutoff):
    y, x = np.mgrid[-(size // 2) : size // 2 + 1, -(size // 2) : size // 2 + 1]
    r = np.hypot(x, y)
    r[size // 2, size // 2] = 1
    expected = cutoff * np.vectorize(j1)(cutoff * r) / (2 * pi * r)
    expected[size // 2, size // 2] = cutoff**2 / (4 * pi)
    np.testing.assert_allclose(sinc_kernel(size, cutoff).numpy(), expected / expected.sum(), rtol=0, atol=1e-13)


def test_padding_puts_zeros_around_a_sinc_kernel():
    kernel = sinc_kernel(9, 1.5, pad_to=21)
    assert kernel.shape == (21, 21)
    assert torch.equal(kernel[6:15, 6:15], sinc_kernel(9, 1.5))
    assert kernel.count_nonzero() == 81
    assert torch.equal(sinc_kernel(21, 1.5, pad_to=9), sinc_kernel(21, 1.5))


def test_a_delta_has_its_one_in_the_centre():
    assert delta_kernel(5).nonzero().tolist() == [[2, 2]]


@pytest.mark.parametrize("size", [0, 8])
def test_even_sides_are_refused(size):
    with pytest.raises(ValueError, match="odd side"):
        gaussian_kernel(size, "iso", 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("round", 1.0), "choose one of iso"),
        (("iso", 0.0), "positive"),
        (("aniso", 1.0), "sigma_y is None"),
        (("plateau_iso", 1.0), "beta is None"),
    ],
)
def test_impossible_kernels_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        gaussian_kernel(7, *arguments)


def test_a_cutoff_above_the_nyquist_frequency_is_refused():
    with pytest.raises(ValueError, match="cutoff"):
        sinc_kernel(7, 4.0)


def test_drawn_kernels_have_sum_one_and_depend_on_the_generator_only():
    generator = torch.Generator().manual_seed(3)
    kernels = torch.stack([RANGE.draw(generator) for _ in range(100)])
    assert kernels.shape == (100, 21, 21)
    assert kernels.dtype == torch.float32
    assert (kernels.sum((1, 2)) - 1).abs().max() < 1e-5
    generator.manual_seed(3)
    assert torch.equal(kernels, torch.stack([RANGE.draw(generator) for _ in range(100)]))


def test_all_sides_and_the_share_of_sinc_kernels_are_as_asked():
    generator = torch.Generator().manual_seed(0)
    kernels = [RANGE.draw(generator) for _ in range(1000)]
    sinc = sum(bool(k.min() < 0) for k in kernels)  # only they have negative lobes
    assert 70 <= sinc <= 130
    sides = {int(k.any(0).sum()) for k in kernels}
    assert {7, 21} <= sides <= {1, 3, 5, *range(7, 22, 2)}  # a narrow Gaussian underflows to fewer pixels


@pytest.mark.parametrize("shape", SHAPES)
def test_only_shapes_with_a_probability_are_drawn(shape):
    probs = tuple(float(s == shape) for s in SHAPES)
    exponents = {"betag": (1.0, 1.0), "betap": (0.3, 1.0)}
    family = "iso"  # with exponent 1, generalized is Gaussian
    if shape.startswith("plateau"):
        exponents, family = {"betag": (0.3, 1.0), "betap": (1.0, 1.0)}, "plateau_iso"
    only = KernelRange(sizes=(9,), pad_to=9, sinc_prob=0.0, shape_probs=probs, sigma=(1.5, 1.5), **exponents)
    expected = gaussian_kernel(9, family, 1.5, beta=1.0).float()
    generator = torch.Generator().manual_seed(0)
    assert all(torch.allclose(only.draw(generator), expected, atol=1e-7) for _ in range(5))


def test_half_of_the_plateaus_have_exponent_one():
    only = KernelRange(
        sizes=(9,),
        pad_to=9,
        sinc_prob=0.0,
        shape_probs=(0.0, 0.0, 0.0, 0.0, 1.0, 0.0),
        sigma=(1.5, 1.5),
        betag=(0.5, 4.0),
        betap=(1.0, 2.0),
    )
    generator = torch.Generator().manual_seed(0)
    plain = gaussian_kernel(9, "plateau_iso", 1.5, beta=1.0).float()
    assert 70 <= sum(torch.allclose(only.draw(generator), plain, atol=1e-7) for _ in range(200)) <= 130


def test_the_final_filter_is_a_sinc_or_nothing():
    generator = torch.Generator().manual_seed(0)
    final = FinalSinc(sizes=(7, 21), pad_to=21, prob=0.8)
    deltas = sum(torch.equal(final.draw(generator), delta_kernel(21).float()) for _ in range(500))
    assert 70 <= deltas <= 130


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (7, 8)}, "sides are odd"),
        ({"sizes": (23,)}, "not larger than pad_to"),
        ({"shape_probs": (0.5, 0.5)}, "six probabilities"),
        ({"sinc_prob": 1.5}, "sinc_prob is 1.5"),
        ({"sigma": (3.0, 0.2)}, "rising"),
        ({"betag": (2.0, 4.0)}, "betag is"),
    ],
)
def test_impossible_distributions_are_refused(changes, message):
    settings = {name: getattr(RANGE, name) for name in RANGE.__dataclass_fields__} | changes
    with pytest.raises(ValueError, match=message):
        KernelRange(**settings)
