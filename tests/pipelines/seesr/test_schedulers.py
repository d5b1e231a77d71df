"""SeeSR under every sampler that its users know: by name, assigned, with skipped steps, with windows of control."""

import copy
import inspect
import math
from typing import Any

import diffusers
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from resdiff.diffusion.gaussian import classifier_free
from resdiff.pipelines import denoising
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.schedulers.ddpm import DDPMScheduler

LR = torch.rand(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
NAMES = ["ddpm", "ddim", "unipc", "dpm++", "euler"]
ASSIGNED: dict[str, tuple[Any, dict[str, Any]]] = {
    "Euler a": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "LCM": (diffusers.LCMScheduler, {}),
    "stock DDPM": (diffusers.DDPMScheduler, {}),
    "PNDM": (diffusers.PNDMScheduler, {"skip_prk_steps": True}),
    "Heun": (diffusers.HeunDiscreteScheduler, {}),
    "SDE-DPM++": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ Karras": (diffusers.DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(pipe, images: Tensor = LR[:1], **options) -> Tensor:
    """Images of 3 steps, without guidance unless it is asked for; each result has the seed of its number."""
    options = {"num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "pt"} | options
    options.setdefault("generator", [seeded(i) for i in range(len(images))])
    return pipe(images, **options).images


@pytest.fixture
def own(seesr) -> SeeSRPipeline:
    """A pipeline of the test's own around the shared networks, whose scheduler may be replaced."""
    pipe = SeeSRPipeline.from_pipe(seesr, scheduler=DDPMScheduler.from_config(seesr.scheduler.config))
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Watched:
    """Stands before a scheduler and keeps what its methods are given."""

    def __init__(self, pipe, monkeypatch):
        self.added: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []  # sample, noise, timestep, result
        self.steps: list[tuple[int, Tensor, Tensor]] = []  # timestep, x_t, output
        add_noise, step = pipe.scheduler.add_noise, pipe.scheduler.step

        def watched_add_noise(sample: Tensor, noise: Tensor, t: Tensor) -> Tensor:
            result = add_noise(sample, noise, t)
            self.added.append((sample, noise, t, result))
            return result

        def watched_step(output: Tensor, t: Tensor, x: Tensor, **given):
            self.steps.append((int(t), x, output))
            return step(output, t, x, **given)

        vars(watched_step)["__signature__"] = inspect.signature(step)  # the pipeline looks at it
        monkeypatch.setattr(pipe.scheduler, "add_noise", watched_add_noise)
        monkeypatch.setattr(pipe.scheduler, "step", watched_step)

    @property
    def timesteps(self) -> list[int]:
        return [t for t, _, _ in self.steps]


@pytest.fixture
def watched(own, monkeypatch):
    return own, Watched(own, monkeypatch)


# --- by name and by assignment -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_named_sampler_gives_one_image_for_one_seed_alone_and_in_a_batch(seesr, name) -> None:
    kept, config = seesr.scheduler, dict(seesr.scheduler.config)
    together = run(seesr, LR, scheduler=name)
    assert torch.isfinite(together).all() and together.std() > 0.05
    alone = [run(seesr, LR[1:], scheduler=name, generator=seeded(1)) for _ in range(2)]
    assert torch.equal(*alone) and (together[1:] - alone[0]).abs().max() <= 1 / 255
    other = run(seesr, LR[1:], scheduler=name, generator=seeded(5))
    assert (other - alone[0]).abs().max() > 0.02
    assert seesr.scheduler is kept and dict(kept.config) == config


def test_named_samplers_differ_and_ddpm_is_the_default(seesr) -> None:
    images = {name: run(seesr, scheduler=name) for name in NAMES}
    assert torch.equal(images["ddpm"], run(seesr))
    names = list(images)
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert (images[a] - images[b]).abs().max() > 1 / 255, (a, b)


@pytest.mark.parametrize("name", ASSIGNED)
def test_an_assigned_sampler_of_diffusers_works_as_a_named_one(own, name) -> None:
    kind, options = ASSIGNED[name]
    own.scheduler = kind.from_config(own.scheduler.config, **options)
    together = run(own, LR)
    assert torch.isfinite(together).all() and together.std() > 0.05
    alone = run(own, LR[1:], generator=seeded(1))
    assert (together[1:] - alone).abs().max() <= 1 / 255
    assert torch.equal(run(own, LR[1:], generator=seeded(1), scheduler=own.scheduler), alone)


@pytest.mark.parametrize("name", ["Euler a", "stock DDPM", "LCM", "SDE-DPM++"])
def test_samplers_that_draw_by_themselves_draw_for_each_image_and_step(own, name, monkeypatch) -> None:
    kind, options = ASSIGNED[name]
    own.scheduler = kind.from_config(own.scheduler.config, **options)
    seen, step = [], own.scheduler.step

    def watched_step(*given, **named):
        draw = named.get("variance_noise")
        if draw is None:
            draw = torch.stack([torch.randn(4, generator=g.clone_state()) for g in named["generator"]])
        seen.append(draw.flatten(1)[:, :4])
        return step(*given, **named)

    vars(watched_step)["__signature__"] = inspect.signature(step)  # the pipeline looks at it
    monkeypatch.setattr(own.scheduler, "step", watched_step)
    run(own, LR)
    rows = torch.cat(seen)
    assert rows.shape == (3 * 2, 4)
    assert len({tuple(row.tolist()) for row in rows}) == 6


def test_a_given_scheduler_is_that_of_one_call(seesr) -> None:
    ddim = diffusers.DDIMScheduler.from_config(seesr.scheduler.config)
    kept, plain = seesr.scheduler, run(seesr)
    assert torch.equal(run(seesr, scheduler=ddim), run(seesr, scheduler="ddim"))
    assert seesr.scheduler is kept and torch.equal(run(seesr), plain)


def test_ddim_with_all_of_its_noise_is_ddpm(seesr) -> None:
    ddpm = run(seesr, start_point="noise")
    ddim = run(seesr, start_point="noise", scheduler="ddim", eta=1.0)
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-4)
    assert (run(seesr, start_point="noise", scheduler="ddim") - ddpm).abs().max() > 0.05
    half = run(seesr, start_point="noise", scheduler="ddim", eta=0.5)
    assert min((half - ddpm).abs().max(), (half - ddim).abs().max()) > 0.02


def test_an_unknown_sampler_is_one_line_before_anything_runs(seesr, monkeypatch) -> None:
    monkeypatch.setattr(seesr, "steer", lambda *_: pytest.fail("the photo was looked at already"))
    with pytest.raises(ValueError, match=r"scheduler='k_lms' is unknown; choose one of ddpm, ddim") as caught:
        run(seesr, scheduler="k_lms")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [diffusers.FlowMatchEulerDiscreteScheduler, diffusers.EDMEulerScheduler])
def test_a_sampler_of_other_models_is_one_line(own, kind, monkeypatch) -> None:
    monkeypatch.setattr(own, "steer", lambda *_: pytest.fail("the photo was looked at already"))
    own.scheduler = kind()
    with pytest.raises(ValueError, match=rf"{kind.__name__} .*Stable Diffusion") as caught:
        run(own)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"{kind.__name__} .*Stable Diffusion"):
        run(own, scheduler=kind())


