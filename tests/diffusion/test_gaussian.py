"""Gaussian diffusion agrees with its formulas, and with diffusers where that has the same one."""

import math

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from torch import Tensor

from resdiff.diffusion.gaussian import classifier_free, posterior, predict_x0, rescaled_guidance

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


def test_an_unknown_kind_of_prediction_is_one_line() -> None:
    with pytest.raises(ValueError, match="'flow' is unknown; choose epsilon, v_prediction or sample") as caught:
        predict_x0(torch.zeros(1), torch.zeros(1), torch.tensor(0.5), "flow")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


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
