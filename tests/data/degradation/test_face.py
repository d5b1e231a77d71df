"""Face degradation: ranges, rounding, greyness, and a pipeline composed by hand."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from resdiff.data.degradation.face import CODEFORMER, GFPGAN, RESSHIFT_FACE, Face, FaceDraw
from resdiff.data.degradation.jpeg import jpeg_tensor
from resdiff.data.degradation.kernels import delta_kernel

PRESETS = {"gfpgan": GFPGAN, "codeformer": CODEFORMER, "resshift": RESSHIFT_FACE}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def face(batch: int = 1, height: int = 48, width: int = 64) -> torch.Tensor:
    """Blobs of little colour: JPEG halves the resolution of colour."""
    colour = 0.1 * torch.rand(batch, 3, 6, 8, generator=seeded(5))
    coarse = 0.8 * torch.rand(batch, 1, 6, 8, generator=seeded(6)) + colour
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


def fixed(**changes) -> FaceDraw:
    """A draw that changes as little as possible."""
    delta = delta_kernel(41).float()
    return dataclasses.replace(FaceDraw(delta, reduction=1.0, sigma=0.0, quality=99, gray=False, seed=1), **changes)


def test_presets_have_the_published_numbers() -> None:
    numbers = {n: (p.kernel_size, p.aniso_prob, p.sigma, p.reduction, p.noise, p.jpeg) for n, p in PRESETS.items()}
    assert numbers == {
        "gfpgan": (41, 0.5, (0.1, 10), (0.8, 8), (0, 20), (60, 100)),
        "codeformer": (41, 0.5, (0.1, 12), (1, 12), (0, 15), (30, 100)),
        "resshift": (41, 0.5, (0.1, 15), (0.8, 32), (0, 20), (30, 100)),
    }
    assert {n: p.gray_prob for n, p in PRESETS.items()} == {"gfpgan": 0.01, "codeformer": 0, "resshift": 0.01}


@pytest.mark.parametrize("name", PRESETS)
def test_draws_stay_in_their_ranges(name: str) -> None:
    preset = PRESETS[name]
    draws = [preset.draw(512, 512, seeded(i)) for i in range(300)]
    for values, (low, high) in [
        ([d.reduction for d in draws], preset.reduction),
        ([d.sigma for d in draws], preset.noise),
        ([d.quality for d in draws], preset.jpeg),
    ]:
        span = high - low
        assert low <= min(values) < low + 0.1 * span and high - 0.1 * span < max(values) < high
    assert {d.kernel.shape for d in draws} == {(41, 41)}
    isotropic = sum(torch.allclose(d.kernel, d.kernel.T, atol=1e-7) for d in draws)
    assert 110 < isotropic < 190  # half of them
    assert all(abs(d.kernel.sum() - 1) < 1e-4 for d in draws)


def test_steps_are_reduction_jpeg_and_enlargement() -> None:
    hr = face()
    down = F.interpolate(hr, size=(19, 25), mode="bilinear")
    expected = jpeg_tensor((down * 255).round() / 255, 60.0)
    expected = F.interpolate((expected * 255).round() / 255, size=(48, 64), mode="bilinear")
    target, lr = CODEFORMER.pair(hr, [fixed(reduction=2.5, quality=60)])
    assert target is hr
    assert (lr - expected).abs().mean() < 1e-3  # apart from roundings that fall the other way


def test_noise_has_the_drawn_strength() -> None:
    hr = torch.full((1, 3, 128, 128), 0.5)
    _, lr = CODEFORMER.pair(hr, [fixed(sigma=10.0)])
    red, green, blue = (lr[0] - 0.5) * 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # JPEG takes half of the colour noise, but none of this
    assert float(luma.std()) == pytest.approx(10 * (0.299**2 + 0.587**2 + 0.114**2) ** 0.5, rel=0.05)


def test_a_reduction_below_one_enlarges_first() -> None:
    hr = face()
    _, lr = RESSHIFT_FACE.pair(hr, [fixed(reduction=0.8)])
    assert (lr - hr).abs().mean() < 0.02


def test_a_face_smaller_than_its_reduction_keeps_one_pixel() -> None:
    _, lr = RESSHIFT_FACE.pair(face(1, 24, 20), [fixed(reduction=31.0)])
    assert lr.shape == (1, 3, 24, 20) and lr.std() < 0.2 and (lr - lr[..., :1, :1]).abs().max() < 1e-6


def test_gray_makes_both_images_gray_where_the_preset_says_so() -> None:
    hr = face(2)
    target, lr = GFPGAN.pair(hr, [fixed(gray=True), fixed()])
    assert torch.equal(lr[0, 0], lr[0, 1]) and torch.equal(target[0, 1], target[0, 2])
    assert not torch.equal(lr[1, 0], lr[1, 1]) and torch.equal(target[1], hr[1])
    assert torch.allclose(target[0, 0], 0.299 * hr[0, 0] + 0.587 * hr[0, 1] + 0.114 * hr[0, 2])
    colour, _ = dataclasses.replace(GFPGAN, gray_target=False).pair(hr, [fixed(gray=True)] * 2)
    assert colour is hr


def test_gray_happens_once_in_a_hundred() -> None:
    grays = sum(GFPGAN.draw(8, 8, seeded(i)).gray for i in range(2000))
    assert 5 < grays < 45
    assert not any(CODEFORMER.draw(8, 8, seeded(i)).gray for i in range(500))


def test_quality_100_counts_as_99_and_stays_finite() -> None:
    always = dataclasses.replace(CODEFORMER, jpeg=(100.0, 100.0))
    assert always.draw(48, 64, seeded(0)).quality == 99
    assert always(face(), seeded(0)).isfinite().all()


def test_only_rounded_presets_are_in_8_bit_steps() -> None:
    def levels_off(preset: Face) -> float:
        lr = preset.pair(face(), [fixed(reduction=2.3)])[1] * 255
        return float((lr - lr.round()).abs().max())

    assert levels_off(GFPGAN) < 1e-3 and levels_off(RESSHIFT_FACE) < 1e-3
    assert levels_off(CODEFORMER) > 0.1


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": 4},
        {"kernel_size": 40},
        {"sigma": (0.0, 1.0)},
        {"reduction": (4.0, 2.0)},
        {"jpeg": (0.0, 50.0)},
        {"noise": (-1.0, 5.0)},
        {"gray_prob": 2.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_in_one_line(fields: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} is") as error:
        dataclasses.replace(CODEFORMER, **fields)
    assert "\n" not in str(error.value)
