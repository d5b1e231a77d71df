"""Saved folders that somebody edited or damaged are refused before anything is built."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file

from resdiff.checkpoints.saved import check_class, check_component, check_numbers, is_component
from resdiff.pipelines import SRPipeline


def component(folder, **config):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({f"layer.{i}": torch.zeros(1) for i in range(10)}, folder / "diffusion_pytorch_model.safetensors")
    return folder


def test_a_sound_component_passes(tmp_path) -> None:
    check_component(
        component(tmp_path / "unet", num_blocks=[3, 2, 2], channels=[64, 128], scale=4, name="x", ratio=1e30)
    )


@pytest.mark.parametrize(
    "config",
    [
        {"num_blocks": [3, 2, 60]},
        {"num_res_blocks": 2**31 - 1},
        {"image_channels": 10**9},
        {"channels": [64, -(2**40)]},
    ],
    ids=str,
)
def test_numbers_that_would_cost_memory_or_time_are_refused(tmp_path, config) -> None:
    with pytest.raises(ValueError, match=rf"config\.json: {next(iter(config))} does not fit the weights") as caught:
        check_component(component(tmp_path / "unet", **config))
    assert "\n" not in str(caught.value)


def test_the_numbers_of_a_scheduler_are_bounded_too(tmp_path) -> None:
    check_numbers(tmp_path, {"num_train_timesteps": 1000}, tensors=0)
    with pytest.raises(ValueError, match="num_train_timesteps"):
        check_numbers(tmp_path, {"num_train_timesteps": 2**31 - 1}, tensors=0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path) -> None:
    folder = component(tmp_path / "unet")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    with pytest.raises(ValueError, match=r"config\.json is no regular file"):
        check_component(folder)


def test_a_stock_class_is_not_for_networks_with_image_attentions(tmp_path) -> None:
    folder = component(tmp_path / "unet", use_image_cross_attention=True)
    check_class(folder, ["resdiff.models.seesr", "SeeSRUNet"])
    with pytest.raises(
        ValueError, match=r"unet has use_image_cross_attention, which UNet2DConditionModel of diffusers"
    ) as caught:
        check_class(folder, ["diffusers", "UNet2DConditionModel"])
    assert "\n" not in str(caught.value)
    check_class(component(tmp_path / "off", use_image_cross_attention=False), ["diffusers", "UNet2DConditionModel"])
    check_class(tmp_path, ["transformers", "CLIPTokenizer"])


@pytest.mark.parametrize(
    ("value", "expected"), [(["a", "B"], True), ([None, None], False), ({}, False), (["a"], False), ("ab", False)]
)
def test_components_are_pairs_of_names(value, expected) -> None:
    assert is_component(value) is expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("scheduler", {}),
        ("padding_multiple", [[1]]),
        ("tile_size", ""),
        ("tile_size", [0]),
        ("scale", ""),
        ("scale", True),
        ("scale", "four"),
        ("num_inference_steps", "2"),
        ("upsampling", 3),
    ],
)
def test_an_edited_description_is_one_line(tmp_path, key, value) -> None:
    from resdiff.checkpoints.known import bundled_folder

    SRPipeline.from_pretrained(bundled_folder()).save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {key: value}))
    with pytest.raises(ValueError, match=rf"{key}|cannot be opened") as caught:
        SRPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
