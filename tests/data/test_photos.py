"""Training photos in memory."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.data.photos import load_photos, photo_paths, random_crops


def save(path, height: int, width: int, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def test_photos_are_found_below_the_folder_whatever_the_case_of_their_suffix(tmp_path) -> None:
    for name in ("b.PNG", "a/c.JpG", "a/d/e.webp"):
        save(tmp_path / name, 8, 8, 0)
    (tmp_path / "notes.txt").write_text("no photo")
    assert [p.relative_to(tmp_path).as_posix() for p in photo_paths(tmp_path)] == ["a/c.JpG", "a/d/e.webp", "b.PNG"]


def test_small_and_broken_photos_are_skipped_with_a_warning_each(tmp_path, caplog) -> None:
    save(tmp_path / "good.png", 20, 30, 7)
    save(tmp_path / "small.png", 8, 30, 7)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with caplog.at_level(logging.WARNING):
        photos = load_photos(tmp_path, min_side=16)
    assert [p.shape for p in photos] == [(3, 20, 30)]
    assert len(caplog.records) == 2
    with pytest.raises(ValueError, match="no readable photo with both sides of at least 64"):
        load_photos(tmp_path, min_side=64)


def test_a_folder_without_photos_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no image"):
        photo_paths(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        photo_paths(tmp_path / "none")


def test_crops_depend_on_the_generator_alone_and_follow_area() -> None:
    photos = [torch.zeros(3, 16, 16, dtype=torch.uint8), torch.full((3, 48, 16), 255, dtype=torch.uint8)]
    draw = [random_crops(photos, 400, 16, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(draw[0], draw[1])
    assert draw[0].min() == -1 and draw[0].max() == 1
    assert float((draw[0][:, 0, 0, 0] > 0).float().mean()) == pytest.approx(0.75, abs=0.06)


def test_crops_come_in_all_eight_poses() -> None:
    photo = torch.arange(16, dtype=torch.uint8).reshape(1, 4, 4).expand(3, 4, 4).contiguous()
    crops = random_crops([photo], 200, 4, torch.Generator().manual_seed(0))
    assert len({tuple(crop[0].flatten().tolist()) for crop in crops}) == 8
