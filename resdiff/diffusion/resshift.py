"""Residual-shifting diffusion: the chain runs between an image x_0 and its degraded version y.

ResShift (Yue et al. 2023, 2307.12348; zsyOAOA/ResShift models/gaussian_diffusion.py) and the deterministic step of
SinSR (Wang et al. 2023, 2311.14760). Letters are the papers': x_0 the wanted image or latent, y the degraded one at the
same size, t = 0..T-1 the step (t = 0 is the last to be denoised), eta_t the share of the residual y - x_0 that has been
shifted in, kappa the noise level. Tables are float64; a lookup casts to float32, as the reference does.

Unlike the reference nothing here knows networks or autoencoders, and T = 1 is a valid schedule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

PredictionType = Literal["xstart", "residual", "epsilon", "epsilon_scale"]
InputScaling = Literal["latent", "pixel", "none"]
Respacing = Literal["reference", "trailing"]


def check_choice(name: str, value: str, choices: object) -> None:
    """Raise ValueError unless `value` is one of the strings of the Literal `choices`."""
    allowed = get_args(choices)
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}")


# --- schedule ----------------------------------------------------------------------------------------------------


def sqrt_eta_schedule(
    num_steps: int,  # T
    *,
    min_noise_level: float = 0.04,  # kappa * sqrt(eta_1) is kept near this
    etas_end: float = 0.99,  # bounds sqrt(eta_T), not eta_T
    kappa: float = 2.0,
    power: float = 0.3,  # p of Eq. (14): how fast the steps grow
    cap_start: bool = False,  # True: sqrt(eta_1) <= sqrt(0.001), the rule of the v1.0/v2.0 code and of SinSR
) -> Tensor:
    """Return sqrt(eta_t), t = 0..T-1, float64 [T]: the exponential schedule, Eq. (14) of ResShift.

    T = 1 gives [etas_end]. Raises ValueError for T < 1, a power or level that is not positive, or a start at or above
    the end, where the noise would not grow.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be at least 1")
    finite = all(map(math.isfinite, (min_noise_level, kappa, power)))
    if not (finite and min_noise_level > 0 and kappa > 0 and power > 0 and 0 < etas_end <= 1):
        raise ValueError(
            f"min_noise_level={min_noise_level}, kappa={kappa} and power={power} must be positive numbers and "
            f"etas_end={etas_end} in (0, 1]"
        )
    if num_steps == 1:
        return torch.tensor([etas_end], dtype=torch.float64)
    start = min(min_noise_level / kappa, min_noise_level)
    if cap_start:
        start = min(start, math.sqrt(0.001))
    if start >= etas_end:
        raise ValueError(f"min_noise_level={min_noise_level} starts at {start}, above etas_end={etas_end}; lower it")
    # The reference's own arithmetic, operation by operation: where eta_T is near 1, 1 - eta_T in the loss weights
    # multiplies every rounding error, and the power of 1/(T-1) below multiplies them by T-1.
    growth = math.exp(1 / (num_steps - 1) * math.log(etas_end / start))
    exponents = np.linspace(0, 1, num_steps) ** power * (num_steps - 1)
    return torch.from_numpy(growth**exponents * start).clamp(max=1.0)


def respaced_timesteps(num_train_timesteps: int, num_inference_steps: int, respacing: Respacing) -> list[int]:
    """Return the base indices that are kept, ascending.

    "reference" is int(T/S * j) as in models/respace.py, which drops T-1 when S < T, so that the chain starts at a lower
    eta; "trailing" always keeps T-1. One step is T-1 under either rule. Raises ValueError unless 1 <= S <= T.
    """
    t_max, steps = num_train_timesteps, num_inference_steps
    if not 1 <= steps <= t_max:
        raise ValueError(f"num_inference_steps={steps} must lie between 1 and the {t_max} steps of this schedule")
    check_choice("respacing", respacing, Respacing)
    if steps == 1:
        return [t_max - 1]
    if respacing == "reference":
        return sorted({int(t_max / steps * j) for j in range(steps)})
    return sorted({t_max - 1 - int(t_max / steps * j) for j in range(steps)})


@dataclass(frozen=True)
class ResShiftTables:
    """Everything that depends on the schedule alone; float64 tensors [T]."""

    kappa: float
    sqrt_etas: Tensor
    etas: Tensor
    etas_prev: Tensor  # eta_{t-1}, 0 at t = 0
    alpha: Tensor  # eta_t - eta_{t-1}
    posterior_variance: Tensor  # 0 at t = 0
    posterior_variance_clipped: Tensor  # entry 0 replaced by entry 1
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor  # of x_t
    posterior_mean_coef2: Tensor  # of x_0

    def __len__(self) -> int:
        return len(self.etas)


