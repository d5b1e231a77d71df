"""Batches of images of different sizes on one canvas."""

import pytest
import torch

from resdiff.data.degradation.ragged import Ragged
from resdiff.devices import full_precision

SIZES = ((5, 7), (8, 3), (2, 6))


def ragged() -> Ragged:
    ones = Ragged(torch.ones(3, 2, 8, 7), SIZES)
    return ones.map(lambda pixels: pixels)


def test_the_canvas_is_zero_outside_each_image():
    x = ragged()
    assert x.pixels.sum((1, 2, 3)).tolist() == [2 * h * w for h, w in SIZES]
    assert [tuple(x.image(i).shape) for i in range(3)] == [(2, h, w) for h, w in SIZES]
    assert all(x.image(i).min() == 1 for i in range(3))


def test_the_mask_is_true_inside_only():
    assert torch.equal(ragged().mask().expand(-1, 2, -1, -1).float(), ragged().pixels)


def test_a_map_keeps_the_outside_zero():
    y = ragged().map(lambda pixels: pixels + 1)
    assert y.sizes == SIZES
    assert y.pixels.unique().tolist() == [0, 2]


def test_an_image_is_a_view_of_the_canvas():
    x = ragged()
    x.image(1).fill_(5)
    assert (x.pixels == 5).sum() == 2 * 8 * 3


def test_equal_sizes_come_back_as_the_same_tensor_in_float32():
    x = torch.rand(2, 3, 4, 5)
    assert Ragged.of(x).tensor() is x
    assert Ragged.of(x).sizes == ((4, 5), (4, 5))
    assert Ragged.of(x.half()).pixels.dtype == torch.float32


def test_different_sizes_are_no_tensor():
    with pytest.raises(ValueError, match="resize them to one size"):
        ragged().tensor()


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((3, 2, 9, 7), SIZES), ((2, 2, 8, 7), SIZES), ((2, 8, 7), SIZES), ((0, 2, 8, 7), ())],
)
def test_a_canvas_of_another_size_is_refused(shape, sizes):
    with pytest.raises(ValueError, match=r"lie on \(3, C, 8, 7\)|at least one image"):
        Ragged(torch.zeros(shape), sizes)


def test_full_precision_ends_autocast_and_restores_the_matmul_precision():
    a = torch.rand(8, 8)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with full_precision(a.device):
                assert (a @ a).dtype == torch.float32
                assert torch.get_float32_matmul_precision() == "highest"
            assert (a @ a).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
