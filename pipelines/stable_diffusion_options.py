"""What calls of every family on Stable Diffusion take besides those of all pipelines, checked before anything runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from diffusers import SchedulerMixin
from torch import Tensor

from resdiff.pipelines.autoencoding import VaeTiling, check_vae_tiling
from resdiff.pipelines.inputs import check_choice, check_fraction
from resdiff.schedulers.named import SchedulerName
from resdiff.text.clip import LongPrompt

LAST_TIMESTEP = 999


@dataclass(frozen=True, kw_only=True)
class StableDiffusionOptions:
    """Options on words, guidance and autoencoder; a row of a tensor belongs to an image."""

    prompt_embeds: Tensor | None = None  # (B, L, C), in place of `prompt`; see the pipeline's `encode_prompt`
    negative_prompt_embeds: Tensor | None = None
    long_prompt: LongPrompt = "truncate"  # what becomes of a text of more than 75 tokens; "chunk": all of it counts
    prompt_weighting: bool = False  # read (word:1.3) as a weight
    clip_skip: int | None = None  # layers of the text encoder left out at its end
    cross_attention_kwargs: Mapping[str, Any] | None = None  # as in diffusers: {"scale": 0.5} of a LoRA
    guidance_rescale: float = 0.0  # 2305.08891 section 3.4
    start_point: Literal["lr", "noise"] = "lr"  # the chain begins at the noised LR image, or at noise alone
    vae_tiling: VaeTiling = "auto"

    @property
    def lora_scale(self) -> float:
        """What the weights of LoRAs are multiplied by."""
        return (self.cross_attention_kwargs or {}).get("scale", 1.0)

    @property
    def for_attention(self) -> dict[str, Any]:
        """The `cross_attention_kwargs` that reach the attention."""
        return {k: v for k, v in (self.cross_attention_kwargs or {}).items() if k != "scale"}

    def __post_init__(self) -> None:
        check_choice("start_point", self.start_point, ("lr", "noise"))
        check_choice("long_prompt", self.long_prompt, ("truncate", "chunk"))
        check_vae_tiling(self.vae_tiling)
        check_fraction("guidance_rescale", self.guidance_rescale, "not at all", "fully")


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """Options of families that any sampler of Stable Diffusion serves."""

    start_steps: int = LAST_TIMESTEP  # timestep of the begin; steps at later ones are left out
    strength: float | None = None  # the same as a share of the chain, as in diffusers
    scheduler: Any = None  # "ddpm", "ddim", "unipc", "dpm++", "euler" or a scheduler; None: the pipeline's
    eta: float = 0.0  # of DDIM: 0 deterministic, 1 as much noise as DDPM

    def __post_init__(self) -> None:
        check_fraction("eta", self.eta, "deterministic", "as much noise as DDPM")
        if isinstance(self.scheduler, str):
            check_choice("scheduler", self.scheduler, get_args(SchedulerName))
        elif self.scheduler is not None and not isinstance(self.scheduler, SchedulerMixin):
            raise ValueError(f"scheduler is of type {type(self.scheduler).__name__}; pass a name or one of diffusers'")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"strength={self.strength!r} must lie above 0 (nothing changes) and up to 1 (all steps)")
        if self.strength is not None and self.start_steps != LAST_TIMESTEP:
            raise ValueError(
                f"strength={self.strength} and start_steps={self.start_steps} both say where to begin; leave one out"
            )
        if type(self.start_steps) is not int or not 0 <= self.start_steps <= LAST_TIMESTEP:
            raise ValueError(
                f"start_steps={self.start_steps!r} is a timestep; it must lie between 0 and {LAST_TIMESTEP}"
            )

    @property
    def first_timestep(self) -> int:
        """Timestep at which the chain begins, of 0 to 999."""
        return self.start_steps if self.strength is None else max(0, round(self.strength * (LAST_TIMESTEP + 1)) - 1)

    @property
    def asked_begin(self) -> str:
        """What was said of the begin, for messages."""
        return f"start_steps={self.start_steps}" if self.strength is None else f"strength={self.strength}"
