"""The samplers of Stable Diffusion by the names that users know, built for one call from a pipeline's scheduler."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler

from resdiff.schedulers.ddpm import DDPMScheduler
from resdiff.schedulers.spaced import SpacedDDIMScheduler, SpacedDDPMScheduler

SchedulerName = Literal["ddpm", "ddim", "unipc", "dpm++", "euler"]

_CLASSES = {
    "ddpm": DDPMScheduler,
    "ddim": DDIMScheduler,
    "unipc": UniPCMultistepScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
_SPACED = {"ddpm": SpacedDDPMScheduler, "ddim": SpacedDDIMScheduler}


def scheduler_named(name: str, config: Mapping[str, Any]) -> Any:
    """Return the scheduler called `name` with the noise levels of `config`; raises ValueError for an unknown name.

    A configuration with the key "published" is StableSR's (`resdiff.schedulers.spaced`): its DDPM and DDIM are then
    meant, and the others, which were never published with it, begin at t = 999 as well.
    """
    if name not in _CLASSES:
        raise ValueError(f"scheduler={name!r} is unknown; choose one of {', '.join(get_args(SchedulerName))}")
    if "published" not in config:
        return _CLASSES[name].from_config(dict(config))
    if name in _SPACED:
        return _SPACED[name].from_config(dict(config))
    common = {key: value for key, value in config.items() if key != "published"}
    return _CLASSES[name].from_config(common | {"timestep_spacing": "linspace"})
