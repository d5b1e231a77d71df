"""What only SeeSR's and AddSR's calls take, checked before anything runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from resdiff.pipelines.inputs import check_fraction
from resdiff.pipelines.stable_diffusion_options import SamplerOptions, StableDiffusionOptions
from resdiff.text.prompts import script_prompt


@dataclass(frozen=True, kw_only=True)
class AdapterOptions(StableDiffusionOptions):
    """Options that SeeSR and AddSR share: tags and the ControlNet's weight."""

    tags: str | Sequence[str] | Literal[False] | None = (
        None  # of all images or of each; False: none; None: the tagger's
    )
    tags_cache: bool = False  # keep the tagger's tags as <photo>.tags.json beside photos that are files
    added_prompt: str | None = None  # None: the model's own, as published
    prompt_layout: Callable[[Any, str, str], str] = script_prompt  # (tags, prompt, added) -> text
    image_embeds: Tensor | None = None  # (B, N, 512), in place of the tagger's
    controlnet_conditioning_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SeeSROptions(SamplerOptions, AdapterOptions):
    """Options of `SeeSRPipeline.__call__`."""

    control_guidance_start: float = 0.0  # share of the steps at which the ControlNet begins to count
    control_guidance_end: float = 1.0

    def __post_init__(self) -> None:
        AdapterOptions.__post_init__(self)
        SamplerOptions.__post_init__(self)
        start, end = self.control_guidance_start, self.control_guidance_end
        if not 0 <= start < end <= 1:
            raise ValueError(f"control_guidance_start={start}, control_guidance_end={end}: need 0 <= start < end <= 1")


@dataclass(frozen=True, kw_only=True)
class AddSROptions(AdapterOptions):
    """Options of `AddSRPipeline.__call__`."""

    psr_weight: float = 0.5  # of the last prediction in the next step's condition; 0: no refinement; the code has 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fraction("psr_weight", self.psr_weight, "no refinement", "the prediction alone")
