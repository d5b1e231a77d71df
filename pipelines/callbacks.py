"""What a caller's `callback_on_step_end` is shown after each step, and what it may change."""

from collections.abc import Sequence
from typing import Any

from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor


class StepShower:
    """The `on_step` of `SRPipeline.restore`: shows finished steps to a callback, which may replace the latents.

    Raises ValueError for the names of tensors that there are not.
    """

    def __init__(self, pipe: Any, callback: Any, names: Sequence[str]):
        if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
            names = callback.tensor_inputs
        known = pipe._callback_tensor_inputs
        if unknown := [name for name in names if name not in known]:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {', '.join(unknown)}; there are {', '.join(known)}"
            )
        self.pipe, self.callback, self.names = pipe, callback, names

    def __call__(self, step: int, timestep: Tensor, latents: Tensor, x0: Tensor) -> Tensor:
        """Return the latents to go on with."""
        if self.callback is None:
            return latents
        tensors = {"latents": latents, "pred_original_sample": x0}
        changed = self.callback(self.pipe, step, int(timestep), {name: tensors[name] for name in self.names})
        return (changed or {}).get("latents", latents)
