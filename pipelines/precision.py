"""Half precision with a way back: a result that is not finite is computed again in float32."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from resdiff.devices import is_hooked

logger = logging.getLogger(__name__)

HALF = (torch.float16, torch.bfloat16)


@contextmanager
def in_float32(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Let networks compute in float32; afterwards they hold the very same tensors as before."""
    tensors = [t for n in networks for t in chain(n.parameters(), n.buffers()) if t.is_floating_point()]
    kept = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(tensors, kept, strict=True):
            tensor.data = data


class Rescue:
    """Runs a computation of `networks`; from the first result on that half precision makes NaN or Inf of, in float32.

    One for each call of a pipeline. Callbacks see the steps that are repeated again, and where noise comes in order of
    use the repeated steps draw new one.
    """

    def __init__(self, networks: Sequence[nn.Module]):
        self.networks = networks
        self.in_float32 = False

    def __call__(self, run: Callable[[], Tensor]) -> Tensor:
        """Return what `run` returns, finite. Raises RuntimeError when it cannot be had."""
        if not self.in_float32:
            result = run()
            if torch.isfinite(result).all():
                return result
            half = next((network.dtype for network in self.networks if network.dtype in HALF), None)
            if half is None:
                raise RuntimeError("the result is not finite; check the weights")
            if any(map(is_hooked, self.networks)):  # others move or cast the weights
                raise RuntimeError(f"the result is not finite in {half}; open the model with dtype=torch.float32")
            logger.warning("a result is not finite in %s; going on in float32", half)
            self.in_float32 = True
        with in_float32(self.networks):
            result = run()
        if not torch.isfinite(result).all():
            raise RuntimeError("the result is not finite, in float32 neither; check the weights")
        return result
