"""What every pipeline's call does: inputs, seeds, batches, sizes, outputs, errors. Runs over the kinds of the family."""

import os
import warnings
from dataclasses import fields

import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image

from resdiff.images import read_photos
from resdiff.noise import SeededNoise
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.base import BATCH_PIXELS
from resdiff.pipelines.inputs import Item, same_size_batches
from resdiff.resize import bicubic
from resdiff.sizes import scaled_size
from resdiff.tiling import Box, Smooth


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(height: int = 13, width: int = 18, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_every_way_to_pass_one_image_gives_the_same_result(pipe, tmp_path) -> None:
    array = photo()
    Image.fromarray(array).save(tmp_path / "a.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    ways = [
        array,
        array[None],
        array.astype(np.float32) / 255,
        Image.fromarray(array),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        tensor,
        tensor[None].float() / 255,
        [array],
    ]
    results = [np.asarray(pipe(way, generator=seeded()).images[0]) for way in ways]
    assert results[0].shape == (52, 72, 3)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_a_batch_gives_the_images_that_singles_give(pipe) -> None:
    photos = [photo(seed=i) for i in range(3)]
    together = pipe(photos, generator=seeded()).images
    g = seeded()
    alone = [pipe(p, generator=g).images[0] for p in photos]
    listed = pipe(photos, generator=[seeded(i) for i in range(3)]).images
    listed_alone = [pipe(p, generator=seeded(i)).images[0] for i, p in enumerate(photos)]
    for a, b in zip(together + listed, alone + listed_alone, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1
    assert not np.array_equal(together[0], together[1])


def test_images_of_different_sizes_come_back_in_order(pipe) -> None:
    sizes = [(9, 12), (9, 12), (16, 7), (9, 12)]
    images = pipe([photo(*size) for size in sizes], generator=seeded()).images
    assert [image.size for image in images] == [(4 * w, 4 * h) for h, w in sizes]
    assert isinstance(pipe([photo(8, 8), photo(9, 9)], output_type="np").images, list)


def test_several_results_per_image_differ_and_are_consecutive(pipe) -> None:
    dark, bright = photo() // 3, 255 - photo(seed=1) // 3
    images = pipe([dark, bright], num_images_per_prompt=2, generator=seeded(), output_type="np").images
    assert images.shape == (4, 52, 72, 3)
    flat = images.reshape(4, -1)
    within, across = np.abs(flat[0] - flat[1]).mean(), np.abs(flat[0] - flat[2]).mean()
    assert 0 < within < across


def test_output_types_agree(pipe) -> None:
    plain = {"fidelity": 0} if "cfw" in pipe.components else {}  # else the decoder needs the input as well
    run = {
        kind: pipe(photo(16, 18), generator=seeded(), output_type=kind, color_fix="none", **plain).images
        for kind in ("pil", "np", "pt", "latent")
    }
    assert run["np"].shape == (1, 64, 72, 3) and run["pt"].shape == (1, 3, 64, 72)
    assert run["np"].min() >= 0 and run["np"].max() <= 1
    np.testing.assert_allclose(run["np"][0], run["pt"][0].permute(1, 2, 0), atol=1e-6)
    assert np.abs(np.asarray(run["pil"][0]) / 255 - run["np"][0]).max() <= 0.5 / 255 + 1e-6
    decoded = pipe.decode(run["latent"])[..., :64, :72].clamp(-1, 1)
    torch.testing.assert_close(decoded / 2 + 0.5, run["pt"], atol=1e-5, rtol=0)
    assert isinstance(pipe(photo(), return_dict=False), tuple)


@pytest.mark.parametrize(("scale", "size"), [(None, (52, 72)), (1, (13, 18)), (2.5, (33, 45)), (5, (65, 90))])
def test_any_scale_gives_exactly_the_rounded_size(pipe, scale, size) -> None:
    assert pipe(photo(), scale=scale, output_type="pt").images.shape[-2:] == size
    assert scaled_size(1, 1, 0.1) == (1, 1)


def test_the_callback_sees_every_step_and_may_change_the_latents(pipe) -> None:
    seen = []

    def freeze(owner: SRPipeline, step: int, timestep: int, tensors: dict) -> dict:
        assert owner is pipe
        seen.append((step, timestep))
        return {"latents": torch.zeros_like(tensors["latents"])}

    latents = pipe(photo(), generator=seeded(), output_type="latent", callback_on_step_end=freeze).images
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    assert sorted((timestep for _, timestep in seen), reverse=True) == [timestep for _, timestep in seen]
    assert latents.abs().max() == 0


def test_latents_are_the_noise_that_starts_the_chain(pipe) -> None:
    g = seeded(3)
    seen = {}
    has_other_begin = "start_point" in {field.name for field in fields(pipe.options_type)}
    begin = {"start_point": "noise"} if has_other_begin else {}  # nothing else is random before the first step

    def note(_, step: int, __, tensors: dict) -> dict:
        seen.setdefault(step, tensors["pred_original_sample"])
        return tensors

    shape = pipe(
        photo(20, 18), generator=seeded(3), output_type="latent", callback_on_step_end=note, **begin
    ).images.shape
    first = seen.copy()
    seed = int(torch.randint(-(2**63), 2**63 - 1, (), generator=g))
    height, width = photo(20, 18).shape[:2]
    padded = [side + -side % pipe.padding_multiple for side in (height, width)]
    noise = SeededNoise([seed], torch.device("cpu"), None, Box(0, 0, *padded))(0, shape)
    seen.clear()
    other = seeded(3 if "structure_encoder" in pipe.components else 9)  # which sees a random sample of the posterior
    pipe(photo(20, 18), generator=other, latents=noise, callback_on_step_end=note, **begin)
    torch.testing.assert_close(seen[0], first[0])
    with pytest.raises(ValueError, match="latents holds 1"):
        pipe([photo(20, 18), photo(20, 18)], latents=noise)
    with pytest.raises(ValueError, match=r"latents are of .* but the image needs"):
        pipe(photo(20, 18), latents=noise[..., :4, :4])


def test_colour_fix_moves_the_channel_means_to_the_inputs(pipe) -> None:
    array = photo(16, 16)
    up = bicubic(torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255, (64, 64), "pil")
    gaps = {}
    for fix in ("none", "adain", "wavelet", "luma"):
        out = pipe(array, generator=seeded(), color_fix=fix, output_type="pt").images
        gaps[fix] = float((out.mean(dim=(2, 3)) - up.mean(dim=(2, 3))).abs().max())
    assert gaps["adain"] < min(0.02, gaps["none"]) and gaps["wavelet"] < gaps["none"]
    auto, chosen, half = (
        pipe(array, generator=seeded(), color_fix=fix, color_fix_strength=strength, output_type="pt").images
        for fix, strength in (("auto", 1), (pipe.default_color_fix, 1), ("adain", 0.5))
    )
    assert torch.equal(auto, chosen)
    assert gaps["adain"] < float((half.mean(dim=(2, 3)) - up.mean(dim=(2, 3))).abs().max()) < gaps["none"]


def test_alpha_and_grey_survive(pipe) -> None:
    alpha = np.zeros((13, 18, 1), np.uint8)
    alpha[:, 9:] = 255
    rgba = pipe(Image.fromarray(np.concatenate([photo(), alpha], axis=2))).images[0]
    assert rgba.mode == "RGBA" and rgba.size == (72, 52)
    edge = np.asarray(rgba)[..., 3]
    assert edge[:, :30].max() == 0 and edge[:, 42:].min() == 255
    assert pipe(Image.fromarray(photo()[..., 0])).images[0].mode == "L"


def test_a_family_without_text_warns_once_about_a_prompt(residual) -> None:
    pipe = residual
    pipe._warned_of_prompt = False
    with pytest.warns(UserWarning, match="takes no text"):
        pipe(photo(8, 8), "sharp fur")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(photo(8, 8), "sharp fur")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0}, "scale=0"),
        ({"scale": -2.0}, "scale=-2.0"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"num_inference_steps": 0}, "num_inference_steps=0 must lie between 1 and"),
        ({"num_images_per_prompt": 0}, "num_images_per_prompt=0"),
        ({"scale": "4"}, "scale='4' must be a positive number"),
        ({"num_inference_steps": 1.5}, "num_inference_steps=1.5 must be a whole number"),
        ({"num_images_per_prompt": "2"}, "num_images_per_prompt='2' must be a whole number"),
        ({"generator": 0}, "generator is 0; pass a torch.Generator"),
        ({"latents": "noise"}, "latents is str; pass a tensor"),
        ({"latents": torch.full((1, 3, 32, 32), torch.nan)}, "latents hold NaN or Inf"),
        ({"color_fix": "hue"}, "color_fix='hue' is unknown; choose one of auto, none"),
        ({"output_type": "jpg"}, "output_type='jpg' is unknown"),
        ({"tile": "big"}, "tile='big' is unknown"),
        ({"tile": 0}, "tile=0 is unknown"),
        ({"tile": "reference:8:9"}, "(stride|overlap) 9"),
        ({"mask": photo(8, 8)}, "mask is for inpainting models"),
        ({"generator": [seeded()] * 2}, "list of 2 for 1"),
        ({"scale": 1e6}, "must be a positive number up to 1000"),
        ({"tile_batch": 0}, "tile_batch=0 must be at least 1"),
        ({"color_fix_strength": 1.5}, "color_fix_strength=1.5 must lie between 0"),
    ],
)
def test_bad_arguments_are_one_clear_line(pipe, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pipe(photo(8, 8), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 5}, "num_inference_steps=5 must lie between 1 and 4"),
        ({"tile": "reference", "generator": [seeded()]}, "one generator"),
        ({"tile": "reference", "latents": torch.zeros(1, 3, 8, 8)}, 'latents are not for tile="reference"'),
        ({"tile": Smooth(33, 3)}, "must be multiples of"),
    ],
)
def test_bad_arguments_of_residual_shifting_are_one_clear_line(residual, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        residual(photo(8, 8), **arguments)
    assert "\n" not in str(caught.value)


def test_an_option_of_another_family_is_refused_by_name(pipe) -> None:
    with pytest.raises(TypeError, match=rf"hue: no option of {type(pipe).__name__}; it has") as caught:
        pipe(photo(8, 8), hue=3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "bad",
    [
        np.full((8, 8, 3), np.nan, np.float32),
        np.full((8, 8, 3), 7.0, np.float32),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8, 5), np.uint8),
        [],
        "missing.png",
    ],
    ids=["nan", "range", "empty", "channels", "nothing", "missing"],
)
def test_bad_images_are_one_clear_line(pipe, bad) -> None:
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        pipe(bad)
    assert "\n" not in str(caught.value)


