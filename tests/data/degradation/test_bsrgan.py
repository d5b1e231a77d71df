"""BSRGAN: each step against its formula, the distribution of steps, and shuffling."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from resdiff.data.degradation.bsrgan import (
    BSRGAN,
    BSRGAN_PLUS,
    Blur,
    Jpeg,
    Normal,
    Poisson,
    Resize,
    _correlation_root,
)
from resdiff.data.degradation.jpeg import jpeg_tensor
from resdiff.data.degradation.noise import SeededFields
from resdiff.data.degradation.ragged import Ragged

ORDER = [Blur, Resize, Normal, Poisson, Normal, Jpeg, Blur, Resize, Normal, Poisson, Normal]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def fields(seed: int = 0) -> SeededFields:
    return SeededFields([seed], torch.device("cpu"))


def photo(height: int = 64, width: int = 48) -> torch.Tensor:
    """Blobs of little colour: JPEG halves the resolution of colour."""
    coarse = 0.8 * torch.rand(1, 1, height // 8, width // 8, generator=seeded(6))
    coarse = coarse + 0.1 * torch.rand(1, 3, height // 8, width // 8, generator=seeded(5))
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


def gray_image(value: float = 0.5, side: int = 128) -> Ragged:
    return Ragged.of(torch.full((1, 3, side, side), value))


def steps_of(kind: type, degradation: BSRGAN = BSRGAN_PLUS, count: int = 400) -> list:
    draws = [degradation.draw(64, 64, seeded(i)) for i in range(count)]
    return [step for draw in draws for step in draw.steps if isinstance(step, kind)]


def test_all_eleven_steps_come_in_the_published_order() -> None:
    every = dataclasses.replace(BSRGAN_PLUS, poisson_prob=1.0, speckle_prob=1.0, shuffle_prob=0.0)
    steps = every.draw(64, 64, seeded(0)).steps
    assert [type(s) for s in steps] == ORDER
    assert [s.speckle for s in steps if isinstance(s, Normal)] == [False, True, False, True]


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_the_order_is_shuffled_with_its_probability(probability: float) -> None:
    degradation = dataclasses.replace(BSRGAN_PLUS, shuffle_prob=probability)
    draws = [degradation.draw(64, 64, seeded(i)) for i in range(400)]
    kept = [type(s) for s in dataclasses.replace(BSRGAN_PLUS, shuffle_prob=0.0).draw(64, 64, seeded(0)).steps][:3]
    shuffled = sum([type(s) for s in d.steps][:3] != kept for d in draws) / 400
    assert shuffled == pytest.approx(probability, abs=0.06)


def test_poisson_and_speckle_happen_once_in_ten_rounds() -> None:
    assert len(steps_of(Poisson)) / 800 == pytest.approx(0.1, abs=0.035)
    speckles = [s for s in steps_of(Normal) if s.speckle]
    assert len(speckles) / 800 == pytest.approx(0.1, abs=0.035)


def test_kernels_are_of_every_size_and_sum_to_one() -> None:
    kernels = [b.kernel for b in steps_of(Blur)]
    assert {len(k) for k in kernels} == set(range(7, 26, 2))
    assert all(k.isfinite().all() and abs(k.sum() - 1) < 1e-5 for k in kernels)
    # the widest variance along any axis is the isotropic (2 + 0.2 * 4)^2 or the eigenvalue 4 + 4
    place = torch.arange(25) - 12
    spread = [float((k.sum(0) * place[12 - len(k) // 2 : 13 + len(k) // 2] ** 2).sum()) for k in kernels]
    assert 6 < max(spread) <= 8.01 and min(spread) < 0.1


def test_factors_are_up_down_and_kept() -> None:
    factors = torch.tensor([r.factor for r in steps_of(Resize)])
    assert float((factors > 1).float().mean()) == pytest.approx(0.2, abs=0.05)
    assert float((factors < 1).float().mean()) == pytest.approx(0.7, abs=0.05)
    assert 0.125 <= factors.min() < 0.15 and 1.9 < factors.max() <= 2
    assert {r.mode for r in steps_of(Resize)} == {"bilinear", "bicubic", "coverage"}


def test_qualities_are_whole_and_include_both_ends() -> None:
    assert {j.quality for j in steps_of(Jpeg, count=1500)} == set(range(30, 96))


def test_gaussian_noise_is_independent_same_or_correlated() -> None:
    mixes = [n.mix for n in steps_of(Normal)]
    same = [m for m in mixes if m.shape == (3, 1)]
    independent = [m for m in mixes if m.shape == (3, 3) and m[0, 1] == 0]
    assert len(same) / len(mixes) == pytest.approx(0.4, abs=0.06)
    assert len(independent) / len(mixes) == pytest.approx(0.4, abs=0.06)
    levels = {round(float(m[0, 0]) * 255) for m in same + independent}
    assert levels == set(range(2, 26))


def test_normal_noise_has_the_covariance_of_its_mix() -> None:
    root = 25 / 255 * _correlation_root(seeded(3))
    out = Normal(root, speckle=False)(gray_image(side=256), fields()).pixels[0] - 0.5
    measured = torch.cov(out.flatten(1))
    assert torch.allclose(measured, root @ root.T, atol=2e-4)
    assert float(measured.diag().max()) > 1e-3


def test_the_correlation_root_squares_to_moduli_of_a_covariance() -> None:
    for seed in range(50):
        covariance = _correlation_root(seeded(seed)).double()
        covariance = covariance @ covariance.T
        assert (covariance >= -1e-6).all() and torch.linalg.eigvalsh(covariance).max() <= 3
        assert 0 < float(covariance.trace()) < 3  # the trace of U^T D U: the sum of three numbers below 1


def test_correlated_noise_always_has_the_highest_level() -> None:
    mixes = [n.mix for n in steps_of(Normal) if n.mix.shape == (3, 3) and n.mix[0, 1] != 0]
    # the trace of the covariance is L^2 times a sum of three U(0, 1), 1.5 on average
    mean = sum(float(m.square().sum()) for m in mixes) / len(mixes)
    assert mean == pytest.approx(1.5 * (25 / 255) ** 2, rel=0.12)


def test_peaks_are_ten_to_the_two_to_four() -> None:
    noises = steps_of(Poisson, dataclasses.replace(BSRGAN_PLUS, poisson_prob=1.0), 200)
    exponents = torch.tensor([p.peak for p in noises]).log10()
    assert 2 <= exponents.min() < 2.05 and 3.95 < exponents.max() <= 4
    assert float(exponents.mean()) == pytest.approx(3, abs=0.1)
    assert sum(p.gray for p in noises) / len(noises) == pytest.approx(0.5, abs=0.08)


def test_the_last_reduction_is_linear_cubic_or_area() -> None:
    modes = [BSRGAN_PLUS.draw(64, 64, seeded(i)).last_mode for i in range(300)]
    assert all(80 < modes.count(mode) < 120 for mode in ("bilinear", "bicubic", "coverage"))


def test_speckle_is_proportional_to_the_image() -> None:
    speckle = Normal(0.1 * torch.eye(3), speckle=True)
    dark, bright = (speckle(gray_image(v), fields()).pixels.std() for v in (0.2, 0.6))
    assert float(dark) == pytest.approx(0.02, rel=0.05) and float(bright) == pytest.approx(0.06, rel=0.05)


def test_poisson_noise_has_the_variance_of_a_count() -> None:
    value = 102 / 255
    colour = Poisson(peak=400.0, gray=False)(gray_image(value), fields()).pixels[0]
    assert float(colour.var()) == pytest.approx(value / 400, rel=0.05)
    assert torch.allclose(colour * 400, (colour * 400).round(), atol=1e-3)  # whole counts
    gray = Poisson(peak=400.0, gray=True)(gray_image(value), fields()).pixels[0]
    assert torch.equal(gray[0], gray[1]) and float(gray.var()) == pytest.approx(value / 400, rel=0.05)


def test_resizing_cuts_to_whole_pixels_and_clips() -> None:
    x = Ragged.of(torch.rand(1, 3, 30, 21, generator=seeded(0)).round())
    out = Resize(0.5, "bicubic")(x, fields())
    assert out.sizes == ((15, 10),)
    expected = F.interpolate(x.pixels, size=(15, 10), mode="bicubic").clamp(0, 1)
    assert torch.allclose(out.pixels, expected, atol=1e-5)
    assert Resize(1.0, "coverage")(x, fields()).pixels.sub(x.pixels).abs().max() < 1e-6
    assert Resize(0.01, "bilinear")(x, fields()).sizes == ((1, 1),)


def test_jpeg_works_between_8_bit_images() -> None:
    x = photo()
    out = Jpeg(60)(Ragged.of(x), fields()).pixels
    assert torch.equal(out, (jpeg_tensor((x * 255).round() / 255, 60.0) * 255).round() / 255)


def test_quality_100_counts_as_99() -> None:
    finest = dataclasses.replace(BSRGAN_PLUS, jpeg=(100, 100))
    assert {j.quality for j in steps_of(Jpeg, finest, count=5)} == {99}
    assert finest(photo(), seeded(0)).isfinite().all()


def test_the_target_is_sharpened_only_where_asked() -> None:
    hr = torch.zeros(1, 3, 32, 32)
    hr[..., 16:] = 0.8
    draw = BSRGAN_PLUS.draw(32, 32, seeded(0))
    target, _ = BSRGAN_PLUS.pair(hr, [draw])
    assert float((target - hr).abs().max()) > 0.01
    assert dataclasses.replace(BSRGAN_PLUS, sharpen=False).pair(hr, [draw])[0] is hr


def test_lr_is_in_8_bit_steps_and_follows_hr() -> None:
    hr = photo(96, 64)
    lr = torch.cat([BSRGAN_PLUS(hr, seeded(i)) for i in range(16)])
    assert torch.allclose(lr * 255, (lr * 255).round(), atol=1e-3)
    # sixteen of them average to the reduced image: nothing is shifted, flipped or lost
    error = lr.mean(0) - F.interpolate(hr, size=(24, 16), mode="area")[0]
    assert float(error.square().mean().sqrt()) < 0.06


def test_a_tiny_image_survives_the_heaviest_reduction() -> None:
    for i in range(20):
        lr = dataclasses.replace(BSRGAN_PLUS, shuffle_prob=1.0)(photo(8, 16), seeded(i))
        assert lr.shape == (1, 3, 2, 4) and lr.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": 0},
        {"kernel_sizes": (4,)},
        {"noise": (9, 2)},
        {"jpeg": (0, 50)},
        {"shuffle_prob": -0.1},
        {"noise_probs": (0.0, 0.0, 0.0)},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_in_one_line(changes: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(changes))} is") as error:
        BSRGAN(**changes)
    assert "\n" not in str(error.value)


def test_scale_sets_the_blur_and_the_size() -> None:
    twice = dataclasses.replace(BSRGAN_PLUS, scale=2)
    assert twice(photo(), seeded(0)).shape == (1, 3, 32, 24)
    assert min(r.factor for r in steps_of(Resize, twice)) >= 0.25
    assert math.isclose(float(sum(b.kernel.sum() for b in steps_of(Blur, twice, 5))), 10, rel_tol=1e-4)
