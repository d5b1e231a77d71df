"""The samplers of Stable Diffusion by the names that users know, built for one call from a pipeline's scheduler."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

from resdiff.schedulers.ddpm import DDPMScheduler

SchedulerName = Literal["ddpm", "ddim", "unipc", "dpm++", "euler"]

_CLASSES = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "unipc": UniPCMultistepScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


def scheduler_named(name: str, config: Mapping[str, Any]) -> Any:
    """Return the scheduler called `name` with the noise levels of `config`; raises ValueError for an unknown name."""
    if name not in _CLASSES:
        raise ValueError(f"scheduler={name!r} is unknown; choose one of {', '.join(get_args(SchedulerName))}")
    return _CLASSES[name].from_config(dict(config))
