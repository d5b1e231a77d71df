"""What only StableSR's calls take, checked before anything runs."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

from resdiff.pipelines.inputs import check_counts
from resdiff.pipelines.stable_diffusion_options import LAST_TIMESTEP, SamplerOptions, StableDiffusionOptions


@dataclass(frozen=True, kw_only=True)
class StableSROptions(SamplerOptions, StableDiffusionOptions):
    """Options of `StableSRPipeline.__call__`.

    The reference's options pull the predicted x_0 of a step towards the latents of other images, as the published script
    for faces does, which has reference_lr 0.5, reference_steps 10 and reference_range (10, 1000).
    """

    faithful: bool = False  # the published sizes, windows, tiles, timesteps and order of draws, quirks included
    reference: Any = None  # images as `lr` takes them, one for each of lr
    reference_lr: float = 0.05  # of a step of gradient descent on |x_0 - reference|^2
    reference_steps: int = 1
    reference_range: tuple[int, int] = (100, LAST_TIMESTEP)  # timesteps; faithful: places in the list of those taken

    def __post_init__(self) -> None:
        StableDiffusionOptions.__post_init__(self)
        SamplerOptions.__post_init__(self)
        check_counts({"reference_steps": self.reference_steps})
        if not isinstance(self.reference_lr, Real) or not 0 < self.reference_lr <= 0.5:
            raise ValueError(f"reference_lr={self.reference_lr!r} must lie above 0 and up to 0.5 (all the way)")
        if not isinstance(self.reference_range, tuple) or len(self.reference_range) != 2:
            raise ValueError(f"reference_range={self.reference_range!r} must be two numbers, such as (100, 999)")
        if self.faithful and (self.vae_tiling != "auto" or self.strength is not None):
            raise ValueError("faithful=True has the published autoencoder and begin; leave out vae_tiling and strength")
