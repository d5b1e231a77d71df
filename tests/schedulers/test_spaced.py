"""StableSR's samplers: one list of timesteps, or the published mismatch; whole chains arrive where they must."""

import logging
from typing import Any, get_args

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from torch import Tensor

from resdiff.diffusion.gaussian import model_output
from resdiff.schedulers.named import SchedulerName, scheduler_named
from resdiff.schedulers.spaced import SpacedDDIMScheduler, SpacedDDPMScheduler

BOTH = [SpacedDDPMScheduler, SpacedDDIMScheduler]
KINDS = ["epsilon", "v_prediction", "sample"]
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape or (2, 4, 6, 5), generator=torch.Generator().manual_seed(seed))


def step(scheduler: Any, *given: Any, **noise: Any) -> Any:
    """One step, with its names."""
    return scheduler.step(*given, **noise)


def descent(scheduler: Any, x0: Tensor, x: Tensor, steps: int, seed: int = 100, **arguments: Any) -> Tensor:
    """Return the end of a chain of a network that knows x_0, given its noise."""
    scheduler.set_timesteps(steps)
    for i, t in enumerate(scheduler.timesteps):
        output = model_output(x0, x, scheduler.alpha_bar(t), scheduler.config.prediction_type)
        x = step(scheduler, output, t, x, variance_noise=normal(seed + i, *x.shape), **arguments).prev_sample
    return x


# --- timesteps and levels ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_a_chain_goes_from_the_last_trained_timestep_to_the_first(kind) -> None:
    scheduler = kind()
    scheduler.set_timesteps(5)
    assert scheduler.timesteps.tolist() == [999, 749, 500, 250, 0]
    assert [scheduler.previous_timestep(t) for t in scheduler.timesteps] == [749, 500, 250, 0, -1]
    assert [scheduler.index(t) for t in scheduler.timesteps] == [4, 3, 2, 1, 0]
    assert (scheduler.init_noise_sigma, scheduler.order, len(scheduler)) == (1.0, 1, 1000)


@pytest.mark.parametrize("kind", BOTH)
def test_one_step_is_where_the_noise_is_or_where_it_was_published(kind) -> None:
    for published, only in ((False, 999), (True, 0)):
        scheduler = kind(published=published)
        scheduler.set_timesteps(1)
        assert scheduler.timesteps.tolist() == [only]
        assert scheduler.alpha_bar(only).item() == pytest.approx(scheduler.alphas_cumprod[only].item(), rel=1e-6)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("steps", [4, 7, 600])  # 7 and 600 do not divide 1000
def test_a_step_counts_with_the_level_of_the_timestep_that_the_network_sees(kind, steps) -> None:
    scheduler = kind()
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        assert scheduler.alpha_bar(t).item() == pytest.approx(scheduler.alphas_cumprod[t].item(), rel=1e-6)
    assert scheduler.alpha_bars[0] == 1 and len(scheduler.alpha_bars) == steps + 1


def test_the_published_ddim_counts_with_the_levels_of_other_timesteps() -> None:
    scheduler = SpacedDDIMScheduler(published=True)
    scheduler.set_timesteps(20)
    others = list(range(950, -1, -50))
    assert scheduler.timesteps.tolist()[:3] == [999, 946, 894]
    for t, other in zip(scheduler.timesteps, others, strict=True):
        assert scheduler.alpha_bar(t).item() == pytest.approx(scheduler.alphas_cumprod[other].item(), rel=1e-6)
    scheduler.set_timesteps(7)  # range(0, 1000, 142) has eight
    assert scheduler.alpha_bar(999).item() == pytest.approx(scheduler.alphas_cumprod[852].item(), rel=1e-6)


def test_the_published_ddpm_differs_in_chains_of_one_step_alone() -> None:
    ours, published = SpacedDDPMScheduler(), SpacedDDPMScheduler(published=True)
    for scheduler in (ours, published):
        scheduler.set_timesteps(7)
    assert torch.equal(ours.timesteps, published.timesteps) and torch.equal(ours.alpha_bars, published.alpha_bars)


