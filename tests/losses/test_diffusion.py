"""The training losses of the residual-shifting process are what the formulas say."""

from typing import get_args

import pytest
import torch

from resdiff.diffusion import resshift
from resdiff.diffusion.resshift import PredictionType
from resdiff.losses.diffusion import diffusion_mse, mse_per_sample

TABLES = resshift.resshift_tables(resshift.sqrt_eta_schedule(15), 2.0)
T = torch.tensor([1, 7, 14])


def test_mse_is_a_mean_for_each_sample() -> None:
    target = torch.zeros(2, 3, 4, 5)
    prediction = torch.stack([torch.full((3, 4, 5), 2.0), torch.full((3, 4, 5), -3.0)])
    assert mse_per_sample(prediction, target).tolist() == [4.0, 9.0]


@pytest.mark.parametrize("prediction_type", ["xstart", "residual", "epsilon"])
def test_unweighted_loss_is_the_plain_mse(prediction_type: PredictionType) -> None:
    output, target = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    loss = diffusion_mse(output, target, T, TABLES, prediction_type)
    assert torch.equal(loss, mse_per_sample(output, target))


def test_scaled_noise_counts_as_the_noise_itself() -> None:
    x0, y, noise, output = torch.randn(4, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    scale = 2.0 * TABLES.sqrt_etas.float()[T][:, None, None, None]
    target = resshift.training_target(x0, y, noise, T, TABLES, "epsilon_scale")
    scaled = diffusion_mse(scale * output, target, T, TABLES, "epsilon_scale")
    assert torch.allclose(scaled, diffusion_mse(output, noise, T, TABLES, "epsilon"), rtol=1e-4)


@pytest.mark.parametrize("prediction_type", get_args(PredictionType))
def test_weights_multiply_the_loss_of_each_step(prediction_type: PredictionType) -> None:
    output, target = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    ratio = diffusion_mse(output, target, T, TABLES, prediction_type, weighted=True) / diffusion_mse(
        output, target, T, TABLES, prediction_type
    )
    assert torch.allclose(ratio.double(), resshift.loss_weights(TABLES, prediction_type)[T], rtol=1e-5)


def test_weight_of_x0_is_the_kl_between_posteriors() -> None:
    """KL of two normals with means coef x_0 apart: coef^2 (x_0 - x_0')^2 / (2 variance)."""
    x0 = torch.zeros(3, 1, 1, 1)
    loss = diffusion_mse(x0 + 1, x0, T, TABLES, "xstart", weighted=True)
    x_t = torch.zeros_like(x0)
    mean, variance, _ = resshift.q_posterior(x0, x_t, T, TABLES)
    other, _, _ = resshift.q_posterior(x0 + 1, x_t, T, TABLES)
    assert torch.allclose(loss, ((other - mean) ** 2 / (2 * variance)).flatten(), rtol=1e-5)


def test_gradient_reaches_the_output_alone() -> None:
    output = torch.ones(3, 1, 2, 2, requires_grad=True)
    target = torch.zeros(3, 1, 2, 2)
    diffusion_mse(output, target, T, TABLES, "xstart").sum().backward()
    assert torch.allclose(output.grad, torch.full_like(output, 0.5))


def test_unknown_prediction_type_is_an_error() -> None:
    x = torch.zeros(3, 1, 2, 2)
    with pytest.raises(ValueError, match="prediction_type='v' is unknown"):
        diffusion_mse(x, x, T, TABLES, "v")
