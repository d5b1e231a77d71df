"""Shifts and holes, at the draws' places and nowhere else."""

import pytest
import torch

from resdiff.data.diffaugment import Draws, cutout, diff_augment, draw, random_crop, translation


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) + 0.1


def test_a_shifted_image_has_zeros_where_nothing_was() -> None:
    x = images(2, 3, 10, 8)
    moved = translation(x, torch.tensor([[2, -1], [0, 3]]))
    assert torch.equal(moved[0, :, :8, 1:], x[0, :, 2:, :7])
    assert not moved[0, :, 8:].any()
    assert not moved[0, :, :, 0].any()
    assert torch.equal(moved[1, :, :, :5], x[1, :, :, 3:])
    assert not moved[1, :, :, 5:].any()


@pytest.mark.parametrize(
    ("center", "rows", "columns"),
    [((10, 8), (8, 12), (7, 10)), ((0, 0), (0, 2), (0, 2)), ((20, 14), (18, 20), (13, 15))],
)
def test_a_hole_is_a_fifth_of_each_side_and_stays_inside(
    center: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    x = images(1, 2, 20, 15)  # the hole is 4 x 3
    kept = cutout(x, torch.tensor([center]))
    expected = x.clone()
    expected[:, :, slice(*rows), slice(*columns)] = 0
    assert torch.equal(kept, expected)


def test_the_hole_is_cut_after_the_shift_and_gradients_pass() -> None:
    x, draws = images(3, 3, 24, 16).requires_grad_(), draw(torch.Size((3, 3, 24, 16)), torch.Generator().manual_seed(3))
    out = diff_augment(x, draws)
    assert torch.equal(out, cutout(translation(x, draws.shifts), draws.centers))
    out.sum().backward()
    assert x.grad.unique().tolist() == [0, 1]
    assert x.grad.sum() == (out != 0).sum()


def test_draws_are_uniform_and_each_images_own() -> None:
    draws = draw(torch.Size((4000, 3, 40, 25)), torch.Generator().manual_seed(0))  # a hole of 8 x 5
    limits = {"shifts": [(-5, 5), (-3, 3)], "centers": [(0, 40), (0, 24)]}
    for name, ranges in limits.items():
        for values, (low, high) in zip(getattr(draws, name).unbind(1), ranges, strict=True):
            counts = torch.bincount(values - low)
            assert len(counts) == high - low + 1
            assert counts.min() > 0.5 * 4000 / len(counts)
            assert counts.max() < 1.5 * 4000 / len(counts)


def test_the_same_generator_draws_the_same() -> None:
    first, again = (draw(torch.Size((4, 3, 32, 32)), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.shifts, again.shifts)
    assert torch.equal(first.centers, again.centers)


def test_nothing_happens_to_an_image_without_shift_whose_hole_has_no_size() -> None:
    x = images(1, 3, 2, 2)
    assert torch.equal(diff_augment(x, Draws(torch.zeros(1, 2).long(), torch.ones(1, 2).long())), x)


def test_crops_are_the_same_region_of_all_and_as_frequent_as_asked() -> None:
    x = torch.arange(12 * 10.0).reshape(1, 1, 12, 10).expand(2, 3, 12, 10)
    g = torch.Generator().manual_seed(0)
    crops = [crop for _ in range(400) if (crop := random_crop(x, 8, 0.5, g)).shape != x.shape]
    assert 150 < len(crops) < 250
    assert {int(crop[0, 0, 0, 0]) for crop in crops} == {10 * i + j for i in range(5) for j in range(3)}
    for crop in crops:
        assert crop.shape == (2, 3, 8, 8)
        assert torch.equal(crop - crop[:, :, :1, :1], x[:, :, :8, :8])
    assert random_crop(x, 10, 1.0, g) is x
    assert random_crop(x, 8, 0.0, g) is x
