"""The array that results are written into."""

import errno
import mmap
from pathlib import Path

import numpy as np
import pytest
import torch

from resdiff import canvas
from resdiff.canvas import new_canvas, release, temporary_folder, to_samples
from resdiff.images import to_uint8


@pytest.fixture
def mapped(monkeypatch, tmp_path) -> Path:
    """Every canvas is mapped from a file in this folder."""
    monkeypatch.setattr(canvas, "IN_MEMORY", 0)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path


def is_mapped(values: np.ndarray) -> bool:
    while isinstance(values, np.ndarray) and values.base is not None:
        values = values.base
    return isinstance(getattr(values, "obj", values), mmap.mmap)


def test_small_canvases_are_in_memory_and_large_ones_in_a_file(monkeypatch) -> None:
    assert not is_mapped(new_canvas((10, 10, 3), np.uint8))
    monkeypatch.setattr(canvas, "IN_MEMORY", 299)
    assert is_mapped(new_canvas((10, 10, 3), np.uint8))


def test_a_mapped_canvas_keeps_what_is_written_and_leaves_no_file(mapped) -> None:
    values = new_canvas((50, 40, 3), np.uint16)
    assert list(mapped.iterdir()) == []
    expected = np.arange(6000, dtype=np.uint16).reshape(50, 40, 3)
    values[:] = expected
    release(values)
    assert np.array_equal(values, expected) and values.flags.writeable
    release(new_canvas((1,), np.uint8))


def test_a_canvas_without_room_is_one_line_that_names_the_folder(mapped) -> None:
    for side in (2**23, 2**40):
        with pytest.raises(OSError, match=r"the result needs \d+\.\d GiB in .*set TMPDIR") as caught:
            new_canvas((side, side, 3), np.uint8)
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG) and "\n" not in str(caught.value)
        assert str(mapped) in str(caught.value)
    assert list(mapped.iterdir()) == []


def test_the_temporary_folder_is_the_one_asked_for(monkeypatch, mapped) -> None:
    assert temporary_folder() == mapped
    monkeypatch.delenv("TMPDIR")
    assert temporary_folder().is_dir()


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_samples_are_rounded_over_the_whole_range(dtype, top) -> None:
    x = torch.tensor([-1.5, -1, -1 + 2 / top, 0, 1 - 1.1 / top, 1, 3]).reshape(1, 1, 7)
    values = to_samples(x, dtype)
    assert values.dtype == dtype and values.shape == (1, 7, 1)
    assert values.ravel().tolist() == [0, 0, 1, (top + 1) // 2, top - 1, top, top]  # half goes to the even one


def test_every_16_bit_value_survives() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    x = torch.from_numpy(values.astype(np.float32) / 65535).movedim(-1, 0) * 2 - 1
    assert np.array_equal(to_samples(x, np.uint16), values)


def test_eight_bit_samples_are_those_of_to_uint8_and_floats_are_not_rounded() -> None:
    x = torch.rand(3, 20, 30) * 2 - 1
    assert np.array_equal(to_samples(x, np.uint8), to_uint8(x).movedim(0, -1).numpy())
    np.testing.assert_allclose(to_samples(x, np.float32), (x.movedim(0, -1) / 2 + 0.5).numpy(), atol=1e-7)


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN or Inf"):
        to_samples(torch.tensor([[[torch.nan]]]), np.uint8)
