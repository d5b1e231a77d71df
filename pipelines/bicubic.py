"""`BicubicPipeline`: plain bicubic interpolation behind the same call, the baseline of every table."""

from torch import Tensor

from resdiff.noise import Noise
from resdiff.pipelines.base import OnStep, SRPipeline
from resdiff.pipelines.guidance import UNGUIDED, Guidance
from resdiff.resize import bicubic
from resdiff.sizes import scaled_size
from resdiff.tiling import Smooth


class BicubicPipeline(SRPipeline):
    """MATLAB's bicubic (a = -0.5, mirrored borders), in floats and rounded once. Has no components and no randomness."""

    max_steps = 1

    def __init__(self, scale: int = 4):
        super().__init__()
        self.register_to_config(scale=scale)
        self.native_scale = scale

    def default_tiling(self, size: int | None = None) -> Smooth:
        """Tiles whose seams no tap reaches: exact."""
        halo = 4
        return Smooth(max(size or 512, 4 * halo), overlap=2 * halo + 1, halo=halo)

    def restore(
        self,
        lq: Tensor,
        noise: Noise,
        *,
        mask: Tensor | None,
        num_inference_steps: int,
        on_step: OnStep,
        guidance: Guidance = UNGUIDED,
    ) -> Tensor:
        """Return the enlarged image; see `SRPipeline.restore`."""
        return bicubic(lq, scaled_size(lq.shape[-2], lq.shape[-1], self.native_scale), "matlab")