def resshift_tables(sqrt_etas: Tensor, kappa: float) -> ResShiftTables:
    """Return the tables of a (possibly respaced) schedule sqrt(eta_t), Eq. (5)-(7) of ResShift."""
    sqrt_etas = sqrt_etas.to(torch.float64)
    etas = sqrt_etas**2
    etas_prev = torch.cat([etas.new_zeros(1), etas[:-1]])
    alpha = etas - etas_prev
    variance = kappa**2 * etas_prev / etas * alpha
    # With one step there is no entry 1; the chain's own variance keeps the logarithm and the loss weight finite.
    first = variance[1:2] if len(etas) > 1 else kappa**2 * etas[:1]
    clipped = torch.cat([first, variance[1:]])
    return ResShiftTables(
        kappa=kappa,
        sqrt_etas=sqrt_etas,
        etas=etas,
        etas_prev=etas_prev,
        alpha=alpha,
        posterior_variance=variance,
        posterior_variance_clipped=clipped,
        posterior_log_variance_clipped=clipped.log(),
        posterior_mean_coef1=etas_prev / etas,
        posterior_mean_coef2=alpha / etas,
    )


def at(table: Tensor, t: Tensor | int, x: Tensor) -> Tensor:
    """Look `t` (an int or int64 [B]) up in a table; float32, shaped to broadcast over x (B, ...)."""
    values = table.to(device=x.device, dtype=torch.float32)[t]
    return values.reshape(-1, *[1] * (x.ndim - 1))


# --- forward process ---------------------------------------------------------------------------------------------


def q_mean_variance(x0: Tensor, y: Tensor, t: Tensor | int, tables: ResShiftTables) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_t | x_0, y), Eq. (2): N(x_0 + eta_t (y - x_0), kappa^2 eta_t I). Shapes (B, C, H, W)."""
    eta = at(tables.etas, t, x0)
    return x0 + eta * (y - x0), (tables.kappa**2 * eta).expand_as(x0)


def q_sample(x0: Tensor, y: Tensor, t: Tensor | int, noise: Tensor, tables: ResShiftTables) -> Tensor:
    """Draw x_t from q(x_t | x_0, y), Eq. (2), with standard normal `noise` of x_0's shape."""
    mean = x0 + at(tables.etas, t, x0) * (y - x0)
    return mean + tables.kappa * at(tables.sqrt_etas, t, x0) * noise


def prior_sample(y: Tensor, noise: Tensor, tables: ResShiftTables) -> Tensor:
    """Draw x_T from p(x_T | y), Eq. (4): N(y, kappa^2 eta_T I). The mean is y itself, not the mixture at t = T."""
    return y + tables.kappa * at(tables.sqrt_etas, len(tables) - 1, y) * noise


def q_posterior(x0: Tensor, x_t: Tensor, t: Tensor | int, tables: ResShiftTables) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and clipped log-variance of q(x_{t-1} | x_t, x_0, y), Eq. (7). y does not appear in it."""
    mean = at(tables.posterior_mean_coef1, t, x_t) * x_t + at(tables.posterior_mean_coef2, t, x_t) * x0
    variance = at(tables.posterior_variance, t, x_t).expand_as(x_t)
    log_variance = at(tables.posterior_log_variance_clipped, t, x_t).expand_as(x_t)
    return mean, variance, log_variance


# --- what the network sees and says ------------------------------------------------------------------------------


def scale_input(
    x_t: Tensor, t: Tensor | int, tables: ResShiftTables, scaling: InputScaling = "latent", data_var: float = 1.0
) -> Tensor:
    """Bring x_t to about unit variance (`_scale_input` of the reference).

    "latent": x_t / sqrt(data_var + kappa^2 eta_t), data_var 1 in latent space and 0.25 for images in [-1, 1];
    "pixel": x_t / (1 + 3 kappa sqrt(eta_t)), the reference's rule for images; "none": unchanged.
    """
    check_choice("scaling", scaling, InputScaling)
    if scaling == "none":
        return x_t
    if scaling == "pixel":
        return x_t / (1 + 3 * tables.kappa * at(tables.sqrt_etas, t, x_t))
    return x_t / torch.sqrt(data_var + tables.kappa**2 * at(tables.etas, t, x_t))


def training_target(
    x0: Tensor, y: Tensor, noise: Tensor, t: Tensor | int, tables: ResShiftTables, prediction_type: PredictionType
) -> Tensor:
    """Return what the network is trained to say about x_t = q_sample(x0, y, t, noise)."""
    check_choice("prediction_type", prediction_type, PredictionType)
    if prediction_type == "xstart":
        return x0
    if prediction_type == "residual":
        return y - x0
    if prediction_type == "epsilon":
        return noise
    return tables.kappa * at(tables.sqrt_etas, t, x0) * noise


def predict_x0(
    model_output: Tensor,
    x_t: Tensor,
    y: Tensor,
    t: Tensor | int,
    tables: ResShiftTables,
    prediction_type: PredictionType,
) -> Tensor:
    """Return the x_0 that a network's output means; the inverse of `training_target`."""
    check_choice("prediction_type", prediction_type, PredictionType)
    if prediction_type == "xstart":
        return model_output
    if prediction_type == "residual":
        return y - model_output
    scaled_noise = model_output
    if prediction_type == "epsilon":
        scaled_noise = tables.kappa * at(tables.sqrt_etas, t, x_t) * model_output
    return (x_t - scaled_noise - at(tables.etas, t, x_t) * y) / at(1 - tables.etas, t, x_t)


