"""The published way: sizes, windows, timesteps and order of draws; and what it cannot do."""

import numpy as np
import pytest
import torch
from torch import Tensor

from resdiff.color import adain
from resdiff.images import Photo
from resdiff.noise import SequentialNoise
from resdiff.pipelines import stablesr_faithful
from resdiff.pipelines.call import Call
from resdiff.pipelines.sampling import chain_of
from resdiff.pipelines.stablesr_faithful import check_published_size, padded_as_published, published_sizes
from resdiff.resize import bicubic
from resdiff.schedulers.spaced import SpacedDDIMScheduler
from resdiff.tiling import Gaussian

# LR, scale, least side of the model -> upsampled, padded, result (spec of IceClear/StableSR's main script)
SIZES = [
    ((128, 128), 4, 512, (512, 512), (512, 512), (512, 512)),
    ((100, 150), 4, 512, (512, 768), (512, 768), (400, 600)),
    ((127, 129), 4, 512, (512, 520), (544, 544), (512, 520)),
    ((64, 64), 4, 512, (512, 512), (512, 512), (256, 256)),
    ((300, 400), 4, 512, (1200, 1600), (1216, 1632), (1200, 1600)),
    ((96, 320), 4, 512, (512, 1706), (544, 1728), (408, 1296)),
    ((33, 77), 4, 512, (512, 1194), (544, 1216), (140, 313)),
    ((200, 300), 4, 768, (800, 1200), (832, 1216), (800, 1200)),
    ((100, 150), 2, 512, (512, 768), (512, 768), (200, 300)),
]


@pytest.mark.parametrize(("lr", "scale", "least", "upsampled", "network", "result"), SIZES)
def test_sizes_are_the_published_ones(lr, scale, least, upsampled, network, result) -> None:
    sizes = published_sizes(*lr, scale, least)
    assert (sizes.upsampled, sizes.network, sizes.result) == (upsampled, network, result)


@pytest.mark.parametrize(("size", "result"), [((15, 17), (64, 72)), ((16, 24), (64, 96)), ((20, 21), (80, 84))])
def test_results_have_the_published_size_and_by_default_the_asked_one(stablesr, photo, run, size, result) -> None:
    lr = photo(0, *size)
    assert run(stablesr, lr, faithful=True).shape[-2:] == result
    assert run(stablesr, lr).shape[-2:] == (4 * size[0], 4 * size[1])


@pytest.mark.parametrize("size", [(300, 400), (96, 330)])
def test_sizes_that_the_script_cannot_do_are_refused(size) -> None:
    with pytest.raises(ValueError, match=r"only one side exceeds its windows of 1280 px\); leave out faithful=True"):
        check_published_size(*size, 4, 512)
    check_published_size(320, 321, 4, 512)


def test_a_call_refuses_them_before_anything_runs(stablesr, photo, monkeypatch) -> None:
    monkeypatch.setattr(stablesr_faithful, "WINDOWS", Gaussian(70, 16, published=True))
    with pytest.raises(ValueError, match="leave out faithful=True"):
        stablesr(photo(0, 16, 24), faithful=True)


