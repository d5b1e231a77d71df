"""diffusers' `DDPMScheduler`, given its noise: a chain's draws then depend neither on the batch nor on the device."""

from typing import Any

import torch
from diffusers import DDPMScheduler as StockDDPMScheduler
from diffusers import SchedulerMixin  # noqa: F401 (diffusers looks for it here)
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from torch import Tensor

from resdiff.diffusion.gaussian import posterior, predict_x0

LEAST_VARIANCE = 1e-20  # as in diffusers: a step to t = 0 draws noise too, of weight 1e-10


class DDPMScheduler(StockDDPMScheduler):
    """As diffusers', whose `step` also takes `variance_noise`; the variance is then "fixed_small", as for all of these models."""

    def step(
        self,
        model_output: Tensor,
        timestep: int,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,  # standard normal, of the sample's shape
    ) -> DDPMSchedulerOutput | tuple[Tensor, ...]:
        """Return x at the previous timestep, Eq. (7) of DDPM (2006.11239)."""
        if variance_noise is None:
            return super().step(model_output, timestep, sample, generator, return_dict)
        previous = self.previous_timestep(timestep)
        alpha_bar = self.alphas_cumprod[timestep]
        alpha_bar_prev = self.alphas_cumprod[previous] if previous >= 0 else torch.ones_like(alpha_bar)
        x0 = predict_x0(model_output, sample, alpha_bar, self.config.prediction_type)
        if self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        x, variance = posterior(x0, sample, alpha_bar, alpha_bar_prev)
        if timestep > 0:
            x = x + variance.clamp(min=LEAST_VARIANCE).sqrt() * variance_noise
        return DDPMSchedulerOutput(prev_sample=x, pred_original_sample=x0) if return_dict else (x, x0)
