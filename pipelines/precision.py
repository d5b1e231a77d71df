"""Half precision with a way back: a result that is not finite is computed again in float32."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

HALF = (torch.float16, torch.bfloat16)


def is_hooked(network: nn.Module) -> bool:
    """Whether accelerate or diffusers move or cast this network's weights around its calls (offloading, fp8 storage)."""
    return any(hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook") for part in network.modules())


def may_retry(networks: Sequence[nn.Module]) -> bool:
    """Whether some network computes in half precision, and all can be switched to float32 for a while."""
    return any(network.dtype in HALF for network in networks) and not any(map(is_hooked, networks))


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
