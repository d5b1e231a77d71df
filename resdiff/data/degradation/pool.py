"""Pool of training pairs: batches mixed over time.

Real-ESRGAN (2107.10833) degrades a whole batch with one resize factor, one mode and one kind of noise, and restores
the variety by a queue of pairs (realesrgan_model.py, `_dequeue_and_enqueue`; DiffBIR carries captions along). Here
every sample has its own draws, so a pool is needed only to train exactly as published, or to spread one photo's crops.

The reference moves the whole queue at each step. Moving only the order of the slots gives the same samples for the
cost of one batch, without a second copy of the queue. A pool can be saved: `tensors` and `load_tensors` hold its
contents and the state of its generator, so that a resumed run goes on exactly. Each process has its own pool.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", dict[Any, Any], tuple[Any, ...])


class PairPool:
    """A queue of `size` samples: fills up first, then gives back random old samples for new ones.

    Args:
        size: samples held; a multiple of the batch size.
        generator: where permutations come from; its state is saved with the pool.
    """

    def __init__(self, size: int, generator: torch.Generator) -> None:
        if size < 1:
            raise ValueError(f"size is {size}, a pool holds at least one batch")
        self.size = size
        self.generator = generator
        self.filled = 0  # slots in use
        self.order = torch.arange(size)  # slot at each place of the queue
        self.columns: dict[str, Tensor | list[Any]] = {}  # name in the batch -> what the slots hold

    @torch.no_grad()
    def exchange(self, batch: Batch, permutation: Tensor | None = None) -> Batch:
        """Put a batch in and take one of the same size out; until the pool is full that is the batch itself.

        Args:
            batch: a dict or a tuple whose values are tensors (B, ...) or lists of B objects (captions).
            permutation: (size,) int64, used in place of a drawn one once the pool is full.

        Raises:
            ValueError: the pool's size is no multiple of B, the batch size changes while the pool fills, or the
                names, kinds or shapes differ from those of the batches before.
        """
        named = {str(name): value for name, value in _items(batch)}
        counts = {len(value) for value in named.values()}
        if len(counts) != 1:
            raise ValueError(f"batch has values of {sorted(counts)} samples, all must have the same number")
        count = counts.pop()
        if not count or self.size % count or (self.filled < self.size < self.filled + count):
            raise ValueError(f"batch has {count} samples, a pool of {self.size} ({self.filled} filled) needs a divisor")
        self._fit(named)

        if self.filled < self.size:
            slots = torch.arange(self.filled, self.filled + count)
            self._put(slots, named)
            self.filled += count
            return batch
        if permutation is None:
            permutation = torch.randperm(self.size, generator=self.generator)
        self.order = self.order[permutation]
        slots = self.order[:count]
        old = self._take(slots)
        self._put(slots, named)
        return _like(batch, old)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors that safetensors can hold; they are the live ones: save them before going on.

        Raises ValueError for objects that JSON cannot hold.
        """
        state = {"order": self.order, "filled": torch.tensor(self.filled), "generator": self.generator.get_state()}
        for name, column in self.columns.items():
            if isinstance(column, Tensor):
                state[f"tensor/{name}"] = column
            else:
                state[f"objects/{name}"] = _to_bytes(name, column)
        return state

    def load_tensors(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `tensors` returned; nothing of the pool remains as it was.

        Raises ValueError when the state is that of a pool of another size, or of none.
        """
        if not {"order", "filled", "generator"} <= state.keys():
            raise ValueError(f"state has {', '.join(sorted(state)) or 'nothing'}, it needs order, filled and generator")
        if len(state["order"]) != self.size:
            raise ValueError(f"state is of a pool of {len(state['order'])} samples, this one holds {self.size}")
        self.order = state["order"].cpu().clone()
        self.filled = int(state["filled"])
        self.generator.set_state(state["generator"].cpu())
        self.columns = {}
        for key, value in state.items():
            kind, _, name = key.partition("/")
            if kind == "tensor":
                self.columns[name] = value.clone()
            elif kind == "objects":
                self.columns[name] = json.loads(bytes(value.tolist()))

    def _fit(self, named: dict[str, Any]) -> None:
        """Make room for a first batch; refuse one that the room does not fit, follow one to its device."""
        if not self.columns:
            for name, value in named.items():
                is_tensor = isinstance(value, Tensor)
                self.columns[name] = value.new_zeros(self.size, *value.shape[1:]) if is_tensor else [None] * self.size
        if named.keys() != self.columns.keys():
            raise ValueError(f"batch has {', '.join(named)}, the pool holds {', '.join(self.columns)}")
        for name, value in named.items():
            column = self.columns[name]
            given, held = _describe(value), _describe(column)
            if given != held:
                raise ValueError(f"{name} holds {given}, the pool {held}; a pool keeps to one kind and size")
            if isinstance(column, Tensor):
                self.columns[name] = column.to(value.device)

    def _put(self, slots: Tensor, named: dict[str, Any]) -> None:
        for name, column in self.columns.items():
            if isinstance(column, Tensor):
                column[slots.to(column.device)] = named[name].detach()
            else:
                for slot, value in zip(slots.tolist(), named[name], strict=True):
                    column[slot] = value

    def _take(self, slots: Tensor) -> dict[str, Any]:
        return {
            name: column[slots.to(column.device)] if isinstance(column, Tensor) else [column[i] for i in slots.tolist()]
            for name, column in self.columns.items()
        }


def _items(batch: Mapping[Any, Any] | tuple[Any, ...]) -> Sequence[tuple[Any, Any]]:
    return list(batch.items()) if isinstance(batch, Mapping) else list(enumerate(batch))


def _like(batch: Batch, values: dict[str, Any]) -> Batch:
    """Return values by name in the form of a batch."""
    if isinstance(batch, tuple):
        return tuple(values[str(i)] for i in range(len(batch)))
    return {name: values[str(name)] for name in batch}


def _describe(column: Tensor | Sequence[Any]) -> str:
    return f"{column.dtype} {tuple(column.shape[1:])}" if isinstance(column, Tensor) else "objects"


def _to_bytes(name: str, objects: list[Any]) -> Tensor:
    """Objects as the bytes of their JSON."""
    try:
        text = json.dumps(objects)
    except TypeError as error:
        raise ValueError(f"{name} holds what JSON cannot: {error}; keep text, numbers or lists of them") from error
    return torch.tensor(list(text.encode()), dtype=torch.uint8)
