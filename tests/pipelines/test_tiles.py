"""Tiles within the memory there is: batches of tiles, halving, the choice of "auto"."""

import logging

import numpy as np
import pytest
import torch

from resdiff import tiling
from resdiff.pipelines import tiles
from resdiff.pipelines.tiles import Halving, restored_bands, side_that_fits
from resdiff.tiling import Box, Chop, Smooth


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(height: int, width: int) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=seeded())


class Small:
    """Nearest x2 with memory for tiles of `most` pixels a side, and a record of what it was given."""

    def __init__(self, most: int):
        self.most, self.sides, self.places = most, [], []

    def __call__(self, x: torch.Tensor, boxes: list[Box]) -> torch.Tensor:
        self.sides.append(max(x.shape[-2:]))
        if max(x.shape[-2:]) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        self.places += boxes
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


def halving(restore: Small, limit: int, smallest: int = 8) -> Halving:
    return Halving(restore, 2, lambda side: Smooth(max(side, smallest), overlap=2), limit)


def test_tiles_are_halved_until_they_fit_and_the_image_is_whole(caplog) -> None:
    x, model = photo(70, 90), Small(20)
    fitted = halving(model, 64)
    with caplog.at_level(logging.WARNING):
        joined = torch.cat(list(restored_bands(fitted, x, Smooth(64, 16), 2, 1)), dim=-2)
    torch.testing.assert_close(joined, x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    assert fitted.limit == 16
    assert [side for side in model.sides if side > 20] == [64, 32]  # each size is tried once, not for every tile
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with tiles of 64 px; going on with 32 px",
        "out of memory with tiles of 32 px; going on with 16 px",
    ]


def test_smaller_tiles_keep_their_place_on_the_canvas() -> None:
    x, model = photo(64, 100), Small(32)
    list(restored_bands(halving(model, 64), x, Smooth(64, 16), 2, 1))
    assert {box.left for box in model.places} >= {0, 30, 36, 66, 68}  # 36 + 30: below the second outer tile
    assert max(box.left + box.width for box in model.places) == 100
    assert max(box.top + box.height for box in model.places) == 64


def test_a_batch_of_tiles_that_does_not_fit_goes_on_one_by_one() -> None:
    x, model = photo(64, 128), Small(32)
    joined = torch.cat(list(restored_bands(halving(model, 64), x, Smooth(64, 16), 2, 3)), dim=-2)
    torch.testing.assert_close(joined, x.repeat_interleave(2, -1).repeat_interleave(2, -2))


def test_when_the_smallest_tile_does_not_fit_one_line_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"^out of memory with tiles of 8 px, the smallest; close other programs$"):
        list(restored_bands(halving(Small(4), 64), photo(70, 90), Smooth(64, 16), 2, 1))


@pytest.mark.parametrize("tiling", [None, Chop(32, 24)])
def test_where_tiles_must_not_change_one_line_gives_the_remedy(tiling) -> None:
    with pytest.raises(RuntimeError, match=r"out of memory for an image of 90x70; use smaller tiles, or tile='auto'"):
        list(restored_bands(Small(8), photo(70, 90), tiling, 2, 1))


def test_other_errors_pass_unchanged() -> None:
    def broken(x, boxes):
        raise RuntimeError("mat1 and mat2")

    for restore in (broken, Halving(broken, 2, lambda side: Smooth(side, 2), 64)):
        with pytest.raises(RuntimeError, match=r"^mat1 and mat2$"):
            list(restored_bands(restore, photo(70, 90), Smooth(64, 16), 2, 1))


def test_the_side_that_fits_follows_the_free_memory(monkeypatch) -> None:
    monkeypatch.setattr(tiles, "free_memory", lambda device: 2 * 10**6)
    assert side_that_fits(torch.device("cpu"), 100, 1) == 100
    assert side_that_fits(torch.device("cpu"), 100, 4) == 50


def test_auto_takes_smaller_tiles_where_little_memory_is_free(residual, monkeypatch) -> None:
    pipe = residual
    plenty = pipe.as_tiling("auto")
    assert plenty.size == pipe.default_tiling().size
    monkeypatch.setattr(tiles, "free_memory", lambda device: 2 * 150**2 * pipe.bytes_per_pixel)
    little = pipe.as_tiling("auto")
    assert little.size <= 150 < plenty.size
    assert (
        pipe.as_tiling("auto", tile_batch=4).size <= 75 or pipe.vae is None
    )  # a pixel model's tiles have a least size
    monkeypatch.setattr(tiles, "free_memory", lambda device: 0)
    smallest = pipe.as_tiling("auto")
    assert smallest.size == pipe.default_tiling(1).size
    result = pipe(photo(smallest.size + 3, 20), generator=seeded(), output_type="pt")
    assert result.tile_sizes == [smallest.size] and result.images.shape[-2:] == (4 * smallest.size + 12, 80)


