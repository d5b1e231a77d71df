"""Our DDPM is diffusers', with its noise given."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler as StockDDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from torch import Tensor

from resdiff.schedulers.ddpm import DDPMScheduler

SD2 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
}


def step(scheduler, output: Tensor, t: Tensor, x: Tensor, **noise) -> Any:
    """One step, with its names."""
    return scheduler.step(output, t, x, **noise)


def normal(seed: int) -> Tensor:
    return torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [3, 4])  # 3 does not divide 1000
def test_a_chain_with_given_noise_is_that_of_diffusers(kind, spacing, steps, monkeypatch) -> None:
    settings = SD2 | {"prediction_type": kind, "timestep_spacing": spacing}
    ours, stock = DDPMScheduler(**settings), StockDDPMScheduler(**settings)
    ours.set_timesteps(steps)
    stock.set_timesteps(steps)
    assert torch.equal(ours.timesteps, stock.timesteps)
    x = y = normal(0)
    for i, t in enumerate(ours.timesteps):
        output, noise = normal(10 + i), normal(20 + i)
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, noise=noise, **__: noise)
        mine, theirs = step(ours, output, t, x, variance_noise=noise), step(stock, output, t, y)
        torch.testing.assert_close(mine.pred_original_sample, theirs.pred_original_sample, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.prev_sample, theirs.prev_sample, rtol=1e-5, atol=1e-5)
        x, y = mine.prev_sample, theirs.prev_sample
    assert x.std() > 0.1


def test_noise_of_a_generator_given_as_noise_makes_the_same_step() -> None:
    ours = DDPMScheduler(**SD2)
    ours.set_timesteps(4)
    sample, output, t = normal(0), normal(1), ours.timesteps[1]
    drawn = torch.randn(sample.shape, generator=torch.Generator().manual_seed(7))
    by_generator = step(ours, output, t, sample, generator=torch.Generator().manual_seed(7)).prev_sample
    by_noise = step(ours, output, t, sample, variance_noise=drawn).prev_sample
    torch.testing.assert_close(by_noise, by_generator, rtol=0, atol=1e-6)
    assert (by_noise - step(ours, output, t, sample, variance_noise=0 * drawn).prev_sample).abs().max() > 0.1


def test_x0_is_clipped_where_the_configuration_says_so() -> None:
    ours = DDPMScheduler(**SD2 | {"clip_sample": True, "clip_sample_range": 0.5})
    ours.set_timesteps(4)
    stepped = step(ours, normal(1), ours.timesteps[0], normal(0), variance_noise=normal(2))
    assert stepped.pred_original_sample.abs().max() == 0.5


def test_a_step_to_the_end_of_the_chain_ends_at_x0() -> None:
    ours = DDPMScheduler(**SD2)
    ours.set_timesteps(4)
    last = ours.timesteps[-1]
    assert last == 1
    stepped = step(ours, normal(1), last, normal(0), variance_noise=normal(2))
    torch.testing.assert_close(stepped.prev_sample, stepped.pred_original_sample, rtol=0, atol=1e-6)


def test_without_return_dict_a_step_is_a_tuple() -> None:
    ours = DDPMScheduler(**SD2)
    ours.set_timesteps(4)
    given = normal(1), ours.timesteps[0], normal(0)
    named = step(ours, *given, variance_noise=normal(2))
    previous, x0 = ours.step(*given, return_dict=False, variance_noise=normal(2))
    assert torch.equal(previous, named.prev_sample) and torch.equal(x0, named.pred_original_sample)


def test_the_start_is_noised_to_the_published_level() -> None:
    ours = DDPMScheduler(**SD2)
    x = ours.add_noise(torch.ones(1, 1), torch.full((1, 1), 10.0), torch.tensor([999]))
    alpha_bar = 1.0
    for i in range(1000):
        alpha_bar *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
    assert alpha_bar == pytest.approx(0.0047, abs=5e-5)  # of Stable Diffusion: not zero
    assert x.item() == pytest.approx(alpha_bar**0.5 + 10 * (1 - alpha_bar) ** 0.5, rel=1e-4)


def test_timesteps_are_the_published_ones() -> None:
    ours = DDPMScheduler(**SD2)  # leading is what SD 2's PNDM file leaves to DDPM's default
    ours.set_timesteps(4)
    assert ours.timesteps.tolist() == [751, 501, 251, 1]
    ours.set_timesteps(50)
    assert ours.timesteps.tolist() == [20 * i + 1 for i in reversed(range(50))]
    turbo = DDPMScheduler(**SD2 | {"timestep_spacing": "trailing"})
    turbo.set_timesteps(2)
    assert turbo.timesteps.tolist() == [999, 499]


def test_a_saved_scheduler_opens_as_ours_and_as_that_of_diffusers(tmp_path) -> None:
    DDPMScheduler(**SD2).save_pretrained(tmp_path)
    for kind in (DDPMScheduler, StockDDPMScheduler):
        again = kind.from_pretrained(tmp_path)
        assert type(again) is kind and again.config.steps_offset == 1 and not again.config.clip_sample
        assert torch.equal(again.alphas_cumprod, DDPMScheduler(**SD2).alphas_cumprod)
