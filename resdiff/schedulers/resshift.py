"""`ResShiftScheduler`: the residual-shifting process as a diffusers scheduler.

Differs from stock schedulers in one point: every formula needs y, the encoded low-resolution image, which is passed as
the keyword `y`. Timesteps are indices of the schedule the network was trained with, also after respacing.
"""

from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.diffusion.resshift import InputScaling, PredictionType, Respacing, check_choice


@dataclass
class ResShiftSchedulerOutput(BaseOutput):
    """prev_sample: x_{t-1} (B, C, H, W); pred_original_sample: the x_0 it was drawn around."""

    prev_sample: Tensor
    pred_original_sample: Tensor


class ResShiftScheduler(SchedulerMixin, ConfigMixin):
    """Noise schedule, samplers and input scaling of ResShift (2307.12348) and SinSR (2311.14760).

    The defaults are those of the published 15-step models. Raises ValueError for unknown choices.
    """

    order = 1
    _compatibles: list[str] = []  # noqa: RUF012 (read by diffusers as a plain list)

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 15,
        min_noise_level: float = 0.04,
        etas_end: float = 0.99,  # bounds sqrt(eta_T)
        kappa: float = 2.0,
        power: float = 0.3,
        cap_start: bool = False,  # the start rule of the v1.0/v2.0 code and of SinSR
        prediction_type: PredictionType = "xstart",
        input_scaling: InputScaling = "latent",
        data_var: float = 1.0,  # variance of x_0 in "latent" scaling
        respacing: Respacing = "reference",
        deterministic: bool = False,  # SinSR's step instead of a draw from the posterior
        clip_sample: bool = False,  # clamp predicted x_0 to [-1, 1]; the reference does so without an autoencoder
    ):
        check_choice("prediction_type", prediction_type, PredictionType)
        check_choice("input_scaling", input_scaling, InputScaling)
        check_choice("respacing", respacing, Respacing)
        sqrt_etas = resshift.sqrt_eta_schedule(
            num_train_timesteps,
            min_noise_level=min_noise_level,
            etas_end=etas_end,
            kappa=kappa,
            power=power,
            cap_start=cap_start,
        )
        self.train_tables = resshift.resshift_tables(sqrt_etas, kappa)
        self.set_timesteps(num_train_timesteps)

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Keep `num_inference_steps` of the trained steps (`timesteps`, descending); 1 means x_0 predicted at t = T-1.

        Raises ValueError for more steps than were trained.
        """
        total = self.config.num_train_timesteps
        kept = resshift.respaced_timesteps(total, num_inference_steps, self.config.respacing)
        self.tables = resshift.resshift_tables(self.train_tables.sqrt_etas[kept], self.config.kappa)
        self._index_of = {t: i for i, t in enumerate(kept)}
        self.num_inference_steps = num_inference_steps
        self.timesteps = torch.tensor(kept[::-1], dtype=torch.int64, device=device)
        self.init_noise_sigma = float(self.config.kappa * self.tables.sqrt_etas[-1])

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def index(self, timestep: int | Tensor) -> int:
        """Return the position of a trained timestep in the respaced schedule."""
        t = int(timestep)
        if t not in self._index_of:
            raise ValueError(
                f"timestep={t} is not in the current schedule {sorted(self._index_of)}; call set_timesteps"
            )
        return self._index_of[t]

    def prior_sample(self, y: Tensor, noise: Tensor) -> Tensor:
        """Return x_T = y + kappa sqrt(eta_T) noise."""
        return resshift.prior_sample(y, noise, self.tables)

    def scale_model_input(self, sample: Tensor, timestep: int | Tensor) -> Tensor:
        """Return x_t brought to about unit variance, as the network expects it."""
        return resshift.scale_input(
            sample, self.index(timestep), self.tables, self.config.input_scaling, self.config.data_var
        )

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, *, y: Tensor) -> Tensor:
        """Draw x_t from q(x_t | x_0, y) of the trained schedule; timesteps int64 [B]."""
        return resshift.q_sample(original_samples, y, timesteps, noise, self.train_tables)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        *,
        y: Tensor,
        noise: Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> ResShiftSchedulerOutput | tuple[Tensor, Tensor]:
        """Return x_{t-1} given the network's output at x_t = `sample`, all (B, C, H, W).

        `noise` (standard normal) wins over `generator`; the deterministic step needs neither. At the last step noise is
        drawn but not used, as in the reference.
        """
        i, config = self.index(timestep), self.config
        x0 = resshift.predict_x0(model_output, sample, y, i, self.tables, config.prediction_type)
        if config.clip_sample:
            x0 = x0.clamp(-1, 1)
        if config.deterministic:
            previous = resshift.deterministic_step(x0, sample, y, i, self.tables)
        else:
            if noise is None:
                noise = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
            previous = resshift.posterior_step(x0, sample, i, noise, self.tables)
        if not return_dict:
            return previous, x0
        return ResShiftSchedulerOutput(prev_sample=previous, pred_original_sample=x0)
