"""Exponential moving average of the weights: diffusers' `EMAModel` with plain tensors to save and a context to use it.

`warmup` raises the decay as (1 + step) / (10 + step) up to `decay`; without it the decay is `decay` from the second step
on, as in ResShift (zsyOAOA/ResShift trainer.py), the first update being a copy.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor


class Ema:
    """Average of `parameters`, on their device.

    Raises ValueError for a decay outside [0, 1).
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], decay: float = 0.999, warmup: bool = True):
        if not 0 <= decay < 1:
            raise ValueError(f"--ema_decay {decay} must lie in [0, 1)")
        self.parameters = list(parameters)
        self._model = EMAModel(self.parameters, decay=decay, min_decay=0.0 if warmup else decay, foreach=True)

    def step(self) -> None:
        """Take the current weights in."""
        self._model.step(self.parameters)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the parameters for the time of the block."""
        trained = [p.detach().clone() for p in self.parameters]
        self._model.copy_to(self.parameters)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(list[Tensor](self.parameters), trained)

    def tensors(self) -> dict[str, Tensor]:
        """Return all state, for a checkpoint."""
        named = {f"shadow.{i}": p for i, p in enumerate(self._model.shadow_params)}
        return named | {"optimization_step": torch.tensor(self._model.optimization_step)}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` returned."""
        self._model.optimization_step = int(tensors["optimization_step"])
        for i, shadow in enumerate(self._model.shadow_params):
            shadow.copy_(tensors[f"shadow.{i}"])
