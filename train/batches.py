"""Batches keyed by the global index of a sample: what each process trains on is fixed by the position in the data.

Step s of a run takes samples s G .. (s + 1) G - 1, where G = micro-batches x processes x batch size. Process r takes the
r-th part of each micro-batch, so two processes with batch B see what one with batch 2B sees.
"""

import signal
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

PATIENCE = 60  # seconds from a SIGTERM to the end of a worker that nobody dismissed


def micro_batch_indices(
    first: int,  # global index of the first sample
    batch_size: int,  # of one process and micro-batch
    accumulation: int,  # micro-batches of a step
    process: int = 0,
    num_processes: int = 1,
) -> Iterator[list[int]]:
    """Yield the sample indices of this process' micro-batches, without end."""
    for start in count(first, batch_size * accumulation * num_processes):
        for micro in range(accumulation):
            begin = start + (micro * num_processes + process) * batch_size
            yield list(range(begin, begin + batch_size))


def _leave_signals_to_main(worker: int) -> None:
    """Outlive Ctrl-C and, for a while, SIGTERM: schedulers send it to all processes, and the main one saves first.

    It then dismisses its workers; one that died before would interrupt it by an error in the middle of a step.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(PATIENCE))
    torch.set_num_threads(1)


def training_batches(
    dataset: Dataset,
    *,
    first: int,
    batch_size: int,
    accumulation: int,
    process: int,
    num_processes: int,
    num_workers: int,
    collate: Callable[[list[Any]], Any],
    pin_memory: bool,
) -> Iterator[list[Any]]:
    """Yield lists of `accumulation` collated micro-batches, without end, from the sample `first` on."""
    loader = DataLoader(
        dataset,
        batch_sampler=_Indices(micro_batch_indices(first, batch_size, accumulation, process, num_processes)),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_main,
        generator=torch.Generator().manual_seed(0),  # else it draws from the random state that a checkpoint restores
        prefetch_factor=4 if num_workers else None,
    )
    micro_batches = iter(loader)
    while True:
        yield [next(micro_batches) for _ in range(accumulation)]


class _Indices:
    """What a DataLoader iterates over: lists of indices."""

    def __init__(self, lists: Iterator[list[int]]):
        self.lists = lists

    def __iter__(self) -> Iterator[list[int]]:
        return self.lists
