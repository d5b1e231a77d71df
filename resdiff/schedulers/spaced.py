"""StableSR's DDPM and DDIM: chains from t = 999 to t = 0 over Stable Diffusion's noise levels, without clipping.

IceClear/StableSR ldm/models/diffusion/ddpm.py `p_sample` and ddim.py `p_sample_ddim`. A step depends on its arguments
alone, so chains may take turns on one scheduler.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, DDIMScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from resdiff.diffusion.gaussian import PredictionType, ddim_step, posterior, predict_x0
from resdiff.diffusion.spaced import levels, published_ddim_levels, scaled_linear_betas, spaced_timesteps
from resdiff.schedulers.ddpm import DDPMScheduler


class Spaced(SchedulerMixin, ConfigMixin):
    """What the two samplers share; goes before a scheduler of diffusers among the bases.

    Other samplers open its configuration as well, see `resdiff.schedulers.named`.
    """

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        prediction_type: PredictionType = "epsilon",
        published: bool = False,  # True: with the reference's slips; one step is at t = 0, and see `SpacedDDIMScheduler`
    ):
        super().__init__(  # registers all of these as well, so that no other sampler's defaults take their place
            num_train_timesteps=num_train_timesteps,
            beta_start=beta_start,
            beta_end=beta_end,
            beta_schedule="scaled_linear",
            clip_sample=False,
            prediction_type=prediction_type,
            timestep_spacing="linspace",  # of other samplers
        )
        betas = scaled_linear_betas(beta_start, beta_end, num_train_timesteps)
        self._train_alpha_bars = (1 - betas).cumprod(dim=0)
        self.alphas_cumprod = self._train_alpha_bars.float()  # which diffusers' `add_noise` moves to a device
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set `timesteps`, int64 [N], descending; a chain of one step predicts x_0 at t = 999, if not published.

        Raises ValueError for more steps than were trained.
        """
        total = self.config.num_train_timesteps
        kept = spaced_timesteps(num_inference_steps, total)
        if num_inference_steps == 1 and not self.config.published:
            kept = [total - 1]
        self.alpha_bars = self._levels(kept)
        self._index_of = {t: i for i, t in enumerate(kept)}
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(kept[::-1], dtype=torch.int64, device=device)

    def _levels(self, timesteps: list[int]) -> Tensor:
        """Return alpha_bar where the chain ends and at each of its timesteps, ascending, float64 [N+1]."""
        return levels(self._train_alpha_bars, timesteps)

    def index(self, timestep: int | Tensor) -> int:
        """Return the position of a timestep in the chain, 0 for the last to be denoised."""
        t = int(timestep)
        if t not in self._index_of:
            raise ValueError(f"timestep={t} is not among the {len(self._index_of)} of this chain; call set_timesteps")
        return self._index_of[t]

    def previous_timestep(self, timestep: int | Tensor) -> int:
        """Return the timestep that a step leads to, -1 for the end of the chain."""
        index = self.index(timestep)
        return -1 if index == 0 else int(self.timesteps[-index])

    def alpha_bar(self, timestep: int | Tensor) -> Tensor:
        """Return the alpha_bar of which a step at `timestep` computes x_0 from the network's output, a float64 scalar.

        For a published DDIM it is not `alphas_cumprod[timestep]`.
        """
        return self.alpha_bars[self.index(timestep) + 1]


class SpacedDDPMScheduler(Spaced, DDPMScheduler):
    """The posterior of the respaced chain, from which each step draws."""

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
        variance_noise: Tensor | None = None,  # standard normal, of the sample's shape
    ) -> DDPMSchedulerOutput | tuple[Tensor, Tensor]:
        """Return x at the previous timestep, Eq. (7) of DDPM (2006.11239).

        The last step, too, draws noise from `generator`, as published; its weight there is 0.
        """
        x0 = predict_x0(model_output, sample, self.alpha_bar(timestep), self.config.prediction_type)
        x, variance = posterior(x0, sample, self.alpha_bar(timestep), self.alpha_bars[self.index(timestep)])
        x = x + variance.sqrt() * given_or_drawn(variance_noise, sample, generator)
        return DDPMSchedulerOutput(prev_sample=x, pred_original_sample=x0) if return_dict else (x, x0)


class SpacedDDIMScheduler(Spaced, DDIMScheduler):
    """DDIM on the same timesteps.

    published: the network sees a timestep of `spaced_timesteps`, but the step takes the alpha_bar of `ddim_timesteps` at
    the same index, that of t = 950 where the network sees t = 999 of 20 steps, and the last step does not end at x_0.
    """

    def _levels(self, timesteps: list[int]) -> Tensor:
        """As the base's; published, the levels of another list, see the class."""
        if self.config.published:
            return published_ddim_levels(self._train_alpha_bars, len(timesteps))
        return super()._levels(timesteps)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,  # 0 deterministic, 1 as much noise as DDPM
        generator: Any = None,
        variance_noise: Tensor | None = None,  # standard normal, of the sample's shape
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """Return x at the previous timestep, Eq. (12) of DDIM (2010.02502)."""
        x0 = predict_x0(model_output, sample, self.alpha_bar(timestep), self.config.prediction_type)
        x, variance = ddim_step(x0, sample, self.alpha_bar(timestep), self.alpha_bars[self.index(timestep)], eta)
        if eta > 0:
            x = x + variance.sqrt() * given_or_drawn(variance_noise, sample, generator)
        return DDIMSchedulerOutput(prev_sample=x, pred_original_sample=x0) if return_dict else (x, x0)


def given_or_drawn(noise: Tensor | None, sample: Tensor, generator: Any) -> Tensor:
    """Return `noise`, or where there is none standard normal noise for `sample`."""
    if noise is not None:
        return noise
    return randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
