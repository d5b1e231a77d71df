"""Gaussian diffusion agrees with its formulas, and with diffusers where that has the same one."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from resdiff.diffusion.gaussian import (
    classifier_free,
    ddim_step,
    model_output,
    posterior,
    predict_x0,
    pulled,
    rescaled_guidance,
    training_target,
    velocity,
)
from resdiff.losses.diffusion import gaussian_mse

ALPHA_BARS = (0.9991, 0.6, 0.25, 0.0047)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


# --- what the network's output says of x_0 -----------------------------------------------------------------------


@pytest.mark.parametrize("alpha_bar", ALPHA_BARS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_gives_x0_back(kind, alpha_bar) -> None:
    x0, eps = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    output = {"epsilon": eps, "v_prediction": a * eps - b * x0, "sample": x0}[kind]
    found = predict_x0(output, a * x0 + b * eps, scalar(alpha_bar), kind)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-12)


def test_x0_is_predicted_by_the_numbers() -> None:
    x_t, output = torch.tensor([1.0]), torch.tensor([0.5])
    assert predict_x0(output, x_t, torch.tensor(0.25)).item() == pytest.approx((1 - 0.75**0.5 * 0.5) / 0.5)
    assert predict_x0(output, x_t, torch.tensor(0.25), "v_prediction").item() == pytest.approx(0.5 - 0.75**0.5 * 0.5)


@pytest.mark.parametrize("function", [predict_x0, model_output, training_target])
def test_an_unknown_kind_of_prediction_is_one_line(function) -> None:
    with pytest.raises(ValueError, match="'flow' is unknown; choose epsilon, v_prediction or sample") as caught:
        function(torch.zeros(1), torch.zeros(1), torch.tensor(0.5), "flow")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("alpha_bar", ALPHA_BARS)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_output_that_means_an_x0_is_read_as_this_x0(kind, alpha_bar) -> None:
    x0, x_t = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    output = model_output(x0, x_t, scalar(alpha_bar), kind)
    torch.testing.assert_close(predict_x0(output, x_t, scalar(alpha_bar), kind), x0, rtol=0, atol=1e-12)
    again = model_output(predict_x0(x0, x_t, scalar(alpha_bar), kind), x_t, scalar(alpha_bar), kind)
    torch.testing.assert_close(again, x0, rtol=0, atol=1e-12)


def test_velocity_is_the_derivative_along_the_arc_from_image_to_noise() -> None:
    """x_t = cos(phi) x_0 + sin(phi) eps, dx_t / dphi = v, with alpha_bar = cos(phi)^2."""
    x0, eps, phi, small = normal(5), normal(5, seed=1), 0.7, 1e-6
    ahead, behind = (math.cos(p) * x0 + math.sin(p) * eps for p in (phi + small, phi - small))
    found = velocity(x0, eps, scalar(math.cos(phi) ** 2))
    torch.testing.assert_close(found, (ahead - behind) / (2 * small), rtol=0, atol=1e-8)


def test_velocity_by_the_numbers() -> None:
    assert velocity(torch.tensor(2.0), torch.tensor(3.0), torch.tensor(0.64)).item() == pytest.approx(2.4 - 1.2)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_says_its_target_has_no_loss(kind) -> None:
    x0, eps = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    alpha_bar = torch.tensor([0.9991, 0.25, 0.0047], dtype=torch.float64).reshape(3, 1, 1, 1)
    x_t = alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * eps
    perfect = model_output(x0, x_t, alpha_bar, kind)
    assert gaussian_mse(perfect, x0, eps, alpha_bar, kind).max() < 1e-20
    off = perfect + torch.tensor([0.0, 2.0, 3.0]).reshape(3, 1, 1, 1)
    torch.testing.assert_close(gaussian_mse(off, x0, eps, alpha_bar, kind), torch.tensor([0.0, 4.0, 9.0]).double())


# --- the step to an earlier time ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "before"), [(0.0047, 0.25), (0.25, 0.6), (0.6, 0.9991)])
def test_the_posterior_is_the_product_of_two_gaussians(now, before) -> None:
    """q(x_t' | x_t, x_0) is proportional to q(x_t | x_t') q(x_t' | x_0): precisions add, so do weighted means."""
    x0, x_t = normal(5), normal(5, seed=1)
    a = now / before
    forward, prior = a / (1 - a), 1 / (1 - before)
    mean = (x_t / math.sqrt(a) * forward + math.sqrt(before) * x0 * prior) / (forward + prior)
    found, variance = posterior(x0, x_t, scalar(now), scalar(before))
    torch.testing.assert_close(found, mean, rtol=1e-10, atol=1e-12)
    assert variance.item() == pytest.approx(1 / (forward + prior), rel=1e-10)


def test_the_last_step_ends_at_x0_without_variance() -> None:
    x0, x_t = normal(5), normal(5, seed=1)
    mean, variance = posterior(x0, x_t, scalar(0.999), scalar(1.0))
    torch.testing.assert_close(mean, x0, rtol=0, atol=1e-12)
    assert variance.item() == 0


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_step_of_ddim_is_that_of_diffusers(kind, eta) -> None:
    stock = DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False, prediction_type=kind)
    stock.set_timesteps(10)  # its step goes from t to t - 100
    x_t, output, noise = (normal(2, 3, 4, 4, seed=seed).float() for seed in range(3))
    now, before = stock.alphas_cumprod[700], stock.alphas_cumprod[600]
    mean, variance = ddim_step(predict_x0(output, x_t, now, kind), x_t, now, before, eta)
    theirs = stock.step(output, 700, x_t, eta=eta, variance_noise=noise).prev_sample
    torch.testing.assert_close(mean + variance.sqrt() * noise, theirs, rtol=0, atol=2e-6)
    assert eta == 0 or (theirs - mean).abs().max() > 0.01


