"""Which process trains on which sample."""

from itertools import islice

import pytest
import torch

from resdiff.train.batches import micro_batch_indices, training_batches


class Numbers:
    """Samples that are their own index."""

    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("accumulation", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 7])
def test_two_processes_see_what_one_with_twice_the_batch_sees(accumulation, first) -> None:
    whole = micro_batch_indices(first, 6, accumulation)
    parts = [micro_batch_indices(first, 3, accumulation, process, 2) for process in range(2)]
    for _ in range(10):
        assert next(whole) == next(parts[0]) + next(parts[1])


def test_every_sample_comes_once_and_in_order_of_the_steps() -> None:
    seen = [list(islice(micro_batch_indices(5, 2, 2, process, 3), 4)) for process in range(3)]
    assert seen[1] == [[7, 8], [13, 14], [19, 20], [25, 26]]
    flat = sorted(index for process in seen for micro_batch in process for index in micro_batch)
    assert flat == list(range(5, 5 + 2 * 2 * 3 * 2))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_a_list_of_micro_batches_and_starts_at_any_sample(workers) -> None:
    options = {"batch_size": 2, "accumulation": 3, "process": 1, "num_processes": 2, "num_workers": workers}
    batches = training_batches(Numbers(), first=24, collate=list, pin_memory=False, **options)
    assert next(batches) == [[26, 27], [30, 31], [34, 35]]
    assert next(batches) == [[38, 39], [42, 43], [46, 47]]
    batches.close()


def test_reading_batches_leaves_the_random_state_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    options = {"batch_size": 2, "accumulation": 1, "process": 0, "num_processes": 1, "num_workers": 0}
    next(training_batches(Numbers(), first=0, collate=list, pin_memory=False, **options))
    assert torch.equal(torch.get_rng_state(), before)