def test_a_long_list_of_one_size_is_cut_into_batches_of_bounded_area(pipe) -> None:
    side = 200
    items = [Item(i, p, None) for i, p in enumerate(read_photos([photo(side, side)] * 9 + [photo(20, 20)]))]
    batches = list(same_size_batches(items, BATCH_PIXELS))
    assert [item.index for batch in batches for item in batch] == list(range(10))
    assert all(len(batch) * side * side <= BATCH_PIXELS for batch in batches)
    assert len(batches) == 3


def test_small_images_are_counted_as_large_as_they_are_padded() -> None:
    items = [Item(i, p, None) for i, p in enumerate(read_photos([photo(9, 9)] * 40))]
    batches = list(same_size_batches(items, 4 * 64 * 64, multiple=64))
    assert [len(batch) for batch in batches] == [4] * 10


def test_small_images_are_counted_as_large_as_they_are_enlarged() -> None:
    items = [Item(i, p, None) for i, p in enumerate(read_photos([photo(9, 12)] * 7))]
    batches = list(same_size_batches(items, 2 * 128 * 172, multiple=2, smallest=128))
    assert [len(batch) for batch in batches] == [2, 2, 2, 1]


def test_a_tile_larger_than_the_image_changes_nothing(pipe) -> None:
    run = [pipe(photo(), generator=seeded(), tile=tile, output_type="pt").images for tile in ("off", "auto", 4096)]
    assert torch.equal(run[0], run[1]) and torch.equal(run[0], run[2])


