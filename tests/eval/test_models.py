"""What is compared: specs of models, folders of results, and the names they get."""

import pytest
import torch

from resdiff.eval.harness.images import as_images
from resdiff.eval.harness.models import parse_models
from resdiff.images import Photo
from resdiff.runs.restorer import Settings

DEFAULT = Settings(device="cpu", dtype="float32", seed=3)


def test_a_spec_sets_what_it_names_and_the_rest_is_the_runs(tmp_path) -> None:
    said = "prompt='sharp fur' negative_prompt=soft guidance_scale=1.5 fidelity=0.5"
    spec = f"resdiff-small num_inference_steps=4 {said} tile=64 color_fix=none"
    (model,) = parse_models([spec], [], DEFAULT)
    assert model.settings == Settings(
        model="resdiff-small", device="cpu", dtype="float32", seed=3,
        num_inference_steps=4, prompt="sharp fur", negative_prompt="soft", guidance_scale=1.5, fidelity=0.5,
        tile=64, color_fix="none",
    )  # fmt: skip
    assert model.name == spec.replace("'", "")
    assert model.kind == "pipeline" and model.call["num_inference_steps"] == 4


def test_kinds_and_folders_follow_the_name(tmp_path) -> None:
    models = parse_models(["bicubic", "runs/x4"], [f"GAN (ours)={tmp_path}"], DEFAULT)
    assert [m.kind for m in models] == ["bicubic", "pipeline", "results"]
    assert [m.folder for m in models] == ["bicubic", "runs-x4", "GAN-ours"]


@pytest.mark.parametrize("key", ["device=cuda", "scale=2", "mask=m.png", "model=other"])
def test_what_is_one_for_the_whole_run_is_not_a_models_own(key) -> None:
    with pytest.raises(ValueError, match="has no setting"):
        parse_models([f"bicubic {key}"], [], DEFAULT)


def test_names_that_would_share_a_folder_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="would share the folder"):
        parse_models(["runs/x4", "runs x4=1".replace(" x4=1", "-x4")], [], DEFAULT)
    with pytest.raises(ValueError, match="there is no folder"):
        parse_models([], [f"a={tmp_path / 'none'}"], DEFAULT)


def grey(value: int, size: int = 8) -> torch.Tensor:
    return torch.full((1, size, size), value, dtype=torch.uint8)


def colour(*values: int, size: int = 8) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.uint8)[:, None, None].expand(3, size, size)


def test_a_coloured_answer_to_a_grey_image_counts_by_the_rounded_mean_of_its_channels() -> None:
    lr = Photo(torch.zeros(3, 2, 2), grey=True)
    images = as_images(colour(90, 100, 141), grey(100), lr, grey_is_luma=True, device=torch.device("cpu"))
    assert images.sr.shape == (1, 1, 8, 8) and (images.sr == 110).all() and images.lr.shape == (1, 1, 2, 2)


def test_without_hr_the_lr_image_says_whether_it_is_grey() -> None:
    lr = Photo(torch.zeros(3, 2, 2), grey=True)
    assert as_images(colour(1, 2, 3), None, lr, grey_is_luma=True, device=torch.device("cpu")).sr.shape[1] == 1
    lr = Photo(torch.zeros(3, 2, 2), grey=False)
    assert as_images(colour(1, 2, 3), None, lr, grey_is_luma=True, device=torch.device("cpu")).sr.shape[1] == 3


def test_the_real_world_school_sees_grey_as_colour() -> None:
    lr = Photo(torch.zeros(3, 2, 2), grey=True)
    images = as_images(grey(5), grey(100), lr, grey_is_luma=False, device=torch.device("cpu"))
    assert images.sr.shape == images.hr.shape == (1, 3, 8, 8)


def test_result_and_hr_must_have_one_size() -> None:
    lr = Photo(torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match="the result is 8x8 and HR 9x9"):
        as_images(grey(0), grey(0, 9), lr, grey_is_luma=True, device=torch.device("cpu"))
