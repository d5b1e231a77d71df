"""Free memory, and errors that mean there is none."""

from pathlib import Path

import psutil
import pytest
import torch

from resdiff import memory
from resdiff.memory import container_memory, free_memory, is_out_of_memory

GIB = 2**30


def test_free_memory_is_what_the_machine_has_available() -> None:
    free = free_memory(torch.device("cpu"))
    assert 0 < free <= psutil.virtual_memory().total


def group(folder: Path, limit: str, used: int, files: int, names=("memory.max", "memory.current"), total="") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 7\n{total}inactive_file {files}\n{total}active_file 0\nslab 5\n")


def test_the_limits_of_all_containers_around_the_process_count(tmp_path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/slice/job\n")
    root = tmp_path / "fs"
    assert container_memory(root, own) == []
    group(root / "slice" / "job", "max", GIB, 0)
    assert container_memory(root, own) == []
    group(root / "slice" / "job", str(3 * GIB), GIB, 0)
    group(root / "slice", str(4 * GIB), 5 * GIB, 0)
    assert container_memory(root, own) == [2 * GIB, 0]


def test_copies_of_files_in_memory_are_no_use_of_it(tmp_path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/\n")
    group(tmp_path, str(4 * GIB), 3 * GIB, 2 * GIB)
    assert container_memory(tmp_path, own) == [3 * GIB]


def test_the_older_layout_of_containers_counts_too(tmp_path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("5:devices:/a\n4:memory:/job\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(tmp_path / "memory" / "job", str(2 * GIB), GIB, GIB // 2, names, "total_")
    assert container_memory(tmp_path, own) == [3 * GIB // 2]


def test_the_processes_of_a_launcher_share_what_is_free(monkeypatch) -> None:
    monkeypatch.setattr(memory, "container_memory", lambda: [6 * GIB])
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 8 * GIB}))
    assert free_memory(torch.device("cpu")) == 6 * GIB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(torch.device("cpu")) == 3 * GIB // 2


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
