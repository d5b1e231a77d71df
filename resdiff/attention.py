"""Scaled dot-product attention behind one function, so that its three implementations can be compared.

`sdpa` (torch's fused kernels) is the default, `xformers` is optional and falls back to `sdpa` with one log line when
it cannot be imported, `eager` is the textbook formula (softmax(q k^T * scale + bias) v, Vaswani et al., 1706.03762)
against which the other two are tested.
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

logger = logging.getLogger(__name__)

Backend = Literal["sdpa", "xformers", "eager"]

_default: Backend = "sdpa"


@functools.cache
def usable_backend(name: Backend, device: torch.device | None = None) -> Backend:
    """Return `name`, or "sdpa" when `name` is "xformers" and it cannot be imported or does not run on `device` (logged once).

    Raises:
        ValueError: `name` is not a backend.
    """
    if name not in get_args(Backend):
        raise ValueError(f"attention backend is {name!r}; choose one of {', '.join(get_args(Backend))}")
    if name == "xformers":
        try:
            from xformers.ops import memory_efficient_attention

            if device is not None:
                memory_efficient_attention(*torch.zeros(3, 1, 8, 2, 8, device=device))
        except (ImportError, OSError) as error:  # OSError: a wheel built for another torch
            logger.warning("attention backend: sdpa (xformers cannot be imported: %s)", error)
            return "sdpa"
        except (NotImplementedError, RuntimeError, ValueError) as error:  # no kernel for the device
            logger.warning("attention backend: sdpa (xformers cannot be used: %s)", str(error).split("\n")[0])
            return "sdpa"
    logger.info("attention backend: %s", name)
    return name


def set_attention_backend(name: Backend, device: torch.device | None = None) -> Backend:
    """Choose the backend of every `attention` call in this process that names none. Returns the one now active.

    device: where xformers is tried first; None trusts that it runs where it can be imported.
    """
    global _default
    _default = usable_backend(name) if device is None else usable_backend(name, device)
    return _default


@contextmanager
def attention_backend(name: Backend) -> Iterator[Backend]:
    """Use backend `name` inside the `with` block: `with attention_backend("eager"): unet(x, t, lq)`."""
    global _default
    previous = _default
    try:
        yield set_attention_backend(name)
    finally:
        _default = previous


def attention(
    q: Tensor,  # (B, heads, Nq, head_dim)
    k: Tensor,  # (B, heads, Nk, head_dim)
    v: Tensor,  # (B, heads, Nk, head_dim)
    bias: Tensor | None = None,  # added to the logits, broadcastable to (B, heads, Nq, Nk)
    *,
    scale: float | None = None,  # None: head_dim ** -0.5
    backend: Backend | None = None,  # None: the process-wide choice, "sdpa" unless set
) -> Tensor:
    """Attend, softmax(q k^T * scale + bias) v.

    Pass `bias=None`, not zeros, where there is nothing to add: any float bias rules out the fastest kernels.

    Returns:
        (B, heads, Nq, head_dim) in the dtype of `q`.
    """
    backend = _default if backend is None else usable_backend(backend)
    if bias is not None:
        bias = bias.to(q.dtype)
    if backend == "eager":
        return _eager(q, k, v, bias, scale)
    if backend == "xformers":
        return _xformers(q, k, v, bias, scale)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)


def _eager(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    logits = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.transpose(-2, -1)
    if bias is not None:
        logits = logits + bias
    return torch.softmax(logits, dim=-1, dtype=torch.float32).to(v.dtype) @ v


def _xformers(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    if bias is not None:
        bias = bias.expand(*q.shape[:-1], k.shape[-2])  # xformers does not broadcast
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, N, heads, head_dim), the layout of xformers
    return memory_efficient_attention(q, k, v, attn_bias=bias, scale=scale).transpose(1, 2)