def test_something_that_is_no_scheduler_is_one_line(seesr) -> None:
    with pytest.raises(ValueError, match="scheduler is of type int; pass a name or one of diffusers'") as caught:
        run(seesr, scheduler=3)
    assert "\n" not in str(caught.value)


# --- where the chain begins --------------------------------------------------------------------------------------


def noised(z: Tensor, noise: Tensor, t: int) -> Tensor:
    """sqrt(abar_t) z + sqrt(1 - abar_t) noise, with Stable Diffusion's noise levels from their formula."""
    alpha_bar = 1.0
    for i in range(t + 1):
        alpha_bar *= 1 - (0.00085**0.5 + (0.012**0.5 - 0.00085**0.5) * i / 999) ** 2
    return math.sqrt(alpha_bar) * z + math.sqrt(1 - alpha_bar) * noise


def test_ddpm_begins_with_the_lr_image_noised_to_999_though_its_first_step_is_earlier(watched) -> None:
    pipe, seen = watched
    run(pipe)
    ((z, noise, t, x),) = seen.added
    assert t.tolist() == [999] and seen.timesteps == [667, 334, 1]
    torch.testing.assert_close(x, noised(z, noise, 999), rtol=0, atol=1e-4)
    assert torch.equal(seen.steps[0][1], x)
    assert 0.8 < noise.std() < 1.2


