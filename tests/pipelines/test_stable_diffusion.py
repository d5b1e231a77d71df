"""Every family on a tiny Stable Diffusion: tiles, seeds, batches, files, sizes."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from resdiff.eval.tiling import seam_ratio
from resdiff.pipelines import SRPipeline, stable_diffusion, tiny
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.autoencoding import VaeTiles
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.tiling import Gaussian, tiled

NAMES = ("seesr", "addsr", "stablesr")


@pytest.fixture(params=NAMES)
def adapter(request):
    """Each family on Stable Diffusion in turn."""
    return request.getfixturevalue(request.param)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth_photo(seed: int, height: int, width: int) -> Tensor:
    """A photo without steps, (1, 3, height, width) in [0, 1]."""
    coarse = torch.rand(1, 3, height // 5 + 1, width // 5 + 1, generator=seeded(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def run(pipe: SRPipeline, lr, **options) -> Tensor:
    return pipe(lr, generator=seeded(), output_type="pt", **options).images


# --- tiles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("published", [False, True])
def test_one_tile_is_the_untiled_image_bit_for_bit(adapter, published) -> None:
    lr = smooth_photo(0, 24, 24)  # 12 x 12 latents
    whole = run(adapter, lr, tile="off")
    assert torch.equal(run(adapter, lr, tile=Gaussian(12, 4, published)), whole)
    x = torch.randn(2, 4, 12, 12, generator=seeded())
    assert torch.equal(tiled(lambda tiles, boxes: tiles, x, Gaussian(12, 4, published)), x)


@pytest.mark.parametrize("size", [(12, 12), (9, 31), (40, 17), (5, 50)])
@pytest.mark.parametrize("published", [False, True])
def test_a_pointwise_operator_does_not_notice_the_tiles(size, published) -> None:
    x = torch.randn(2, 3, *size, generator=seeded())
    tiling = Gaussian(8, 3, published).on(*size)
    torch.testing.assert_close(tiled(lambda tiles, boxes: tiles.sin() * 2, x, tiling), x.sin() * 2, rtol=0, atol=1e-6)


def test_published_tiles_are_square_and_begin_to_cut_by_area() -> None:
    tiling = Gaussian(8, 2, published=True)
    assert not tiling.cuts(4, 16) and tiling.cuts(5, 13) and not Gaussian(8, 2).cuts(8, 8)
    assert tiling.on(3, 40) == Gaussian(3, 2, published=True) and Gaussian(8, 2).on(3, 40) == Gaussian(8, 2)


def test_no_seam_shows_where_tiles_begin_and_end(adapter) -> None:
    tiling, ratios = adapter.latent_tiles(32), []
    for seed in range(20):
        lr = smooth_photo(seed, 48, 48)
        image = adapter(lr, num_inference_steps=1, generator=seeded(seed), tile=32, output_type="pt").images
        ratios.append(seam_ratio(image, tiling))
    assert np.mean(ratios) <= 1.05


def test_the_order_of_the_tiles_changes_nothing(adapter, monkeypatch) -> None:
    lr = smooth_photo(3, 40, 44)
    expected = run(adapter, lr, tile=24)

    def shuffled(fn, x, tiling, scale=1, tile_batch=1):
        def anyhow(tiles, boxes):  # all tiles at once, computed one by one in a random order
            parts = dict(enumerate(tiles.chunk(len(boxes))))
            order = random.Random(0).sample(list(parts), len(parts))
            done = {i: fn(parts[i], [boxes[i]]) for i in order}
            return torch.cat([done[i] for i in sorted(done)])

        return tiled(anyhow, x, tiling, scale, tile_batch=100)

    from resdiff.pipelines import denoising

    monkeypatch.setattr(denoising, "tiled", shuffled)
    image = run(adapter, lr, tile=24)
    assert torch.equal((image * 255).round(), (expected * 255).round())
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


def test_the_number_of_tiles_at_once_changes_nothing(adapter) -> None:
    lr = smooth_photo(4, 36, 52)
    torch.testing.assert_close(run(adapter, lr, tile=24, tile_batch=4), run(adapter, lr, tile=24), rtol=0, atol=1e-5)


def test_tiles_are_said_in_pixels_of_the_input(adapter) -> None:
    done = adapter([smooth_photo(0, 20, 24), smooth_photo(0, 40, 24)], tile=32, num_inference_steps=1)
    assert done.tile_sizes == [None, 32]
    assert adapter.latent_tiles("reference:64:8") == Gaussian(64, 8, published=True)


def test_tiles_are_the_published_ones_or_such_that_no_seam_shows(seesr, addsr) -> None:
    for pipe in (seesr, addsr):
        assert pipe.latent_tiles("auto") == Gaussian(96, 32)
        assert pipe.latent_tiles("reference") == Gaussian(96, 4, published=True)
    for side, latents in ((512, 64), (768, 96)):
        stablesr = tiny.tiny_stablesr(process_size=side)
        assert stablesr.latent_tiles("auto") == Gaussian(latents, latents // 2)
        assert stablesr.latent_tiles("reference") == Gaussian(latents, 32, published=True)


def test_published_tiles_bring_the_published_autoencoders(seesr, addsr, monkeypatch) -> None:
    used = []
    monkeypatch.setattr(stable_diffusion, "encode", lambda vae, image, noise, tiling: used.append(tiling) or noise)
    for adapter in (seesr, addsr):
        for tile in ("auto", "reference"):
            adapter(smooth_photo(0, 20, 20), num_inference_steps=1, tile=tile)
    assert used == ["auto", VaeTiles()] * 2


MAKERS = {
    "seesr": lambda: tiny.tiny_adapter(SeeSRPipeline),
    "addsr": lambda: tiny.tiny_adapter(AddSRPipeline),
    "stablesr": tiny.tiny_stablesr,
}


@pytest.mark.parametrize("family", MAKERS)
def test_a_canvas_shorter_than_the_tile_along_one_side_gets_its_size(family, monkeypatch) -> None:
    coarse = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D")}  # attention where there are fewer positions
    monkeypatch.setattr(tiny, "UNET", tiny.UNET | coarse)
    monkeypatch.setattr(tiny, "UP_BLOCKS", ("CrossAttnUpBlock2D", "UpBlock2D"))
    pipe = MAKERS[family]()
    pipe.set_progress_bar_config(disable=True)
    done = pipe(smooth_photo(1, 300, 400), num_inference_steps=1, guidance_scale=1.0, tile=310)
    assert done.images[0].size == (1600, 1200) and done.tile_sizes == [310]


# --- seeds, batches, files -------------------------------------------------------------------------------------------


def test_a_batch_of_four_sizes_is_four_single_images(adapter) -> None:
    sizes = [(16, 20), (24, 17), (16, 20), (31, 22)]
    photos = [smooth_photo(i, *size)[0] for i, size in enumerate(sizes)]
    generators = [seeded(i) for i in range(4)]
    together = adapter(photos, "sharp fur", generator=generators).images
    for i, photo in enumerate(photos):
        alone = adapter(photo, "sharp fur", generator=seeded(i)).images[0]
        assert np.abs(np.asarray(together[i], int) - np.asarray(alone, int)).max() <= 1


def test_texts_of_other_lengths_are_not_in_one_batch(adapter) -> None:
    photos = [smooth_photo(i, 16, 16)[0] for i in range(2)]
    words = ["fur", ", ".join(["a very long text"] * 30)]
    together = adapter(photos, words, generator=[seeded(), seeded()], long_prompt="chunk", output_type="pt").images
    alone = adapter(photos[:1], words[0], generator=seeded(), long_prompt="chunk", output_type="pt").images
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-5)
    assert not torch.allclose(together[1:], alone, atol=1e-2)


def test_the_same_seed_gives_the_same_image_and_another_another(adapter) -> None:
    lr = smooth_photo(5, 16, 16)
    again = [adapter(lr, generator=seeded(seed), output_type="pt").images for seed in (1, 1, 2)]
    assert torch.equal(again[0], again[1]) and not torch.equal(again[0], again[2])


def test_saved_and_opened_it_gives_the_same_image_bit_for_bit(adapter, tmp_path) -> None:
    adapter.save_pretrained(tmp_path)
    opened = SRPipeline.from_pretrained(tmp_path)
    opened.set_progress_bar_config(disable=True)
    assert type(opened) is type(adapter)
    lr = smooth_photo(6, 18, 22)
    first, second = (pipe(lr, "sharp fur", generator=seeded(), output_type="pt") for pipe in (adapter, opened))
    assert torch.equal(first.images, second.images) and first.prompts == second.prompts


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (5, 3), (15, 40)])
def test_small_images_are_enlarged_first_and_get_their_size(adapter, size) -> None:
    image = adapter(np.zeros((*size, 3), np.uint8), num_inference_steps=1, output_type="pt").images
    assert image.shape[-2:] == (4 * size[0], 4 * size[1])
    latents = adapter(np.zeros((*size, 3), np.uint8), num_inference_steps=1, output_type="latent").images
    assert latents.shape[1:] == adapter.latent_shape(*size) and min(latents.shape[-2:]) == 8