@pytest.mark.parametrize("kind", BOTH)
def test_noise_levels_are_those_of_stable_diffusion(kind) -> None:
    stock = DDPMScheduler(**SD)
    torch.testing.assert_close(kind().alphas_cumprod, stock.alphas_cumprod, rtol=1e-5, atol=0)
    x = kind().add_noise(torch.ones(1, 1), torch.full((1, 1), 10.0), torch.tensor([999]))
    assert x.item() == pytest.approx(0.06826 + 10 * 0.99767, rel=1e-5)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("steps", [0, 1001])
def test_an_impossible_number_of_steps_leaves_the_chain_as_it_was(kind, steps) -> None:
    scheduler = kind()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match=f"num_inference_steps={steps} must lie between 1 and the 1000"):
        scheduler.set_timesteps(steps)
    assert scheduler.timesteps.tolist() == [999, 666, 333, 0] and scheduler.num_inference_steps == 4


@pytest.mark.parametrize("kind", BOTH)
def test_a_timestep_outside_the_chain_is_one_line(kind) -> None:
    scheduler = kind()
    scheduler.set_timesteps(4)
    with pytest.raises(ValueError, match="timestep=500 is not among the 4 of this chain; call set_timesteps") as caught:
        step(scheduler, normal(0), 500, normal(1))
    assert "\n" not in str(caught.value)


# --- chains ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("says", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_network_that_knows_the_image_leads_every_chain_to_it(kind, says, steps) -> None:
    x0 = 3 * normal(0)
    found = descent(kind(prediction_type=says), x0, normal(1), steps, **{"eta": 0.7} if kind is BOTH[1] else {})
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-4)


