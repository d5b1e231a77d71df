"""Free memory, and errors that mean there is none."""

import psutil
import pytest
import torch

from resdiff import memory
from resdiff.memory import container_memory, free_memory, is_out_of_memory

GIB = 2**30


def test_free_memory_is_what_the_machine_has_available() -> None:
    free = free_memory(torch.device("cpu"))
    assert 0 < free <= psutil.virtual_memory().total


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch) -> None:
    assert container_memory(tmp_path) == []
    (tmp_path / "memory.current").write_text(f"{GIB}\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert container_memory(tmp_path) == []
    (tmp_path / "memory.max").write_text(f"{3 * GIB}\n")
    assert container_memory(tmp_path) == [2 * GIB]
    (tmp_path / "memory.current").write_text(f"{4 * GIB}\n")
    assert container_memory(tmp_path) == [0]
    monkeypatch.setattr(memory, "container_memory", lambda: [5])
    assert free_memory(torch.device("cpu")) == 5


def test_the_older_layout_of_containers_counts_too(tmp_path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text(str(GIB // 2))
    assert container_memory(tmp_path) == [3 * GIB // 2]


def test_what_the_allocator_of_the_cpu_says_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_errors_are_told_apart(error, expected) -> None:
    assert is_out_of_memory(error) is expected
