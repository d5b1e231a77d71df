"""The two-stage pipeline: its numbers, its random draws, and that a batch is no more than its samples."""

from collections import Counter
from dataclasses import replace
from math import sqrt

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from resdiff.data.degradation import presets
from resdiff.data.degradation.filters import usm_sharpen
from resdiff.data.degradation.jpeg import jpeg_tensor
from resdiff.data.degradation.kernels import delta_kernel
from resdiff.data.degradation.realesrgan import Draw, RealESRGAN, Stage, StageDraw
from resdiff.data.degradation.realesrgan_presets import DIFFBIR, REALESRGAN, RESSHIFT, SEESR_YAML, STABLESR

PRESETS = {name: preset for name, preset in presets.PRESETS.items() if isinstance(preset, RealESRGAN)}


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


def photos(count: int, height: int, width: int) -> Tensor:
    """Smooth images with an edge, in [0, 1]."""
    noise = torch.rand(count, 3, height // 8, width // 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)
    smooth[..., : width // 3] *= 0.5
    return smooth


def without_noise(stage: Stage) -> Stage:
    """Noise of strength zero, the finest JPEG, no resizing and no blur."""
    return replace(
        stage, blur_prob=0.0, resize_probs=(0.0, 0.0, 1.0), gaussian_prob=1.0, sigma=(0.0, 0.0), jpeg=(99, 99)
    )


NEUTRAL = replace(
    RESSHIFT, first=without_noise(RESSHIFT.first), second=without_noise(RESSHIFT.second), sinc=replace(RESSHIFT.sinc, prob=0)
)  # fmt: skip


# --- a batch and its samples ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_batch_equals_its_samples_alone(name: str) -> None:
    degradation, hr = PRESETS[name], photos(6, 64, 96)
    draws = [degradation.draw(64, 96, g) for g in generators(6)]
    target = degradation.pair(hr, draws)[0]
    lr = degradation.degrade(target, draws)
    for i, draw in enumerate(draws):
        alone_target, alone_lr = degradation.pair(hr[i : i + 1], [draw])
        assert (target[i] - alone_target[0]).abs().max() < 1e-5
        off = (lr[i] - alone_lr[0]).abs() > 1e-5
        assert off.float().mean() < 0.002  # a value on a rounding tie takes the next level
        assert (lr[i] - alone_lr[0]).abs().max() < 2.1 / 255


def test_a_batch_holds_every_combination_of_branches() -> None:
    draws = [RESSHIFT.draw(32, 32, g) for g in generators(100)]
    assert len({(d.is_second_order, d.jpeg_last, d.first.gaussian, d.second.gaussian) for d in draws}) == 16
    assert RESSHIFT.degrade(photos(100, 32, 32), draws).shape == (100, 3, 8, 8)


def test_a_sample_depends_on_its_generator_alone() -> None:
    hr = photos(4, 48, 48)
    together = RESSHIFT(hr, generators(4))
    assert torch.equal(together, RESSHIFT(hr, generators(4)))
    assert not torch.equal(together[0], RESSHIFT(hr[:1], generators(1, seed=7))[0])
    reversed_lr = RESSHIFT(hr.flip(0), generators(4)[::-1]).flip(0)
    assert ((together - reversed_lr).abs() > 1e-5).float().mean() < 0.002


def test_one_generator_gives_each_image_a_seed_in_order() -> None:
    hr = photos(2, 32, 32)[:1].repeat(2, 1, 1, 1)
    one = RESSHIFT(hr, torch.Generator().manual_seed(3))
    assert torch.equal(one, RESSHIFT(hr, torch.Generator().manual_seed(3)))
    assert not torch.equal(one[0], one[1])
    with pytest.raises(ValueError, match="a list of 3 for 2 images"):
        RESSHIFT(hr, generators(3))


def test_draws_survive_the_way_from_a_worker() -> None:
    hr, draw = photos(1, 48, 48), DIFFBIR.draw(48, 48, torch.Generator().manual_seed(1))
    (sent,) = DataLoader([draw], collate_fn=lambda items: items[0], num_workers=1)
    assert sent is not draw
    assert torch.equal(DIFFBIR.pair(hr, [draw])[1], DIFFBIR.pair(hr, [sent])[1])


# --- shapes, ranges, what is handed over ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_pairs_have_the_promised_size_range_and_levels(name: str) -> None:
    degradation, hr = PRESETS[name], photos(3, 64, 96)
    draws = [degradation.draw(64, 96, g) for g in generators(3, seed=20)]
    target, lr = degradation.pair(hr, draws)
    assert target.shape == hr.shape
    assert lr.shape == (3, 3, 64 // degradation.scale, 96 // degradation.scale)
    assert lr.dtype == torch.float32
    assert lr.min() >= 0
    assert lr.max() <= 1
    is_8_bit = torch.equal((lr * 255).round() / 255, lr)
    assert is_8_bit is degradation.round8
    assert torch.equal(target, usm_sharpen(hr) if degradation.sharpen else hr)


def test_results_carry_no_gradient_and_no_half_precision() -> None:
    hr = photos(1, 32, 32)
    draw = DIFFBIR.draw(32, 32, torch.Generator().manual_seed(1))
    expected = DIFFBIR.pair(hr, [draw])
    with torch.autocast("cpu", torch.bfloat16):
        given = DIFFBIR.pair(hr.clone().requires_grad_(), [draw])
    for ours, theirs in zip(given, expected, strict=True):
        assert not ours.requires_grad
        assert torch.equal(ours, theirs)


def test_the_finest_jpeg_quality_gives_numbers() -> None:
    top = replace(SEESR_YAML, first=replace(SEESR_YAML.first, jpeg=(100, 100)), second=replace(SEESR_YAML.second, jpeg=(100, 100)))  # fmt: skip
    assert top(photos(4, 32, 32), generators(4)).isfinite().all()


def test_small_images_of_odd_sides_are_degraded_too() -> None:
    draws = [DIFFBIR.draw(9, 13, g) for g in generators(16)]
    lr = DIFFBIR.pair(photos(16, 16, 16)[..., :9, :13], draws)[1]
    assert lr.shape == (16, 3, 9, 13)
    assert lr.isfinite().all()


def by_area(draw: Draw) -> Draw:
    """The draw with area averages everywhere, so that a reduction takes every pixel into account."""
    first, second = (replace(stage, mode="area") for stage in (draw.first, draw.second))
    return replace(draw, first=first, second=second, mode="area")


def test_without_any_disturbance_only_the_reduction_is_left() -> None:
    hr = photos(12, 64, 64).mean(1, keepdim=True).repeat(1, 3, 1, 1)  # JPEG halves the resolution of colour
    draws = [by_area(NEUTRAL.draw(64, 64, g)) for g in generators(12)]
    assert len({(d.is_second_order, d.jpeg_last) for d in draws}) == 4
    error = (NEUTRAL.degrade(hr, draws) - torch.nn.functional.avg_pool2d(hr, 4)).abs()
    assert error.max() < 5 / 255  # two JPEGs of quality 99


def test_a_skipped_second_stage_leaves_its_noise_out_but_not_its_jpeg() -> None:
    hr = photos(1, 64, 64).mean(1, keepdim=True).repeat(1, 3, 1, 1)
    loud = replace(NEUTRAL, second=replace(NEUTRAL.second, sigma=(60.0, 60.0), jpeg=(5.0, 5.0)))
    draw = replace(by_area(loud.draw(64, 64, torch.Generator().manual_seed(0))), jpeg_last=True)
    clean = torch.nn.functional.avg_pool2d(hr, 4)

    def error(second_order: bool, quality: float) -> float:
        changed = replace(draw, is_second_order=second_order, second=replace(draw.second, quality=quality))
        return float((loud.pair(hr, [changed])[1] - clean).square().mean().sqrt() * 255)

    assert error(True, 99.0) == pytest.approx(60, rel=0.25)  # clipped at black and white
    assert error(False, 99.0) < 4
    assert error(False, 5.0) > 10


@pytest.mark.parametrize("jpeg_last", [True, False])
def test_jpeg_is_the_last_step_or_the_resize_with_the_sinc_filter_is(jpeg_last: bool) -> None:
    """A JPEG that is compressed again at the same quality hardly changes; one that was resized in between does."""
    coarse = replace(NEUTRAL, second=replace(NEUTRAL.second, jpeg=(10.0, 10.0)), factor=1.0, round8=False)
    draw = replace(coarse.draw(64, 64, torch.Generator().manual_seed(0)), jpeg_last=jpeg_last, is_second_order=True)
    draw = replace(draw, second=replace(draw.second, factor=0.7))
    lr = coarse.pair(photos(1, 64, 64), [draw])[1]
    change = float((jpeg_tensor(lr, 10.0) - lr).abs().mean() * 255)
    assert (change < 1) is jpeg_last
    assert (change > 4) is not jpeg_last


def test_every_resize_of_the_second_stage_is_relative_to_the_final_size() -> None:
    seen: list[tuple[int, ...]] = []

    class Seen:
        def normal(self, i: int, shape: tuple[int, int, int]) -> Tensor:
            seen.append(shape[1:])
            return torch.zeros(shape)

        def poisson(self, i: int, rate: Tensor) -> Tensor:
            raise AssertionError("every sample has Gaussian noise")

    draw = NEUTRAL.draw(64, 96, torch.Generator().manual_seed(0))
    draw = replace(draw, is_second_order=True, first=replace(draw.first, factor=0.33), second=replace(draw.second, factor=1.2))  # fmt: skip
    NEUTRAL.pair(photos(1, 64, 96), [draw], lambda seeds, device: Seen())
    assert seen == [(21, 31), (19, 28)]


def test_lr_of_no_degradation_is_the_target() -> None:
    always = replace(STABLESR, clean_prob=1.0)
    target, lr = always.pair(photos(2, 32, 32), [always.draw(32, 32, g) for g in generators(2)])
    assert torch.equal(target, lr)
    mixed = replace(STABLESR, clean_prob=0.5)
    draws = [mixed.draw(32, 32, g) for g in generators(8)]
    target, lr = mixed.pair(photos(8, 32, 32), draws)
    assert [torch.equal(a, b) for a, b in zip(target, lr, strict=True)] == [d.clean for d in draws]
    assert 0 < sum(d.clean for d in draws) < 8


def test_clipping_before_the_enlargement_differs_where_the_filter_overshoots() -> None:
    hr = torch.zeros(1, 3, 64, 64)
    hr[..., 32:] = 1
    ringing = replace(STABLESR, sinc=replace(STABLESR.sinc, prob=1.0), sharpen=False, clean_prob=0.0)
    draw = replace(ringing.draw(64, 64, torch.Generator().manual_seed(4)), jpeg_last=False)
    clipped = ringing.pair(hr, [draw])[1]
    late = replace(ringing, clip_before_back=False).pair(hr, [draw])[1]
    assert late.max() == clipped.max() == 1
    assert (clipped - late).abs().max() > 0.005


# --- the distribution of the draws ---------------------------------------------------------------------------------


def rate(happened: int, of: int, probability: float) -> bool:
    """Whether a count is within four standard deviations of its mean."""
    return abs(happened - of * probability) <= 4 * sqrt(of * probability * (1 - probability)) + 1e-9


@pytest.mark.parametrize("name", PRESETS)
def test_draws_keep_to_the_published_ranges_and_probabilities(name: str) -> None:
    degradation, count = PRESETS[name], 300
    generator = torch.Generator().manual_seed(0)
    draws = [degradation.draw(64, 64, generator) for _ in range(count)]
    assert rate(sum(d.is_second_order for d in draws), count, degradation.second_prob)
    assert rate(sum(d.jpeg_last for d in draws), count, 0.5)
    assert rate(sum(d.clean for d in draws), count, degradation.clean_prob)
    delta = delta_kernel(degradation.sinc.pad_to).float()
    assert rate(sum(torch.equal(d.sinc, delta) for d in draws), count, 1 - degradation.sinc.prob)
    for stage, drawn in (
        (degradation.first, [d.first for d in draws]),
        (degradation.second, [d.second for d in draws]),
    ):
        assert_stage(stage, drawn)
    assert rate(Counter(d.mode for d in draws)["area"], count, 1 / 3)
    assert len({d.seed for draw in draws for d in (draw.first, draw.second)}) == 2 * count


def assert_stage(stage: Stage, draws: list[StageDraw]) -> None:
    count = len(draws)
    ups, downs = sum(d.factor > 1 for d in draws), sum(d.factor < 1 for d in draws)
    for happened, probability in zip((ups, downs, count - ups - downs), stage.resize_probs, strict=True):
        assert rate(happened, count, probability)
    assert stage.resize[0] <= min(d.factor for d in draws) < stage.resize[0] + 0.1
    assert stage.resize[1] >= max(d.factor for d in draws) > stage.resize[1] - 0.1
    assert rate(sum(d.gaussian for d in draws), count, 0.5)
    assert rate(sum(d.gray for d in draws), count, 0.4)
    for values, (low, high) in (
        ([d.quality for d in draws], stage.jpeg),
        ([d.strength for d in draws if d.gaussian], stage.sigma),
        ([d.strength for d in draws if not d.gaussian], stage.poisson_scale),
    ):
        spread = high - low
        assert low <= min(values) < low + 0.1 * spread
        assert high >= max(values) > high - 0.1 * spread
        assert sum(values) / len(values) == pytest.approx((low + high) / 2, abs=0.15 * spread)
    assert {d.kernel.shape for d in draws} == {(stage.kernels.pad_to,) * 2}
    delta = delta_kernel(stage.kernels.pad_to).float()
    assert rate(sum(torch.equal(d.kernel, delta) for d in draws), count, 1 - stage.blur_prob)


def test_the_published_numbers() -> None:
    """Table of the specification: what differs between the publications."""
    table = {
        name: (
            (d.first.resize, d.first.sigma, d.first.poisson_scale, d.first.jpeg),
            (d.second_prob, d.second.blur_prob),
            (d.second.resize, d.second.sigma, d.second.poisson_scale, d.second.jpeg),
            (d.first.kernels.sigma, d.first.kernels.betag, d.first.kernels.betap),
            (d.second.kernels.sigma, d.second.kernels.betag, d.second.kernels.betap),
            (d.first.kernels.sizes[:: len(d.first.kernels.sizes) - 1], d.second.kernels.sizes[-1], d.sinc.sizes[-1]),
            (d.first.kernels.sinc_prob, d.second.kernels.sinc_prob, d.sinc.prob),
            (d.sharpen, d.scale, d.round8, d.clip_before_back, d.clean_prob),
        )
        for name, d in PRESETS.items()
    }
    strong = (0.15, 1.5), (1, 30), (0.05, 3), (30, 95)
    strong2 = (0.3, 1.2), (1, 25), (0.05, 2.5), (30, 95)
    mild = (0.3, 1.5), (1, 15), (0.05, 2), (60, 95)
    mild2 = (0.6, 1.2), (1, 12), (0.05, 1), (60, 100)
    wide, wide2 = ((0.2, 3), (0.5, 4), (1, 2)), ((0.2, 1.5), (0.5, 4), (1, 2))
    sizes, sinc = ((7, 21), 21, 21), (0.1, 0.1, 0.8)
    assert table == {
        "realesrgan": (strong, (1, 0.8), strong2, wide, wide2, sizes, sinc, (True, 4, True, False, 0)),
        "resshift": (
            strong, (0.5, 0.8), strong2, wide, wide2, ((3, 19), 13, 13), sinc, (False, 4, True, False, 0)
        ),
        "resshift-test": (
            ((0.5, 1.5), (1, 15), (0.05, 0.3), (70, 95)), (0, 0.2), ((0.8, 1.2), (1, 10), (0.05, 0.2), (80, 100)),
            ((0.2, 0.8), (1, 1.5), (1, 1.2)), ((0.2, 0.5), (0.5, 1), (1, 1.2)), ((3, 11), 5, 5), (0.1, 0, 0.2),
            (False, 4, True, False, 0),
        ),
        "stablesr": (
            mild, (1, 0.5), mild2, ((0.2, 1.5), (0.5, 2), (1, 1.5)), ((0.2, 1), (0.5, 2), (1, 1.5)), sizes, sinc,
            (True, 1, False, True, 0.01),
        ),
        "seesr": (strong, (1, 0.8), strong2, wide, wide2, sizes, sinc, (True, 1, True, True, 0)),
        "seesr-yaml": (mild, (1, 0.5), mild2, wide, wide2, sizes, sinc, (False, 4, True, False, 0)),
        "diffbir": (strong, (1, 0.8), strong2, wide, wide2, sizes, sinc, (True, 1, True, False, 0)),
    }  # fmt: skip
    for d in PRESETS.values():
        assert (d.first.resize_probs, d.second.resize_probs) == ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3))


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": (1.2, 1.5)}, "resize is"),
        ({"resize": (0.5, 0.9)}, "resize is"),
        ({"sigma": (5.0, 1.0)}, "sigma is"),
        ({"jpeg": (30.0, 101.0)}, "jpeg is"),
        ({"jpeg": (0.0, 90.0)}, "jpeg is"),
        ({"gray_prob": 1.5}, "gray_prob is 1.5"),
        ({"resize_probs": (0.0, 0.0, 0.0)}, "resize_probs is"),
    ],
)
def test_impossible_ranges_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(REALESRGAN.first, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 2.5}, "factor is 2.5"),
        ({"clean_prob": 0.1}, "set resize_back"),
        ({"clip_before_back": True}, "set resize_back"),
        ({"second_prob": -0.1}, "second_prob is -0.1"),
    ],
)
def test_contradicting_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(REALESRGAN, **change)


def test_images_that_do_not_fit_are_refused() -> None:
    draws: list[Draw] = [RESSHIFT.draw(32, 32, g) for g in generators(2)]
    refused: list[tuple[RealESRGAN, Tensor, str]] = [
        (RESSHIFT, torch.rand(1, 3, 32, 32), "one for each draw"),
        (RESSHIFT, torch.rand(2, 1, 32, 32), "give floats"),
        (RESSHIFT, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "give floats"),
        (RESSHIFT, torch.rand(2, 3, 30, 32), "hr is 30x32, crop it to multiples of 4"),
        (DIFFBIR, torch.rand(2, 3, 3, 32), "at least 4"),
    ]
    for degradation, hr, message in refused:
        with pytest.raises(ValueError, match=message):
            degradation.pair(hr, draws)