def predict_eps(x0: Tensor, x_t: Tensor, y: Tensor, t: Tensor | int, tables: ResShiftTables) -> Tensor:
    """Return the noise that leads from (x_0, y) to x_t, Eq. (2) solved for it."""
    without_noise = at(1 - tables.etas, t, x_t) * x0 + at(tables.etas, t, x_t) * y
    return (x_t - without_noise) / (tables.kappa * at(tables.sqrt_etas, t, x_t))


def loss_weights(tables: ResShiftTables, prediction_type: PredictionType) -> Tensor:
    """Return the weight of each step's squared error in the variational bound, float64 [T] (weighted_mse)."""
    check_choice("prediction_type", prediction_type, PredictionType)
    if prediction_type in ("xstart", "residual"):
        coefficient = tables.posterior_mean_coef2
    else:
        coefficient = tables.kappa * tables.alpha / ((1 - tables.etas) * tables.sqrt_etas)
    return 0.5 / tables.posterior_variance_clipped * coefficient**2


# --- reverse process ---------------------------------------------------------------------------------------------


def posterior_step(x0: Tensor, x_t: Tensor, t: int, noise: Tensor, tables: ResShiftTables) -> Tensor:
    """Draw x_{t-1} from the posterior, Eq. (7); at t = 0 this is x_0 and the noise is not used."""
    mean, _, log_variance = q_posterior(x0, x_t, t, tables)
    return mean if t == 0 else mean + torch.exp(0.5 * log_variance) * noise


def deterministic_coefficients(t: Tensor | int, x: Tensor, tables: ResShiftTables) -> tuple[Tensor, Tensor, Tensor]:
    """(k, m, j) of SinSR's step x_{t-1} = k x_0 + m x_t + j y, from float32 lookups as in its code."""
    etas_prev = at(tables.etas_prev, t, x)
    mixed = torch.sqrt(at(tables.etas_prev * tables.etas, t, x))
    m = torch.sqrt(at(tables.etas_prev / tables.etas, t, x))
    return 1 - etas_prev + mixed - m, m, etas_prev - mixed


def deterministic_step(x0: Tensor, x_t: Tensor, y: Tensor, t: int, tables: ResShiftTables) -> Tensor:
    """SinSR Eq. (5): the x_{t-1} that has the same noise as x_t. At t = 0 this is x_0."""
    k, m, j = deterministic_coefficients(t, x_t, tables)
    return k * x0 + m * x_t + j * y


def deterministic_sample(
    denoise: Callable[[Tensor, int], Tensor], x_T: Tensor, y: Tensor, tables: ResShiftTables
) -> Tensor:
    """Run SinSR's deterministic chain from x_T down to x_0; denoise(x_t, t) predicts x_0 at index t of the tables."""
    x_t = x_T
    for t in reversed(range(len(tables))):
        x_t = deterministic_step(denoise(x_t, t), x_t, y, t, tables)
    return x_t


def inverse_step(x0: Tensor, x_prev: Tensor, y: Tensor, t: int, tables: ResShiftTables) -> Tensor:
    """Undo `deterministic_step`: x_t from x_{t-1}, for t = 1..T-1. Raises ValueError at t = 0, which has no inverse."""
    if t < 1:
        raise ValueError(f"t={t} has no inverse step; t runs from 1 to {len(tables) - 1}")
    k, m, j = deterministic_coefficients(t, x_prev, tables)
    return (x_prev - k * x0 - j * y) / m
