"""CUDA graphs as an option: a network's call is recorded once per shape and replayed as one launch.

At batch 1 an eager call of a full-size network is some thousand kernels of a few microseconds each, and launching them
costs more than running them. Tiles of one size are what graphs are made for. The mechanism is torch's (docs,
"CUDA semantics: CUDA Graphs"): inputs are copied to fixed places, kernels are recorded on a side stream after a warm-up
and share one memory pool, outputs are copied out.

A shape is recorded when it comes the second time, so photos of ever new sizes cost nothing. Elsewhere (on a CPU, with
gradients, in training mode, under autocast, while being compiled) the network is simply called.
"""

import threading
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map_only

from resdiff.devices import is_hooked

WARM_UPS = 2  # calls on the side stream before recording: libraries choose algorithms and allocate workspaces there


@dataclass(frozen=True, eq=False)
class Recording:
    """One recorded call: fill `inputs`, replay, and `output` holds the result until the next replay."""

    inputs: list[Tensor]
    output: Any  # a tensor, or tensors in tuples, lists and dicts
    graph: torch.cuda.CUDAGraph

    def replay(self, tensors: list[Tensor]) -> Any:
        """Return what the recorded call returns for other values of its tensors."""
        for static, value in zip(self.inputs, tensors, strict=True):
            static.copy_(value)
        self.graph.replay()
        return cloned(self.output)


def tensors_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Return the tensors among and within the arguments of a call, in their order."""
    return [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]


def cloned(values: Any) -> Any:
    """Return arguments or results with copies of their tensors."""
    return tree_map_only(Tensor, Tensor.clone, values)


def can_record(network: nn.Module, tensors: list[Tensor]) -> bool:
    """Whether a call with these tensors runs kernels on a CUDA device and nothing else."""
    return (
        bool(tensors)
        and all(tensor.is_cuda for tensor in tensors)
        and not (torch.is_grad_enabled() or network.training or torch.is_autocast_enabled("cuda"))
        and not torch.cuda.is_current_stream_capturing()
    )


def record(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], pool: Any) -> Recording:
    """Record `forward(*args, **kwargs)` into a graph. pool: of `torch.cuda.CUDAGraph.pool`, None: a new one."""
    fixed_args, fixed_kwargs = cloned(args), cloned(kwargs)
    inputs = tensors_of(fixed_args, fixed_kwargs)
    with torch.cuda.device(inputs[0].device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                forward(*fixed_args, **fixed_kwargs)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # thread_local: threads that read and write images may use the device meanwhile
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            output = forward(*fixed_args, **fixed_kwargs)
    return Recording(inputs, output, graph)


class GraphedForward:
    """Stands for `network.forward`, replaying what was recorded; calls of several threads take turns.

    Weights may change in place, move or change dtype: recordings that used others are dropped. Submodules must not be
    replaced. `peers` are the stand-ins that share a memory pool; they must not run at the same time.
    """

    def __init__(
        self, network: nn.Module, limit: int, peers: "list[GraphedForward]", lock: "threading.RLock | None" = None
    ) -> None:
        self.network = network
        self.forward = network.forward
        self.limit = limit
        self.peers = peers
        self.recordings: dict[Hashable, Recording | None] = {}  # latest use last; None: seen once
        self._slots = [slots for m in network.modules() for slots in (m._parameters, m._buffers) if slots]
        self._weights: Hashable = None
        self._lock = lock or threading.RLock()  # of all peers: they share the pool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return self.forward(*args, **kwargs)
        tensors = tensors_of(args, kwargs)
        if not can_record(self.network, tensors):
            return self.forward(*args, **kwargs)
        with self._lock:
            if (weights := self.weights()) != self._weights:
                self.recordings.clear()
                self._weights = weights
            key = call_key(args, kwargs)
            if key not in self.recordings:
                self.remember(key, None)
                return self.forward(*args, **kwargs)
            recording = self.recordings.pop(key)
            if recording is None:
                try:
                    recording = record(self.forward, args, kwargs, self.pool())
                except RuntimeError:  # no memory for it, or a call that cannot be recorded: without, it may work
                    forget(self.peers)
                    return self.forward(*args, **kwargs)
            self.remember(key, recording)
            return recording.replay(tensors)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphedForward":
        raise TypeError("a network with CUDA graphs cannot be copied; call disable_cuda_graphs first")

    def remember(self, key: Hashable, recording: Recording | None) -> None:
        """Keep `recording`, and the `limit` latest in all."""
        self.recordings[key] = recording
        while len(self.recordings) > self.limit:
            del self.recordings[next(iter(self.recordings))]

    def weights(self) -> Hashable:
        """Return where all weights lie and in which dtype: what a recording has taken down."""
        return tuple((t.data_ptr(), t.dtype) for slots in self._slots for t in slots.values() if t is not None)

    def pool(self) -> Any:
        """Return the memory pool of a recording that is alive, else None; a pool does not outlive its graphs."""
        alive = (r for peer in self.peers for r in peer.recordings.values() if r is not None)
        return next((recording.graph.pool() for recording in alive), None)


def call_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """Return what must be equal for a recording to serve: shapes, dtypes and devices, values of what is no tensor."""

    def described(value: Any) -> Hashable:
        return (value.shape, value.dtype, value.device) if isinstance(value, Tensor) else value

    leaves, form = tree_flatten((args, kwargs))
    return torch.is_inference_mode_enabled(), repr(form), tuple(map(described, leaves))


def recorded_parts(networks: Iterable[nn.Module]) -> list[nn.Module]:
    """Return the modules whose `forward` is called: an autoencoder's halves, other networks themselves."""
    parts: list[Any] = []
    for network in networks:
        parts += [network.encoder, network.decoder] if hasattr(network, "encoder") else [network]
    return parts


def enable_cuda_graphs(networks: Iterable[nn.Module], limit: int = 8) -> None:
    """Record and replay the calls of `networks` on CUDA devices, `limit` shapes each; elsewhere nothing changes.

    Raises ValueError for a network that is compiled as a whole or offloaded.
    """
    if limit < 1:
        raise ValueError(f"limit={limit} must be at least 1 shape")
    parts = recorded_parts(networks)
    for part in parts:
        name = type(part).__name__
        if hasattr(part, "_orig_mod") or part._compiled_call_impl is not None:
            raise ValueError(
                f"{name} is compiled as a whole; compile it with mode='reduce-overhead' instead of CUDA graphs, or use "
                "compile_repeated_blocks"
            )
        if is_hooked(part):
            raise ValueError(f"{name} is offloaded or cast layer by layer, its weights move: leave out CUDA graphs")
    disable_cuda_graphs(parts)
    peers: list[GraphedForward] = []
    lock = threading.RLock()
    for part in parts:
        peers.append(GraphedForward(part, limit, peers, lock))
        vars(part)["forward"] = peers[-1]


def forget(peers: "Iterable[GraphedForward]") -> None:
    """Free all recordings; they are made anew as calls come."""
    for peer in peers:
        peer.recordings.clear()
    torch.cuda.empty_cache()


def forget_recordings(networks: Iterable[nn.Module]) -> None:
    """Free the recordings of `networks`, where there are any."""
    stand_ins = (vars(part).get("forward") for part in recorded_parts(networks))
    if peers := [one for one in stand_ins if isinstance(one, GraphedForward)]:
        forget(peers)


def disable_cuda_graphs(networks: Iterable[nn.Module]) -> None:
    """Forget all recordings and call `networks` as before."""
    for part in recorded_parts(networks):
        if isinstance(vars(part).get("forward"), GraphedForward):
            del vars(part)["forward"]
