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
    raise unknown(prediction_type)


def velocity(x0: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 of Salimans and Ho, section 4 and appendix D."""
    return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0


def training_target(x0: Tensor, eps: Tensor, alpha_bar: Tensor, prediction_type: PredictionType) -> Tensor:
    """Return what a network is trained to say where x_0 was noised by eps: eps, v or x_0.

    Raises ValueError for another prediction type.
    """
    if prediction_type == "epsilon":
        return eps
    if prediction_type == "v_prediction":
        return velocity(x0, eps, alpha_bar)
    if prediction_type == "sample":
        return x0
    raise unknown(prediction_type)


def model_output(x0: Tensor, x_t: Tensor, alpha_bar: Tensor, prediction_type: PredictionType = "epsilon") -> Tensor:
    """Return the network's output that means x_0 at x_t, the inverse of `predict_x0`; alpha_bar must be below 1.

    A changed prediction reaches any sampler in this form. Raises ValueError for another prediction type.
    """
    eps = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
    return training_target(x0, eps, alpha_bar, prediction_type)


def unknown(prediction_type: str) -> ValueError:
    """Return the error for a prediction type that there is not."""
    return ValueError(f"prediction_type={prediction_type!r} is unknown; choose epsilon, v_prediction or sample")


def posterior(x0: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of q(x_t' | x_t, x_0) at the earlier time t', Eq. (7) of DDPM with a = alpha_bar / alpha_bar_prev.

    mean = sqrt(alpha_bar_prev) (1 - a) / (1 - alpha_bar) x_0 + sqrt(a) (1 - alpha_bar_prev) / (1 - alpha_bar) x_t,
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) (1 - a), a scalar.
    """
    alpha = alpha_bar / alpha_bar_prev
    mean = alpha_bar_prev.sqrt() * (1 - alpha) / (1 - alpha_bar) * x0
    mean = mean + alpha.sqrt() * (1 - alpha_bar_prev) / (1 - alpha_bar) * x_t
    return mean, (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha)


def ddim_step(
    x0: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return mean and variance of x at the earlier time t', Eq. (12) and (16) of DDIM (2010.02502); eta = 1 is `posterior`.

    mean = sqrt(alpha_bar_prev) x_0 + sqrt(1 - alpha_bar_prev - variance) eps, with the eps that x_0 means at x_t;
    variance = eta^2 (1 - alpha_bar_prev) / (1 - alpha_bar) (1 - alpha_bar / alpha_bar_prev), a scalar.
    """
    variance = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    eps = model_output(x0, x_t, alpha_bar)
    return alpha_bar_prev.sqrt() * x0 + (1 - alpha_bar_prev - variance).sqrt() * eps, variance


def pulled(x0: Tensor, reference: Tensor, lr: float, steps: int) -> Tensor:
    """Return x_0 after `steps` times x_0 <- x_0 - 2 lr (x_0 - reference), descent on the squared distance.

    IceClear/StableSR ldm/models/diffusion/ddpm.py `p_mean_variance`, which divides lr by the batch size: an image would
    depend on the others of its batch. Both of one shape; lr = 0.5 arrives at the reference in one step.
    """
    return reference.lerp(x0, (1 - 2 * lr) ** steps)


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
