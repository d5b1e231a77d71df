"""Training photos held in memory as uint8, and random crops of them.

A few hundred photos are a few hundred megabytes; decoding each once and cropping in memory keeps two CPU cores free
for the network.
"""

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resdiff.formats import FORMATS, is_image_name

logger = logging.getLogger(__name__)


def photo_paths(folder: str | Path) -> list[Path]:
    """Return every image file below `folder`, sorted by its relative path.

    Raises ValueError when the folder does not exist or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; pass a folder of photos")
    paths = sorted(p for p in folder.rglob("*") if is_image_name(p) and p.is_file())
    if not paths:
        raise ValueError(f"{folder} holds no image ({', '.join(FORMATS)})")
    return paths


def load_photos(folder: str | Path, min_side: int) -> list[Tensor]:
    """Return the photos below `folder` as uint8 (3, H, W) tensors.

    Unreadable files and photos with a side below `min_side` are skipped with one warning each. Raises ValueError when
    nothing is left.
    """
    photos = []
    for path in photo_paths(folder):
        try:
            with Image.open(path) as image:
                pixels = np.array(image.convert("RGB"))
        except OSError as error:
            logger.warning("%s skipped: %s", path, error)
            continue
        if min(pixels.shape[:2]) < min_side:
            logger.warning("%s skipped: %dx%d is smaller than a crop of %d", path, *pixels.shape[1::-1], min_side)
            continue
        photos.append(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    if not photos:
        raise ValueError(f"{folder} holds no readable photo with both sides of at least {min_side} px")
    return photos


def random_crops(photos: list[Tensor], count: int, size: int, generator: torch.Generator) -> Tensor:
    """Return `count` random crops (count, 3, size, size) in [-1, 1], each turned into one of the square's 8 poses.

    Photos are drawn in proportion to their area, so that every pixel is seen equally often.
    """
    areas = torch.tensor([float(p.shape[1] * p.shape[2]) for p in photos])
    crops = []
    for index in torch.multinomial(areas, count, replacement=True, generator=generator).tolist():
        photo = photos[index]
        top, left, pose = (
            int(torch.randint(limit, (), generator=generator))
            for limit in (photo.shape[1] - size + 1, photo.shape[2] - size + 1, 8)
        )
        crop = photo[:, top : top + size, left : left + size]
        crop = crop.transpose(1, 2) if pose & 4 else crop
        crops.append(crop.flip([d for d in (1, 2) if pose & d]))
    return torch.stack(crops).float() / 127.5 - 1
