"""The samplers that a call takes by name."""

from typing import get_args

import diffusers
import pytest
import torch

from resdiff.schedulers.ddpm import DDPMScheduler
from resdiff.schedulers.named import SchedulerName, scheduler_named

CONFIG = DDPMScheduler(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="scaled_linear",
    steps_offset=1,
    clip_sample=False,
    prediction_type="v_prediction",
    timestep_spacing="trailing",
).config
CLASSES = {
    "ddpm": DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "dpm++": diffusers.DPMSolverMultistepScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
}


def test_every_name_has_a_sampler() -> None:
    assert set(get_args(SchedulerName)) == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_a_named_sampler_has_the_noise_levels_of_the_model(name) -> None:
    scheduler = scheduler_named(name, CONFIG)
    assert type(scheduler) is CLASSES[name]
    assert (scheduler.config.prediction_type, scheduler.config.timestep_spacing) == ("v_prediction", "trailing")
    torch.testing.assert_close(scheduler.alphas_cumprod, DDPMScheduler.from_config(CONFIG).alphas_cumprod)
    scheduler.set_timesteps(4)
    assert round(float(scheduler.timesteps[0])) == 999 and len(scheduler.timesteps) == 4


@pytest.mark.parametrize("name", CLASSES)
def test_a_configuration_passes_from_sampler_to_sampler_unharmed(name) -> None:
    before = dict(CONFIG)
    again = scheduler_named("ddpm", scheduler_named(name, CONFIG).config)
    assert dict(CONFIG) == before
    assert all(again.config[key] == value for key, value in before.items() if key[0] != "_")


@pytest.mark.parametrize("name", ["DDIM", "k_euler", ""])
def test_an_unknown_name_is_one_line_that_lists_the_known(name) -> None:
    with pytest.raises(ValueError, match=r"is unknown; choose one of ddpm, ddim, unipc, dpm\+\+, euler$") as caught:
        scheduler_named(name, CONFIG)
    assert "\n" not in str(caught.value) and repr(name) in str(caught.value)