def test_out_of_memory_in_the_middle_of_a_call_changes_the_tile_not_the_picture(pixel, monkeypatch, caplog) -> None:
    lr = photo(150, 97)
    whole = pixel(lr, generator=seeded(), tile="off", output_type="pt").images
    decode, first = pixel.decode, []

    def short_of_memory(latents: torch.Tensor, guidance, lq) -> torch.Tensor:
        if max(latents.shape[-2:]) > 4 * 130:
            first.append(latents.shape)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(latents, guidance, lq)

    monkeypatch.setattr(pixel, "decode", short_of_memory)
    result = pixel(lr, generator=seeded(), tile=140, output_type="pt")
    torch.testing.assert_close(result.images, whole, atol=1e-5, rtol=0)
    assert len(first) == 1 and len(caplog.records) == 1
    assert result.tile_sizes[0] < 140
    pixel(lr, generator=seeded(), tile=140, output_type="pt")
    assert len(first) == 1  # the next call knows what fits
    pixel._fitting_tiles.clear()


def test_the_number_of_tiles_at_once_changes_nothing(residual) -> None:
    pipe = residual
    lr = photo(60, 97).expand(2, -1, -1, -1)
    one, three = (
        pipe(lr, generator=seeded(), tile=Smooth(48, overlap=16), tile_batch=n, output_type="pt") for n in (1, 3)
    )
    torch.testing.assert_close(one.images, three.images, atol=1e-5, rtol=0)
    assert one.tile_sizes == [48, 48]
    assert not torch.equal(one.images[0], one.images[1])  # each image its own noise, in every tile


def test_results_say_which_were_tiled(residual) -> None:
    pipe = residual
    result = pipe([photo(20, 20), photo(70, 20)], tile=Smooth(32, overlap=16), output_type="picture")
    assert result.tile_sizes == [None, 32]
    assert [(picture.height, picture.width) for picture in result.images] == [(80, 80), (280, 80)]


@pytest.mark.parametrize("fix", ["none", "adain", "wavelet", "luma"])
def test_wide_images_give_what_they_give_untiled(pixel, fix) -> None:
    alpha = torch.rand(1, 40, 200)
    lr = torch.cat([photo(40, 200), alpha[None]], dim=1)
    whole, tiled = (
        pixel(lr, generator=seeded(), scale=1.7, tile=tile, color_fix=fix, output_type="picture").images[0].values
        for tile in ("off", 128)
    )
    assert whole.shape == (68, 340, 4)
    assert np.abs(whole.astype(int) - tiled).max() <= 1 and (whole != tiled).mean() < 0.01
    tensors = [
        pixel(lr, generator=seeded(), scale=1.7, tile=tile, color_fix=fix, output_type="pt").images
        for tile in ("off", 128)
    ]
    torch.testing.assert_close(tensors[0], tensors[1], atol=1e-4, rtol=0)


def test_a_wide_image_holds_rows_across_its_short_side(pixel, monkeypatch) -> None:
    shapes = []
    zeros = tiling.spacious_zeros
    monkeypatch.setattr(tiling, "spacious_zeros", lambda x, shape: shapes.append(shape) or zeros(x, shape))
    pixel(photo(40, 300), tile=128, output_type="pt")
    pixel(photo(300, 40), tile=128, output_type="pt")
    assert shapes == [(1, 3, 4 * 128, 4 * 40)] * 2


def test_sums_that_are_very_large_lie_in_a_file_and_are_the_same(pixel, monkeypatch) -> None:
    lr = photo(60, 150)
    plain = pixel(lr, generator=seeded(), tile=128, output_type="pt").images
    monkeypatch.setattr(tiling, "MAPPED_SUMS", 1)
    monkeypatch.setattr("resdiff.canvas.IN_MEMORY", 0)
    assert torch.equal(pixel(lr, generator=seeded(), tile=128, output_type="pt").images, plain)
