"""Arithmetic of Gaussian diffusion: what a network's output says of x_0, the step to an earlier time, guidance.

DDPM (2006.11239), v-prediction of Salimans and Ho (2202.00512). All tensors of one chain have one shape; the cumulative
products alpha_bar are scalars or broadcast to it.
"""

from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "sample"]


def predict_x0(output: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction_type: PredictionType = "epsilon") -> Tensor:
    """Return the x_0 that a network's output means at x_t = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps.

    epsilon: (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar), Eq. (15) of DDPM; v_prediction: sqrt(alpha_bar) x_t -
    sqrt(1 - alpha_bar) v. Raises ValueError for another prediction type.
    """
    if prediction_type == "epsilon":
        return (x_t - (1 - alpha_bar).sqrt() * output) / alpha_bar.sqrt()
    if prediction_type == "v_prediction":
        return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * output
    if prediction_type == "sample":
        return output
    raise ValueError(f"prediction_type={prediction_type!r} is unknown; choose epsilon, v_prediction or sample")


def posterior(x0: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of q(x_t' | x_t, x_0) at the earlier time t', Eq. (7) of DDPM with a = alpha_bar / alpha_bar_prev.

    mean = sqrt(alpha_bar_prev) (1 - a) / (1 - alpha_bar) x_0 + sqrt(a) (1 - alpha_bar_prev) / (1 - alpha_bar) x_t,
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) (1 - a), a scalar.
    """
    alpha = alpha_bar / alpha_bar_prev
    mean = alpha_bar_prev.sqrt() * (1 - alpha) / (1 - alpha_bar) * x0
    mean = mean + alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar) * x_t
    return mean, (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha)


def rescaled_guidance(guided: Tensor, conditional: Tensor, rescale: float) -> Tensor:
    """Bring the deviation of a guided prediction back towards that of the conditional one, 2305.08891 section 3.4.

    Both (B, C, H, W), the deviation of each image; rescale 0 changes nothing, 1 brings it all the way.
    """
    if rescale == 0:
        return guided
    sides = tuple(range(1, guided.ndim))
    ratio = conditional.std(dim=sides, keepdim=True) / guided.std(dim=sides, keepdim=True)
    return guided.lerp(guided * ratio, rescale)


def classifier_free(negative: Tensor, positive: Tensor, scale: float, rescale: float = 0.0) -> Tensor:
    """Return negative + scale (positive - negative), 2207.12598 in the form of diffusers, see `rescaled_guidance`."""
    return rescaled_guidance(torch.add(negative, positive - negative, alpha=scale), positive, rescale)