@pytest.mark.parametrize(("now", "before"), [(0.0047, 0.25), (0.25, 0.6), (0.6, 0.9991), (0.9991, 1.0)])
def test_ddim_with_all_noise_is_the_posterior(now, before) -> None:
    x0, x_t = normal(5), normal(5, seed=1)
    mean, variance = ddim_step(x0, x_t, scalar(now), scalar(before), eta=1.0)
    expected, same = posterior(x0, x_t, scalar(now), scalar(before))
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-12)
    assert variance.item() == pytest.approx(same.item(), rel=1e-12)


def test_ddim_without_noise_stays_between_the_same_image_and_noise() -> None:
    x0, eps = normal(5), normal(5, seed=1)
    x_t = 0.5 * x0 + math.sqrt(0.75) * eps
    mean, variance = ddim_step(x0, x_t, scalar(0.25), scalar(0.64))
    torch.testing.assert_close(mean, 0.8 * x0 + 0.6 * eps, rtol=0, atol=1e-12)
    assert variance.item() == 0


# --- towards a reference -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lr", "steps"), [(0.05, 1), (0.05, 2), (0.5, 10), (0.7, 3), (0.1, 0)])
def test_pulling_is_so_many_steps_of_gradient_descent_for_each_image(lr, steps) -> None:
    start, reference = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    x0 = start.clone()
    for _ in range(steps):
        x0.requires_grad_()
        (gradient,) = torch.autograd.grad((x0 - reference).square().sum(), x0)
        x0 = (x0 - lr * gradient).detach()
    found = pulled(start, reference, lr, steps)
    torch.testing.assert_close(found, x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1:2], pulled(start[1:2], reference[1:2], lr, steps), rtol=0, atol=0)


def test_no_step_leaves_the_prediction_as_it_is_and_half_a_unit_arrives_at_once() -> None:
    x0, reference = normal(1, 2, 4, 4), normal(1, 2, 4, 4, seed=1)
    assert torch.equal(pulled(x0, reference, 0.3, 0), x0)
    assert torch.equal(pulled(x0, reference, 0.5, 1), reference)


# --- guidance ----------------------------------------------------------------------------------------------------


def test_guidance_of_scale_one_is_the_prompt_alone_and_of_zero_the_negative_one() -> None:
    negative, positive = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(classifier_free(negative, positive, 1.0), positive)
    assert torch.equal(classifier_free(negative, positive, 0.0), negative)


def test_guidance_goes_on_in_a_line() -> None:
    negative, positive = torch.full((1, 1, 2, 2), 2.0), torch.full((1, 1, 2, 2), 3.0)
    assert torch.equal(classifier_free(negative, positive, 5.5), torch.full((1, 1, 2, 2), 7.5))


@pytest.mark.parametrize("rescale", [0.3, 0.7, 1.0])
def test_rescaled_guidance_is_that_of_diffusers(rescale) -> None:
    guided, conditional = 3 * normal(2, 4, 6, 5) + 0.4, normal(2, 4, 6, 5, seed=1)
    expected = rescale_noise_cfg(guided, conditional, guidance_rescale=rescale)
    torch.testing.assert_close(rescaled_guidance(guided, conditional, rescale), expected, rtol=0, atol=1e-12)


def test_full_rescaling_gives_each_image_the_deviation_of_its_own_conditional_prediction() -> None:
    guided = normal(2, 4, 6, 5) * torch.tensor([3.0, 10.0]).reshape(2, 1, 1, 1)
    conditional = normal(2, 4, 6, 5, seed=1) * torch.tensor([1.0, 0.5]).reshape(2, 1, 1, 1)
    rescaled = rescaled_guidance(guided, conditional, 1.0)
    torch.testing.assert_close(rescaled.flatten(1).std(dim=1), conditional.flatten(1).std(dim=1))


def test_no_rescaling_leaves_the_guided_prediction_as_it_is() -> None:
    guided = normal(1, 4, 3, 3)
    assert rescaled_guidance(guided, torch.zeros_like(guided), 0.0) is guided