@pytest.mark.parametrize("says", KINDS)
def test_ddim_without_noise_passes_through_mixtures_of_one_image_and_one_noise(says) -> None:
    scheduler, x0, eps = SpacedDDIMScheduler(prediction_type=says), normal(0), normal(1)
    scheduler.set_timesteps(7)
    x = scheduler.add_noise(x0, eps, torch.tensor([999]))
    for t in scheduler.timesteps[:-1]:
        output = model_output(x0, x, scheduler.alpha_bar(t), says)
        x = step(scheduler, output, t, x).prev_sample
        expected = scheduler.add_noise(x0, eps, torch.tensor([scheduler.previous_timestep(t)]))
        torch.testing.assert_close(x, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("steps", [1, 4, 7])
def test_the_published_ddim_ends_at_the_first_level_and_not_at_the_image(steps) -> None:
    scheduler, x0, eps = SpacedDDIMScheduler(published=True), normal(0), normal(1)
    scheduler.set_timesteps(steps)
    first = scheduler.alpha_bar(scheduler.timesteps[0])
    found = descent(scheduler, x0, first.sqrt() * x0 + (1 - first).sqrt() * eps, steps)
    expected = scheduler.add_noise(x0, eps, torch.tensor([0]))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
    assert (found - x0).abs().max() > 0.05


def test_the_published_prediction_is_read_by_the_mismatched_level() -> None:
    """eps = sqrt(a) v + sqrt(1 - a) x, x_0 = (x - sqrt(1 - a) eps) / sqrt(a), with a of t = 750 where the network sees 999."""
    scheduler, v, x = SpacedDDIMScheduler(published=True, prediction_type="v_prediction"), normal(0), normal(1)
    scheduler.set_timesteps(4)
    a, before = scheduler.alphas_cumprod[750].double(), scheduler.alphas_cumprod[500].double()
    eps = a.sqrt() * v + (1 - a).sqrt() * x
    x0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
    found = step(scheduler, v, 999, x, eta=0.0)
    torch.testing.assert_close(found.pred_original_sample, x0, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.prev_sample, before.sqrt() * x0 + (1 - before).sqrt() * eps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [4, 5, 50])
def test_a_step_of_ddpm_carries_noised_images_to_the_level_before(steps) -> None:
    """x_t of mean sqrt(a) x_0 and variance 1 - a becomes x of mean sqrt(a') x_0 and variance 1 - a'."""
    scheduler, x0 = SpacedDDPMScheduler(prediction_type="sample"), normal(0).double()
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        now, before = scheduler.alpha_bar(t), scheduler.alpha_bars[scheduler.index(t)]
        mean = step(scheduler, x0, t, now.sqrt() * x0, variance_noise=0 * x0).prev_sample
        torch.testing.assert_close(mean, before.sqrt() * x0, rtol=0, atol=1e-12)
        kept = step(scheduler, 0 * x0, t, torch.ones_like(x0), variance_noise=0 * x0).prev_sample
        added = step(scheduler, 0 * x0, t, 0 * x0, variance_noise=torch.ones_like(x0)).prev_sample
        variance = kept.square() * (1 - now) + added.square()
        torch.testing.assert_close(variance, (1 - before).expand_as(x0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("says", KINDS)
def test_ddpm_is_that_of_diffusers_on_the_same_timesteps(says) -> None:
    ours = SpacedDDPMScheduler(prediction_type=says)
    stock = DDPMScheduler(**SD, prediction_type=says, timestep_spacing="linspace")
    for scheduler in (ours, stock):
        scheduler.set_timesteps(5)
    assert torch.equal(ours.timesteps, stock.timesteps)
    for i, t in enumerate(ours.timesteps):
        x, output = normal(2 * i), normal(2 * i + 1)
        found, theirs = (step(s, output, t, x, generator=torch.Generator().manual_seed(7)) for s in (ours, stock))
        torch.testing.assert_close(found.pred_original_sample, theirs.pred_original_sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.prev_sample, theirs.prev_sample, rtol=1e-4, atol=1e-4)


def test_all_noise_makes_ddim_the_same_as_ddpm() -> None:
    x0, x = normal(0), normal(1)
    ddpm, ddim = (kind(prediction_type="v_prediction") for kind in BOTH)
    for scheduler in (ddpm, ddim):
        scheduler.set_timesteps(4)
    noise = normal(2)
    found = step(ddim, x0, 666, x, eta=1.0, variance_noise=noise).prev_sample
    torch.testing.assert_close(found, step(ddpm, x0, 666, x, variance_noise=noise).prev_sample, rtol=0, atol=1e-5)


def test_x0_is_not_clipped() -> None:
    for kind in BOTH:
        scheduler = kind()
        scheduler.set_timesteps(4)
        assert step(scheduler, normal(1), 999, normal(0)).pred_original_sample.abs().max() > 5


@pytest.mark.parametrize("kind", BOTH)
def test_an_image_does_not_depend_on_the_others_of_its_batch(kind) -> None:
    scheduler, x = kind(), normal(0)
    scheduler.set_timesteps(4)
    output, noise = normal(1), normal(2)
    eta = {"eta": 1.0} if kind is SpacedDDIMScheduler else {}
    both = step(scheduler, output, 666, x, variance_noise=noise, **eta).prev_sample
    alone = step(scheduler, output[1:], 666, x[1:], variance_noise=noise[1:], **eta).prev_sample
    assert torch.equal(both[1:], alone)


# --- noise -------------------------------------------------------------------------------------------------------


def test_ddpm_draws_in_every_step_and_does_not_use_the_last_draw() -> None:
    scheduler, generator = SpacedDDPMScheduler(), torch.Generator().manual_seed(3)
    scheduler.set_timesteps(2)
    last = step(scheduler, normal(1), 0, normal(0), generator=generator)
    assert torch.equal(last.prev_sample, step(scheduler, normal(1), 0, normal(0), variance_noise=normal(9)).prev_sample)
    torch.randn(2, 4, 6, 5, generator=(expected := torch.Generator().manual_seed(3)))
    assert torch.equal(generator.get_state(), expected.get_state())


@pytest.mark.parametrize("kind", BOTH)
def test_noise_of_a_generator_given_as_noise_makes_the_same_step(kind) -> None:
    scheduler = kind()
    scheduler.set_timesteps(4)
    eta = {"eta": 0.5} if kind is SpacedDDIMScheduler else {}
    by_generator = step(scheduler, normal(1), 666, normal(0), generator=torch.Generator().manual_seed(7), **eta)
    by_noise = step(scheduler, normal(1), 666, normal(0), variance_noise=normal(7), **eta)
    assert torch.equal(by_generator.prev_sample, by_noise.prev_sample)
    other = step(scheduler, normal(1), 666, normal(0), variance_noise=normal(8), **eta)
    assert (other.prev_sample - by_noise.prev_sample).abs().max() > 0.1


@pytest.mark.parametrize("kind", BOTH)
def test_a_step_keeps_the_type_of_its_sample_and_is_a_tuple_where_asked(kind) -> None:
    scheduler = kind()
    scheduler.set_timesteps(4)
    for dtype in (torch.float16, torch.float32):
        x, x0 = scheduler.step(normal(1).to(dtype), 333, normal(0).to(dtype), return_dict=False)
        assert x.dtype == x0.dtype == dtype


# --- configurations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_a_saved_scheduler_opens_as_it_was(kind, tmp_path) -> None:
    kind(prediction_type="v_prediction", published=True).save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert type(again) is kind and again.config.published and again.config.prediction_type == "v_prediction"
    assert torch.equal(again.alphas_cumprod, kind().alphas_cumprod)


@pytest.mark.parametrize("name", get_args(SchedulerName))
def test_every_sampler_opens_from_the_configuration_of_a_spaced_one(name, caplog) -> None:
    logging.getLogger("diffusers").addHandler(caplog.handler)
    for kind in BOTH:
        scheduler = scheduler_named(name, kind(beta_end=0.013, prediction_type="v_prediction").config)
        scheduler.set_timesteps(4)
        assert float(scheduler.timesteps[0]) == 999 and len(scheduler.timesteps) == 4
        config = scheduler.config
        assert (config.beta_start, config.beta_end, config.beta_schedule) == (0.00085, 0.013, "scaled_linear")
        assert config.prediction_type == "v_prediction"
        assert type(scheduler) is {"ddpm": BOTH[0], "ddim": BOTH[1]}.get(name, type(scheduler))
    logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert not caplog.records


def test_defaults_of_stable_diffusion_are_not_lost_to_those_of_other_samplers() -> None:
    """diffusers leaves out what a configuration says it did not get from its caller."""
    for kind in (DDIMScheduler, EulerDiscreteScheduler):
        scheduler = kind.from_config({k: v for k, v in SpacedDDPMScheduler().config.items() if k != "published"})
        torch.testing.assert_close(scheduler.alphas_cumprod, DDPMScheduler(**SD).alphas_cumprod)
    assert not SpacedDDPMScheduler().config.clip_sample


def test_the_published_slips_can_be_asked_of_any_configuration() -> None:
    for config in (SpacedDDPMScheduler().config, DDPMScheduler(**SD, timestep_spacing="leading").config):
        scheduler = scheduler_named("ddim", dict(config) | {"published": True})
        scheduler.set_timesteps(20)
        assert type(scheduler) is SpacedDDIMScheduler and int(scheduler.timesteps[0]) == 999
        assert scheduler.alpha_bar(999).item() == pytest.approx(scheduler.alphas_cumprod[950].item(), rel=1e-6)
    euler = scheduler_named("euler", dict(SpacedDDPMScheduler().config) | {"timestep_spacing": "leading"})
    assert euler.config.timestep_spacing == "linspace"


def test_a_configuration_that_is_not_of_a_spaced_one_opens_as_before() -> None:
    config = DDPMScheduler(**SD, timestep_spacing="trailing").config
    assert type(scheduler_named("ddim", config)) is DDIMScheduler
    assert not isinstance(scheduler_named("ddpm", config), SpacedDDPMScheduler)