def test_diffusers_own_ddpm_is_the_same_one(own) -> None:
    expected, seen = run(own), []
    own.scheduler = diffusers.DDPMScheduler.from_config(own.scheduler.config)
    add_noise = own.scheduler.add_noise

    def watched_add_noise(z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        seen.append(t.tolist())
        return add_noise(z, noise, t)

    own.scheduler.add_noise = watched_add_noise
    image = run(own)
    assert seen == [[999]]
    assert image.shape == expected.shape  # its draws are its own


def test_other_samplers_begin_at_their_first_timestep(own, monkeypatch) -> None:
    for kind in (diffusers.DDIMScheduler, diffusers.DPMSolverMultistepScheduler):
        own.scheduler = kind.from_config(own.scheduler.config)
        with monkeypatch.context() as patch:
            seen = Watched(own, patch)
            run(own)
        ((z, noise, t, x),) = seen.added
        assert t.tolist() == seen.timesteps[:1]
        torch.testing.assert_close(x, noised(z, noise, seen.timesteps[0]), rtol=0, atol=1e-4)


def test_euler_begins_with_the_noise_scaled_as_it_counts(own, monkeypatch) -> None:
    own.scheduler = diffusers.EulerDiscreteScheduler.from_config(own.scheduler.config)
    seen = Watched(own, monkeypatch)
    run(own)
    ((z, noise, _, x),) = seen.added
    sigma = own.scheduler.sigmas[0]
    torch.testing.assert_close(x, z + sigma * noise, rtol=0, atol=1e-4)
    torch.testing.assert_close(x / (sigma**2 + 1).sqrt(), noised(z, noise, seen.timesteps[0]), rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["ddpm", "euler"])
def test_without_the_lr_image_the_chain_begins_at_noise(seesr, name) -> None:
    noise = torch.randn(1, 4, 4, 5, generator=seeded(3))
    image = run(seesr, scheduler=name, start_point="noise", latents=noise)
    assert torch.equal(image, run(seesr, scheduler=name, start_point="noise", latents=noise))
    assert (image - run(seesr, scheduler=name, latents=noise)).abs().max() > 1 / 255
    assert (image - run(seesr, scheduler=name, start_point="noise", latents=-noise)).abs().max() > 1 / 255


# --- skipped steps -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "first", "timesteps"),
    [
        ({"start_steps": 999}, 999, [751, 501, 251, 1]),
        ({"start_steps": 700}, 700, [501, 251, 1]),
        ({"start_steps": 501}, 501, [501, 251, 1]),
        ({"start_steps": 1}, 1, [1]),
        ({"strength": 1.0}, 999, [751, 501, 251, 1]),
        ({"strength": 0.5}, 499, [251, 1]),
        ({"strength": 0.01}, 9, [1]),
    ],
)
def test_steps_later_than_the_begin_are_left_out(watched, options, first, timesteps) -> None:
    pipe, seen = watched
    run(pipe, num_inference_steps=4, **options)
    assert seen.added[0][2].tolist() == [first]
    assert seen.timesteps == timesteps


@pytest.mark.parametrize("name", ["ddim", "unipc", "dpm++", "euler"])
def test_every_sampler_can_begin_later(seesr, name) -> None:
    steps = []
    image = run(
        seesr,
        num_inference_steps=4,
        scheduler=name,
        strength=0.6,
        callback_on_step_end=lambda _pipe, _i, t, _tensors: steps.append(t),
    )
    assert torch.isfinite(image).all()
    assert steps and max(steps) <= 599 and len(steps) < 4
    assert (image - run(seesr, num_inference_steps=4, scheduler=name)).abs().max() > 1 / 255


def test_a_later_begin_keeps_more_of_the_lr_image(watched) -> None:
    pipe, seen = watched
    for strength in (1.0, 0.5, 0.02):
        run(pipe, strength=strength, num_inference_steps=4)
    distances = [(x - z).abs().mean() for z, _, _, x in seen.added]
    assert distances[0] > distances[1] > distances[2]


