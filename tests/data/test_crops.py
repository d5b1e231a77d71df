"""How crops are cut: where they lie, in which poses, in which shape."""

from collections import Counter

import pytest
import torch

from resdiff.data.crops import cut, in_pose


def test_places_are_uniform_up_to_the_borders() -> None:
    photo = torch.arange(5 * 6, dtype=torch.uint8).reshape(1, 5, 6).expand(3, 5, 6)
    generator = torch.Generator().manual_seed(0)
    corners = Counter(int(cut((photo, None), (3, 4), 4, "none", generator)[0][0, 0, 0]) for _ in range(1800))
    assert sorted(corners) == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert all(150 < count < 250 for count in corners.values())


@pytest.mark.parametrize(("augmentation", "poses"), [("none", 1), ("flip", 2), ("poses", 8)])
def test_square_crops_come_in_their_poses(augmentation, poses) -> None:
    photo = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4).expand(3, 4, 4)
    generator = torch.Generator().manual_seed(0)
    crops = [cut((photo, None), (4, 4), 4, augmentation, generator)[0] for _ in range(400)]
    counts = Counter(tuple(crop[0].flatten().tolist()) for crop in crops)
    assert len(counts) == poses and min(counts.values()) > 0.6 * 400 / poses
    if augmentation == "flip":
        assert tuple(photo[0].flip(1).flatten().tolist()) in counts


def test_poses_transpose_first_and_then_flip() -> None:
    x = torch.tensor([[0, 1, 2], [3, 4, 5]])
    assert in_pose(x, 4).tolist() == [[0, 3], [1, 4], [2, 5]]
    assert in_pose(x, 2).tolist() == [[3, 4, 5], [0, 1, 2]]
    assert in_pose(x, 1).tolist() == [[2, 1, 0], [5, 4, 3]]
    assert in_pose(x, 5).tolist() == [[3, 0], [4, 1], [5, 2]]


def test_rectangular_crops_keep_their_shape_in_every_pose() -> None:
    square = torch.arange(64, dtype=torch.uint8).reshape(1, 8, 8).expand(3, 8, 8)
    low = square[:, :4]  # 4 high: holds (4, 6), not (6, 4)
    generator = torch.Generator().manual_seed(0)
    for photo, steps in ((square, {1, -1, 8, -8}), (low, {1, -1})):
        crops = [cut((photo, None), (4, 6), 4, "poses", generator)[0][0].int() for _ in range(100)]
        assert {crop.shape for crop in crops} == {(4, 6)}
        assert {int(crop[0, 1] - crop[0, 0]) for crop in crops} == steps  # 8: a row of the crop ran down the photo
