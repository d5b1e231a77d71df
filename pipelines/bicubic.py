"""`BicubicPipeline`: plain bicubic interpolation behind the same call, the baseline to look at beside any model."""

from torch import Tensor

from resdiff.noise import Noise
from resdiff.pipelines.base import OnStep, SRPipeline, scaled_size
from resdiff.resize import bicubic


class BicubicPipeline(SRPipeline):
    """Bicubic with Pillow's kernel (a = -0.5). Has no components and no randomness."""

    max_steps = 1

    def __init__(self, scale: int = 4):
        super().__init__()
        self.register_to_config(scale=scale)
        self.native_scale = scale

    def restore(
        self, lq: Tensor, noise: Noise, *, mask: Tensor | None, num_inference_steps: int, on_step: OnStep
    ) -> Tensor:
        """Return the enlarged image; see `SRPipeline.restore`."""
        return bicubic(lq, scaled_size(lq.shape[-2], lq.shape[-1], self.native_scale), "pil")
