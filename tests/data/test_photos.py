"""The photos of a folder: names, sizes by the header, pixels, area reduction."""

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.data.photos import UnreadablePhoto, covering, photo_paths, photo_size, read_pixels, reduce_area
from resdiff.images import read_photos, to_uint8


def save(path, height: int, width: int, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def gradient(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_photos_are_found_below_the_folder_in_the_order_of_their_relative_paths(tmp_path) -> None:
    for name in ("b.PNG", "a/c.JpG", "a/d/e.webp", "a-b.png", "B.png", ".hidden.png", ".thumbnails/b.png"):
        save(tmp_path / name, 8, 8)
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "folder.png").mkdir()
    found = [p.relative_to(tmp_path).as_posix() for p in photo_paths(tmp_path)]
    assert found == ["B.png", "a-b.png", "a/c.JpG", "a/d/e.webp", "b.PNG"]


def test_a_folder_without_photos_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="holds no image"):
        photo_paths(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        photo_paths(tmp_path / "none")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "avif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_header_tells_the_size_of_the_upright_pixels(tmp_path, suffix, orientation) -> None:
    path, exif = tmp_path / f"photo.{suffix}", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient(20, 30)).save(path, exif=exif)
    pixels = read_pixels(path)
    assert photo_size(path) == pixels.shape[1:] == ((30, 20) if orientation > 4 else (20, 30))
    assert torch.equal(pixels, to_uint8(read_photos(path)[0].pixels))


def test_the_header_is_enough_for_the_size(tmp_path) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray(gradient(64, 48)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert photo_size(path) == (64, 48)
    with pytest.raises(UnreadablePhoto, match=r"photo\.png cannot be read: "):
        read_pixels(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixels_becomes_what_restoration_reads(tmp_path, mode) -> None:
    values = gradient(9, 7)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(values)
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    (image if mode == "I;16" else image.convert(mode)).save(path)
    pixels = read_pixels(path)
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 9, 7)
    assert torch.equal(pixels, to_uint8(read_photos(path)[0].pixels))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_is_no_obstacle(tmp_path) -> None:
    path = tmp_path / "photo.jpg"
    Image.fromarray(gradient(20, 30)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01")
    assert photo_size(path) == read_pixels(path).shape[1:] == (20, 30)


def test_what_cannot_be_read_is_told_with_its_reason(tmp_path, monkeypatch) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no photo")
    (tmp_path / "gone.png").symlink_to(tmp_path / "none.png")
    save(tmp_path / "large.png", 20, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)
    reasons = {}
    for path in photo_paths(tmp_path):
        with pytest.raises(UnreadablePhoto) as caught:
            photo_size(path)
        assert caught.value.path == path
        reasons[path.name] = caught.value.reason
    assert reasons == {
        "empty.png": "is empty",
        "text.png": "is not an image that can be read",
        "gone.png": "cannot be read: No such file or directory",
        "large.png": "is 30x20, above the limit of 599 pixels; to trust it, raise PIL.Image.MAX_IMAGE_PIXELS",
    }


@pytest.mark.parametrize(
    ("size", "cover", "expected"),
    [
        ((400, 600), (256, 256), (256, 384)),
        ((600, 400), (256, 256), (384, 256)),
        ((375, 500), (256, 256), (256, 341)),
        ((400, 600), (100, 300), (200, 300)),
        ((200, 900), (256, 256), (200, 900)),
    ],
)
def test_photos_are_reduced_until_they_just_cover_the_crop(size, cover, expected) -> None:
    assert covering(*size, cover) == expected


def test_reduction_by_whole_factors_is_the_mean_of_blocks() -> None:
    pixels = torch.from_numpy(gradient(12, 20)).permute(2, 0, 1)
    blocks = pixels.double().reshape(3, 4, 3, 4, 5).mean(dim=(2, 4)).round().to(torch.uint8)
    assert torch.equal(reduce_area(pixels, (4, 4)), blocks)
    assert reduce_area(pixels, (12, 20)) is pixels


def test_reduction_counts_cut_pixels_by_their_share() -> None:
    pixels = torch.tensor([[[0, 90, 210]]], dtype=torch.uint8)  # halves cover 1 + 1/2 pixels
    assert reduce_area(pixels, (1, 2)).tolist() == [[[30, 170]]]
    large = torch.from_numpy(gradient(301, 1003)).permute(2, 0, 1)
    weights = [torch.zeros(new, old, dtype=torch.float64) for new, old in ((77, 301), (256, 1003))]
    for w in weights:
        step = w.shape[1] / w.shape[0]
        for i in range(w.shape[0]):
            for j in range(w.shape[1]):
                w[i, j] = max(0.0, min(j + 1, (i + 1) * step) - max(j, i * step)) / step
    expected = (weights[0] @ large.double() @ weights[1].T).round()
    assert (reduce_area(large, (77, 256)).double() - expected).abs().max() <= 1
    assert (reduce_area(large, (77, 256)).double() != expected).double().mean() < 1e-3  # ties


def test_reduction_does_not_enlarge() -> None:
    with pytest.raises(ValueError, match="reduce_area only reduces"):
        reduce_area(torch.zeros(3, 4, 4, dtype=torch.uint8), (4, 5))