def sampled_alone(pipe, y: Tensor, seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """Latents and decoded image of one enlarged image (1, 3, H, W), drawn in order from a seed."""
    call = pipe.check_inputs(Call(options=pipe.options_type(faithful=True)))
    guidance, _ = pipe.steer(call, [Photo(torch.zeros(3, 16, 16))])
    noise = SequentialNoise(torch.Generator().manual_seed(seed), y.device)
    with torch.no_grad():
        latents = pipe.sample(y, noise, steps, lambda step, t, x, x0: x, guidance)
        return latents, pipe.decode_fused(latents, y, guidance)


def test_one_image_step_by_step(stablesr, photo, run) -> None:
    """Upsampled, padded by 32 px more than needed, sampled with draws in order, decoded, coloured, cut to 8 bits."""
    lr = photo(1, 17, 20)
    image = run(stablesr, lr, seed=5, faithful=True, num_inference_steps=3)
    y = padded_as_published(bicubic(lr * 2 - 1, (68, 80), "torch").clamp(-1, 1), (96, 96))
    expected = adain(sampled_alone(stablesr, y, 5, 3)[1], y)
    expected = torch.floor((expected / 2 + 0.5).clamp(0, 1) * 255)[..., :68, :80]
    assert torch.equal((image * 255).round(), expected)


def test_windows_are_restored_alone_from_the_same_seed_and_blended(stablesr, photo, run, monkeypatch) -> None:
    windows = Gaussian(96, 32, published=True)
    monkeypatch.setattr(stablesr_faithful, "WINDOWS", windows)
    lr = photo(2, 32, 32)  # 128 px: windows at 0 and 32 along both sides
    image = run(stablesr, lr, seed=3, faithful=True)
    y = bicubic(lr * 2 - 1, (128, 128), "torch").clamp(-1, 1)
    total, weight = torch.zeros_like(y), torch.zeros_like(y)
    ramp = torch.exp(-(((torch.arange(96) - 47.5) / 96) ** 2) / 0.02)
    late = torch.exp(-(((torch.arange(96) - 48.0) / 96) ** 2) / 0.02)  # along the rows, half a pixel too far down
    for top in (0, 32):
        for left in (0, 32):
            crop = y[..., top : top + 96, left : left + 96]
            w = late[:, None] * ramp
            total[..., top : top + 96, left : left + 96] += w * adain(sampled_alone(stablesr, crop, 3, 2)[1], crop)
            weight[..., top : top + 96, left : left + 96] += w
    expected = ((total / weight) / 2 + 0.5).clamp(0, 1) * 255
    assert ((image * 255).round() - expected).abs().max() <= 1.001


def test_the_network_sees_the_respaced_timesteps(stablesr, photo, run) -> None:
    for options in ({}, {"faithful": True}, {"scheduler": "ddim"}, {"faithful": True, "scheduler": "ddim"}):
        taken: list[int] = []

        def note(pipe, step, timestep, tensors, taken=taken):
            taken.append(timestep)
            return {}

        run(stablesr, photo(), num_inference_steps=5, callback_on_step_end=note, **options)
        assert taken == [999, 749, 500, 250, 0]


def test_published_ddim_steps_by_other_noise_levels(stablesr, photo, run) -> None:
    options = stablesr.options_type(faithful=True, scheduler="ddim")
    faithful, clean = stablesr.scheduler_of(options), stablesr.scheduler_of(stablesr.options_type(scheduler="ddim"))
    assert isinstance(faithful, SpacedDDIMScheduler) and isinstance(clean, SpacedDDIMScheduler)
    for scheduler in (faithful, clean):
        scheduler.set_timesteps(20)
    alphas = stablesr.scheduler.alphas_cumprod
    assert float(clean.alpha_bar(999)) == pytest.approx(float(alphas[999]), rel=1e-5)
    assert float(faithful.alpha_bar(999)) == pytest.approx(float(alphas[950]), rel=1e-5)


@pytest.mark.parametrize("steps", [1, 2, 20])
@pytest.mark.parametrize("scheduler", ["ddpm", "ddim"])
def test_every_published_chain_begins_at_the_last_noise_level(stablesr, scheduler, steps) -> None:
    options = stablesr.options_type(faithful=True, scheduler=scheduler)
    assert chain_of(stablesr.scheduler_of(options), steps, options).first.tolist() == [999]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scheduler": "unipc"}, 'faithful=True has the published samplers, scheduler="ddpm" or "ddim"'),
        ({"output_type": "latent"}, 'faithful=True makes images; leave out output_type="latent"'),
        ({"strength": 0.5}, "leave out vae_tiling and strength"),
        ({"latents": torch.zeros(1, 4, 8, 9)}, "latents are not for .* faithful=True"),
    ],
)
def test_what_it_cannot_be_combined_with(stablesr, photo, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        stablesr(photo(), faithful=True, **options)


def test_a_list_of_generators_has_no_published_order(stablesr, photo) -> None:
    with pytest.raises(ValueError, match="draws from one generator in the published order"):
        stablesr(photo(), faithful=True, generator=[torch.Generator()])


def test_a_small_image_is_enlarged_once_and_not_first_to_the_least_size(stablesr, photo, run) -> None:
    lr = photo(4, 10, 11)  # to 64 x 70 px, padded to 96 x 96
    image = run(stablesr, lr, seed=1, faithful=True, color_fix="none")
    y = padded_as_published(bicubic(lr * 2 - 1, (64, 70), "torch").clamp(-1, 1), (96, 96))
    expected = sampled_alone(stablesr, y, 1, 2)[1].clamp(-1, 1)
    expected = bicubic(expected, (60, 60), "torch")[..., :64, :70]  # 96 px at 4 / 6.4
    assert torch.equal((image * 255).round(), torch.floor((expected / 2 + 0.5).clamp(0, 1) * 255))


def test_eight_bits_are_cut_and_not_rounded() -> None:
    values = torch.tensor([-1.2, -1.0, -0.9961, 0.0, 0.9999, 1.0, 1.3])
    levels = (stablesr_faithful.eight_bits(values) * 255).round()
    assert (
        levels.tolist()
        == np.floor((values.clamp(-1, 1).numpy() / 2 + 0.5) * 255).tolist()
        == [0, 0, 0, 127, 254, 255, 255]
    )
