"""The light degradation: how much of it is clean, how far the rest goes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from resdiff.data.degradation.kernels import delta_kernel, gaussian_kernel
from resdiff.data.degradation.light import LIGHT, Extra, Light, LightDraw
from resdiff.resize import bicubic


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(batch: int = 1, height: int = 64, width: int = 96) -> torch.Tensor:
    """Blobs of little colour: JPEG halves the resolution of colour."""
    colour = 0.1 * torch.rand(batch, 3, height // 16, width // 16, generator=seeded(5))
    coarse = 0.8 * torch.rand(batch, 1, height // 16, width // 16, generator=seeded(6)) + colour
    return F.interpolate(coarse, size=(height, width), mode="bilinear")


def extra(**changes) -> LightDraw:
    """A draw that changes as little as possible."""
    least = Extra(kernel=delta_kernel(7).float(), area=False, sigma=0.0, gray=False, quality=95.0, seed=1)
    return LightDraw(dataclasses.replace(least, **changes))


def test_six_of_ten_samples_are_clean() -> None:
    clean = sum(LIGHT.draw(64, 64, seeded(i)).extra is None for i in range(2000))
    assert 1130 < clean < 1270


def test_a_clean_sample_is_pillows_bicubic_in_8_bits() -> None:
    hr = photo(2)
    target, lr = LIGHT.pair(hr, [LightDraw(None), LightDraw(None)])
    assert target is hr
    assert torch.equal(lr, (bicubic(hr, (16, 24), "pil").clamp(0, 1) * 255).round() / 255)


def test_extras_stay_in_their_ranges() -> None:
    extras = [e for i in range(1500) if (e := LIGHT.draw(64, 64, seeded(i)).extra)]
    sigmas, qualities = [e.sigma for e in extras], [e.quality for e in extras]
    assert 0 <= min(sigmas) < 0.2 and 3.8 < max(sigmas) <= 4
    assert 70 <= min(qualities) < 72 and 93 < max(qualities) <= 95
    assert 0.2 < sum(e.area for e in extras) / len(extras) < 0.4
    assert 0.3 < sum(e.gray for e in extras) / len(extras) < 0.5
    # the widest blur is a Gaussian of sigma 1, the narrowest nearly nothing
    centres = [float(e.kernel[3, 3]) for e in extras]
    assert min(centres) >= float(gaussian_kernel(7, "iso", 1.0)[3, 3]) - 1e-6 and max(centres) > 0.95


def test_even_the_most_degraded_sample_is_near_the_clean_one() -> None:
    hr = photo()
    clean = LIGHT.pair(hr, [LightDraw(None)])[1]
    worst = extra(kernel=gaussian_kernel(7, "iso", 1.0).float(), area=True, sigma=4.0, quality=70.0)
    error = (LIGHT.pair(hr, [worst])[1] - clean).abs().mean() * 255
    assert 1 < error < 8


def test_noise_has_the_drawn_strength_and_may_be_gray() -> None:
    hr = torch.full((2, 3, 256, 256), 0.5)
    lr = LIGHT.pair(hr, [extra(sigma=4.0), extra(sigma=4.0, gray=True)])[1] * 255
    assert float(lr[0].std()) == pytest.approx(4, rel=0.35)  # JPEG takes some of it
    colour, gray = ((x - x.mean(0)).abs().mean() for x in lr)
    assert gray < 0.4 * colour


def test_the_kernel_is_bicubic_or_the_mean_of_a_block() -> None:
    hr = torch.rand(1, 1, 64, 96, generator=seeded(7)).expand(1, 3, -1, -1).contiguous()
    mean, cubic = F.avg_pool2d(hr, 4), bicubic(hr, (16, 24), "pil").clamp(0, 1)
    assert (mean - cubic).abs().mean() * 255 > 5
    draws = [extra(area=True, quality=99.5), extra(quality=99.5)]
    averaged, interpolated = LIGHT.pair(torch.cat([hr, hr]), draws)[1]
    assert (averaged - mean).abs().mean() * 255 < 1
    assert (interpolated - cubic).abs().mean() * 255 < 1


def test_clean_and_degraded_samples_share_a_batch() -> None:
    hr = photo(3)
    draws = [extra(sigma=3.0), LightDraw(None), extra(quality=70.0)]
    together = LIGHT.pair(hr, draws)[1]
    for i, draw in enumerate(draws):
        assert (together[i] - LIGHT.pair(hr[i : i + 1], [draw])[1][0]).abs().max() < 1 / 254


def test_parts_come_alone_as_often_as_is_asked_for() -> None:
    light = Light(clean_prob=0.0, blur_prob=0.5, noise_prob=0.25, jpeg_prob=0.75)
    extras = [e for i in range(1500) if (e := light.draw(64, 64, seeded(i)).extra)]
    assert len(extras) == 1500
    blurred = sum(not torch.equal(e.kernel, delta_kernel(7).float()) for e in extras)
    assert 0.44 < blurred / 1500 < 0.56
    assert 0.2 < sum(e.sigma > 0 for e in extras) / 1500 < 0.3
    assert 0.7 < sum(e.quality is not None for e in extras) / 1500 < 0.8


def test_without_jpeg_a_sample_keeps_its_noise_and_nothing_else_happens_to_it() -> None:
    hr = photo(2)
    both = [extra(quality=None), extra(sigma=4.0, quality=None)]
    untouched, noisy = LIGHT.pair(hr, both)[1]
    clean = LIGHT.pair(hr, [LightDraw(None)] * 2)[1]
    assert (untouched - clean[0]).abs().max() < 1 / 254
    assert float((noisy - clean[1]).std() * 255) == pytest.approx(4, rel=0.1)
    mixed = LIGHT.pair(hr, [both[0], extra(quality=20.0)])[1]
    assert torch.equal(mixed[0], untouched) and (mixed[1] - clean[1]).abs().max() > 2 / 255


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": 0},
        {"blur": (0.0, 1.0)},
        {"jpeg": (70.0, 100.0)},
        {"noise": (-1.0, 4.0)},
        {"area_prob": 1.5},
        {"jpeg_prob": 2.0},
    ],
    ids=str,
)
def test_impossible_settings_are_refused_in_one_line(fields: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} is") as error:
        Light(**fields)
    assert "\n" not in str(error.value)
