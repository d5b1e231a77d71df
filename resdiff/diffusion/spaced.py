"""Stable Diffusion's noise levels, and chains that visit only some of them, as StableSR does.

IDDPM (2102.09672) section 4 for the respacing, DDIM (2010.02502) for the other list; IceClear/StableSR
ldm/models/diffusion/ddpm.py `space_timesteps` and ddim.py. A chain of N steps is a float64 tensor [N+1] of alpha_bar:
first the level at which it ends, then those of its timesteps, ascending.
"""

import math

import torch
from torch import Tensor


def scaled_linear_betas(beta_start: float = 0.00085, beta_end: float = 0.012, train_timesteps: int = 1000) -> Tensor:
    """Return beta_t of Stable Diffusion, whose square roots are linear in t, float64 [train_timesteps]."""
    return torch.linspace(math.sqrt(beta_start), math.sqrt(beta_end), train_timesteps, dtype=torch.float64).square()


def spaced_timesteps(steps: int, train_timesteps: int = 1000) -> list[int]:
    """Return the timesteps of a chain of `steps` steps, ascending from 0 to train_timesteps - 1.

    One step is at 0, as published. Raises ValueError unless 1 <= steps <= train_timesteps.
    """
    check_steps(steps, train_timesteps)
    stride = (train_timesteps - 1) / max(1, steps - 1)
    kept, position = [], 0.0
    for _ in range(steps):
        kept.append(round(position))  # half to even
        position += stride  # not k stride, whose rounding errors are others
    return kept


def ddim_timesteps(steps: int, train_timesteps: int = 1000) -> list[int]:
    """Return the timesteps from which the published DDIM takes its alphas, ascending: every (T // steps)-th from 0 on.

    The network sees those of `spaced_timesteps`. Where `steps` does not divide T, the surplus at the upper end is cut.
    Raises ValueError unless 1 <= steps <= train_timesteps.
    """
    check_steps(steps, train_timesteps)
    return list(range(0, train_timesteps, train_timesteps // steps))[:steps]


def levels(alpha_bars: Tensor, timesteps: list[int]) -> Tensor:
    """Return the levels of a chain over these ascending timesteps that ends at x_0, where alpha_bar is 1."""
    return torch.cat([alpha_bars.new_ones(1), alpha_bars[timesteps]])


def published_ddim_levels(alpha_bars: Tensor, steps: int) -> Tensor:
    """Return the levels of the published DDIM: of `ddim_timesteps`, and the chain ends at alpha_bar_0, not at x_0."""
    return torch.cat([alpha_bars[:1], alpha_bars[ddim_timesteps(steps, len(alpha_bars))]])


def check_steps(steps: int, train_timesteps: int) -> None:
    """Raise ValueError unless a chain may have so many steps."""
    if not 1 <= steps <= train_timesteps:
        raise ValueError(f"num_inference_steps={steps} must lie between 1 and the {train_timesteps} trained timesteps")
