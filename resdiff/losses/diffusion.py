"""Training losses of both processes: the squared error of what the network is trained to say.

Gaussian: Eq. (14) of DDPM (2006.11239), as StableSR and SeeSR are trained. Residual-shifting: ResShift (2307.12348),
Eq. (8) and (10); zsyOAOA/ResShift models/gaussian_diffusion.py `training_losses`. All published models are trained with
the plain mean squared error; the weights of the variational bound are `weighted=True`.
"""

from typing import Literal

from torch import Tensor

from resdiff.diffusion import gaussian
from resdiff.diffusion.resshift import PredictionType, ResShiftTables, loss_weights


def mse_per_sample(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each sample, (B, ...) -> (B,)."""
    return (prediction - target).square().flatten(1).mean(dim=1)


def error_per_sample(prediction: Tensor, target: Tensor, kind: Literal["mse", "l1"]) -> Tensor:
    """Return the mean squared or absolute error of each sample, (B, ...) -> (B,)."""
    return mse_per_sample(prediction, target) if kind == "mse" else (prediction - target).abs().flatten(1).mean(dim=1)


def gaussian_mse(
    model_output: Tensor,  # (B, C, H, W), at x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) noise
    x0: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,  # (B, 1, 1, 1)
    prediction_type: gaussian.PredictionType,
) -> Tensor:
    """Return the loss of each sample, (B,): all timesteps count alike; raises ValueError for an unknown prediction type."""
    return mse_per_sample(model_output, gaussian.training_target(x0, noise, alpha_bar, prediction_type))


def diffusion_mse(
    model_output: Tensor,  # (B, C, H, W)
    target: Tensor,  # `training_target` of the same prediction type
    t: Tensor,  # int64 (B,), indices of `tables`
    tables: ResShiftTables,
    prediction_type: PredictionType,
    weighted: bool = False,  # by the variational bound
) -> Tensor:
    """Return the loss of each sample, (B,).

    With "epsilon_scale" the target is kappa sqrt(eta_t) noise, and its error is divided by kappa^2 eta_t first, so that
    every step counts as if the noise itself were predicted. Raises ValueError for an unknown prediction type.
    """
    mse = mse_per_sample(model_output, target)
    if prediction_type == "epsilon_scale":
        mse = mse / (tables.kappa**2 * tables.etas.to(mse)[t])
    weights = loss_weights(tables, prediction_type).to(mse)
    return weights[t] * mse if weighted else mse
