"""A chain of Stable Diffusion from x_t down to x_0 with whichever sampler; all arithmetic here is float32."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from resdiff.diffusion.gaussian import model_output, predict_x0
from resdiff.noise import Noise
from resdiff.pipelines.stable_diffusion_options import SamplerOptions
from resdiff.schedulers.ddpm import DDPMScheduler, StockDDPMScheduler

Evaluate = Callable[[Tensor, Tensor, int], Tensor]  # x scaled for the network, t on its device, step -> eps or v
Guide = Callable[[Tensor, int], Tensor]  # the predicted x_0, step -> the x_0 to go on with


@dataclass(frozen=True)
class Chain:
    """A sampler and the timesteps that it takes; `first` (1,) is the one that x begins at."""

    scheduler: Any
    timesteps: Tensor  # on the CPU: a step that looks at them does not wait for the device
    first: Tensor


def chain_of(scheduler: Any, steps: int, options: SamplerOptions) -> Chain:
    """Return the chain of `steps` steps from where `options` begin it. Raises ValueError if none is left.

    As published, DDPM starts from t = 999 (`start_steps`) although its first step may be at an earlier timestep, and so
    does StableSR's published DDIM; other samplers start at their first timestep.
    """
    scheduler.set_timesteps(steps)
    begin = sum(int(t) > options.first_timestep for t in scheduler.timesteps)
    begin += -begin % scheduler.order  # samplers of second order take each timestep twice
    timesteps = scheduler.timesteps[begin:]
    if not len(timesteps):
        last = int(scheduler.timesteps[-1])
        raise ValueError(f"{options.asked_begin} leaves no step of {steps}, the last of which is at {last}; raise it")
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    is_fixed = isinstance(scheduler, StockDDPMScheduler) or scheduler.config.get("published", False)
    return Chain(scheduler, timesteps, timesteps.new_tensor([options.first_timestep]) if is_fixed else timesteps[:1])


def begun(scheduler: Any, first: Tensor, noise: Tensor, z: Tensor | None) -> Tensor:
    """Return the x_t that a chain starts from: latents z noised to timestep `first` (1,), or noise alone without z."""
    return noise * scheduler.init_noise_sigma if z is None else scheduler.add_noise(z, noise, first)


def checked_scheduler(scheduler: Any) -> Any:
    """Return `scheduler`; raises ValueError if it is none of Stable Diffusion's, as those of flow matching."""
    if not hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "add_noise"):
        name = type(scheduler).__name__
        raise ValueError(f"{name} is no scheduler of Stable Diffusion; use one such as DDPMScheduler or DDIMScheduler")
    return scheduler


def alpha_bar_at(scheduler: Any, t: Tensor) -> Tensor:
    """Return the alpha_bar that a step at `t` reckons with; published DDIM has another than the timestep's."""
    own = getattr(scheduler, "alpha_bar", None)
    return scheduler.alphas_cumprod[t.long()] if own is None else own(t)


def draws(scheduler: Any, eta: float, noise: Noise, draw: int, shape: torch.Size) -> dict[str, Any]:
    """Return the arguments by which a scheduler's step gets its noise, where it uses any.

    Where draws are in order one is made in every step, also in those that do not use it: the published samplers do.
    """
    takes = inspect.signature(scheduler.step).parameters
    arguments: dict[str, Any] = {"eta": eta} if "eta" in takes else {}
    if "variance_noise" in takes:
        is_random = isinstance(scheduler, DDPMScheduler) or eta > 0 or noise.in_order
        is_random |= str(getattr(scheduler.config, "algorithm_type", "")).startswith("sde")
        return arguments | ({"variance_noise": noise(draw, shape)} if is_random else {})
    return arguments | ({"generator": noise.generators(draw)} if "generator" in takes else {})


def sampled(
    pipe: Any,  # whose progress bar and `interrupt` are asked
    chain: Chain,
    x: Tensor,  # (B, C, h, w) at `chain.first`
    evaluate: Evaluate,
    noise: Noise,
    on_step: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    eta: float = 0.0,
    guide: Guide | None = None,
) -> Tensor:
    """Return the latents at the end of a chain, or the last predicted x_0 where it was interrupted."""
    scheduler, on_device, x0 = chain.scheduler, chain.timesteps.to(x.device), x
    for i, t in enumerate(pipe.progress_bar(chain.timesteps)):
        if pipe.interrupt:
            return x0
        scaled, kind = scheduler.scale_model_input(x, t), scheduler.config.prediction_type
        alpha_bar = alpha_bar_at(scheduler, t)
        output = evaluate(scaled, on_device[i], i)
        x0 = predict_x0(output, scaled, alpha_bar, kind)
        guided = x0 if guide is None else guide(x0, i)
        if guided is not x0:  # every sampler is told in its own language: by the output that means the changed x_0
            x0, output = guided, model_output(guided, scaled, alpha_bar, kind)
        x = scheduler.step(output, t, x, **draws(scheduler, eta, noise, i + 1, x.shape)).prev_sample
        x = on_step(i, t, x, x0)
    return x