def test_a_callback_may_interrupt_and_the_best_image_so_far_comes_back(pipe) -> None:
    seen = {}

    def stop(owner: SRPipeline, step: int, _: int, tensors: dict) -> dict:
        seen[step] = tensors["pred_original_sample"]
        owner._interrupt = step == 1
        return tensors

    latents = pipe(photo(), generator=seeded(), output_type="latent", callback_on_step_end=stop).images
    assert list(seen) == [0, 1] and pipe.num_timesteps == 4
    assert torch.equal(latents, seen[1])  # the prediction, not what is still half noise
    again = pipe(photo(), generator=seeded(), output_type="pt").images
    assert not pipe.interrupt and torch.isfinite(again).all()


def test_a_callback_is_shown_what_it_asks_for(pipe) -> None:
    shown = []

    class Note(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
            shown.append(list(callback_kwargs))
            return callback_kwargs

    pipe(photo(8, 8), callback_on_step_end=Note(cutoff_step_ratio=1.0), num_inference_steps=1)
    pipe(
        photo(8, 8),
        num_inference_steps=1,
        callback_on_step_end=lambda p, i, t, tensors: shown.append(list(tensors)) or tensors,
        callback_on_step_end_tensor_inputs=["pred_original_sample"],
    )
    assert shown == [["latents"], ["pred_original_sample"]]
    with pytest.raises(ValueError, match=r"has prompt_embeds; there are latents, pred_original_sample"):
        pipe(photo(8, 8), callback_on_step_end=print, callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_pictures_keep_sixteen_bits_and_pil_images_are_eight(pipe) -> None:
    deep = (photo().astype(np.uint16) << 8) + 3
    picture = pipe(deep, generator=seeded(), output_type="picture").images[0]
    exact = pipe(deep, generator=seeded(), output_type="np").images[0]
    assert picture.values.dtype == np.uint16
    assert np.abs(picture.values / 65535 - exact).max() <= 0.51 / 65535
    with pytest.warns(UserWarning, match="8 bits"):
        shown = pipe(deep, generator=seeded()).images[0]
    assert np.abs(np.asarray(shown) / 255 - exact).max() <= 0.51 / 255


def test_saved_files_may_be_read_by_whom_the_umask_says(pipe, tmp_path) -> None:
    before = os.umask(0o022)
    try:
        pipe.save_pretrained(tmp_path)
    finally:
        os.umask(before)
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.rglob("*.safetensors")} == {"0o644"}