@pytest.mark.parametrize("first", [900, 700, 500, 300])
def test_a_sampler_of_the_second_order_begins_with_its_first_evaluation(own, first, monkeypatch) -> None:
    own.scheduler = diffusers.HeunDiscreteScheduler.from_config(own.scheduler.config)
    own.scheduler.set_timesteps(4)
    grid = own.scheduler.timesteps.tolist()  # t0, t1, t1, t2, t2, ...
    expected = [t for t in dict.fromkeys(grid) if t <= first]
    seen = Watched(own, monkeypatch)
    run(own, num_inference_steps=4, start_steps=first)
    assert seen.timesteps[0] == expected[0]
    assert len(seen.timesteps) == 2 * len(expected) - 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_steps": 1000}, "start_steps=1000 is a timestep; it must lie between 0 and 999"),
        ({"start_steps": -1}, "start_steps=-1 is a timestep"),
        ({"start_steps": 0.5}, "start_steps=0.5 is a timestep"),
        ({"start_steps": 0}, "start_steps=0 leaves no step of 3, the last of which is at 1; raise it"),
        ({"strength": 0.0}, "strength=0.0 must lie above 0"),
        ({"strength": 1.5}, "strength=1.5 must lie above 0"),
        ({"strength": 0.001}, "strength=0.001 leaves no step of 3"),
        ({"strength": 0.5, "start_steps": 500}, "strength=0.5 and start_steps=500 .*; leave one out"),
        ({"eta": 2.0}, "eta=2.0"),
        ({"guidance_rescale": -0.1}, "guidance_rescale=-0.1"),
        ({"control_guidance_start": 0.5, "control_guidance_end": 0.5}, "need 0 <= start < end <= 1"),
        ({"start_point": "hr"}, "start_point='hr'"),
    ],
)
def test_what_cannot_be_meant_is_one_line(seesr, options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(seesr, **options)
    assert "\n" not in str(caught.value)


# --- guidance and control ----------------------------------------------------------------------------------------


def test_guidance_is_rescaled_as_in_diffusers(own, monkeypatch) -> None:
    seen = []

    def watched(negative: Tensor, positive: Tensor, scale: float, rescale: float) -> Tensor:
        out = classifier_free(negative, positive, scale, rescale)
        seen.append((negative, positive, scale, rescale, out))
        return out

    monkeypatch.setattr(denoising, "classifier_free", watched)
    image = run(own, guidance_scale=5.5, guidance_rescale=0.7)
    assert len(seen) == 3
    for negative, positive, scale, rescale, out in seen:
        assert (scale, rescale) == (5.5, 0.7)
        expected = rescale_noise_cfg(negative + scale * (positive - negative), positive, guidance_rescale=rescale)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    assert (image - run(own, guidance_scale=5.5)).abs().max() > 1 / 255


@pytest.mark.parametrize(
    ("window", "called"),
    [
        ((0.0, 1.0), [751, 501, 251, 1]),
        ((0.0, 0.5), [751, 501]),
        ((0.5, 1.0), [251, 1]),
        ((0.25, 0.75), [501, 251]),
        ((0.1, 0.9), [501, 251]),
        ((0.9, 1.0), []),
    ],
)
def test_the_controlnet_counts_in_its_window(own, window, called) -> None:
    seen: list[int] = []
    hook = own.controlnet.register_forward_pre_hook(lambda _net, given: seen.append(int(given[1])))
    try:
        run(own, num_inference_steps=4, control_guidance_start=window[0], control_guidance_end=window[1])
    finally:
        hook.remove()
    assert seen == called


def test_the_controlnets_weight_counts_and_zero_leaves_it_out(own) -> None:
    seen = []
    hook = own.controlnet.register_forward_pre_hook(lambda _net, given: seen.append(int(given[1])))
    try:
        without = run(own, controlnet_conditioning_scale=0.0)
    finally:
        hook.remove()
    assert not seen
    half, full = run(own, controlnet_conditioning_scale=0.5), run(own)
    assert min((a - b).abs().max() for a, b in ((without, half), (half, full), (without, full))) > 1 / 255


def test_copies_of_a_pipeline_have_schedulers_of_their_own(seesr) -> None:
    other = copy.deepcopy(seesr)
    other.scheduler.set_timesteps(7)
    assert len(seesr.scheduler.timesteps) != 7
