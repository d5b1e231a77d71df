"""The mean of models: what it computes, and what it refuses."""

import pytest
import torch
import yaml

from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.average import main, parse_args


def tiny_pipeline(width: int = 12) -> ResShiftPipeline:
    torch.manual_seed(0)
    unet = PixelUNet(channels=(8, width), num_blocks=(1, 1), prompt_dim=4).eval()
    parts = {"vae": None, "scheduler": ResShiftScheduler(num_train_timesteps=4), "text_encoder": PromptEncoder().eval()}
    return ResShiftPipeline(unet, **parts, padding_multiple=2, upsampling="pil")


def test_the_weights_are_the_mean_and_the_rest_is_of_the_last(tmp_path) -> None:
    first, last = tiny_pipeline(), tiny_pipeline()
    with torch.no_grad():
        last.text_encoder.table.weight[7] = 1
        for parameter in first.unet.parameters():
            parameter.mul_(3)
    first.save_pretrained(tmp_path / "a")
    last.save_pretrained(tmp_path / "b")
    main(parse_args(["--models", str(tmp_path / "a"), str(tmp_path / "b"), "--output_dir", str(tmp_path / "mean")]))
    mean = SRPipeline.from_pretrained(tmp_path / "mean")
    for name, weight in last.unet.state_dict().items():
        torch.testing.assert_close(mean.unet.state_dict()[name], 2 * weight)
    assert mean.text_encoder.open_tokens().nonzero().tolist() == [[7]]
    assert "mean of the weights of 2 models" in (tmp_path / "mean" / "README.md").read_text()
    assert yaml.safe_load((tmp_path / "mean" / "recipe.yaml").read_text()) == {
        "models": ["a", "b"],
        "prompt_strength": 1.0,
        "shares": None,
    }


def test_shares_and_where_a_student_came_from(tmp_path) -> None:
    first, last = tiny_pipeline(), tiny_pipeline()
    with torch.no_grad():
        for parameter in first.unet.parameters():
            parameter.mul_(3)
    first.save_pretrained(tmp_path / "teacher")
    last.save_pretrained(tmp_path / "student")
    (tmp_path / "student" / "README.md").write_text("# student\n\n## Distilled\n\nBy magic from `teacher`.\n")
    models = ["--models", str(tmp_path / "teacher"), str(tmp_path / "student")]
    main(parse_args([*models, "--shares", "0.25", "0.75", "--output_dir", str(tmp_path / "mean")]))
    mean = SRPipeline.from_pretrained(tmp_path / "mean")
    for name, weight in last.unet.state_dict().items():
        torch.testing.assert_close(mean.unet.state_dict()[name], 1.5 * weight)
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "(0.25 of `teacher`, 0.75 of `student`)" in card and card.endswith("By magic from `teacher`.\n")


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        (["1"], "error: --shares has 1 values for 2 models"),
        (["0.5", "0.6"], "error: --shares 0.5 0.6 must not be negative, and sum to 1"),
        (["1.5", "-0.5"], "error: --shares 1.5 -0.5 must not be negative, and sum to 1"),
    ],
)
def test_shares_that_cannot_be_meant(tmp_path, capsys, shares, line) -> None:
    with pytest.raises(SystemExit):
        parse_args(["--models", "a", "b", "--shares", *shares, "--output_dir", str(tmp_path / "mean")])
    assert capsys.readouterr().err.splitlines() == [line]


def test_words_are_exaggerated_and_nothing_else_is(tmp_path) -> None:
    pipe = tiny_pipeline()
    with torch.no_grad():
        for parameter in pipe.unet.parameters():
            parameter.fill_(0.25)
    pipe.save_pretrained(tmp_path / "a")
    models, out = [str(tmp_path / "a")] * 2, tmp_path / "strong"
    main(parse_args(["--models", *models, "--prompt_strength", "1.5", "--output_dir", str(out)]))
    weights = SRPipeline.from_pretrained(out).unet.state_dict()
    of_prompts = {name for name in weights if ".film.prompt." in name}
    assert of_prompts
    for name, weight in weights.items():
        torch.testing.assert_close(weight, torch.full_like(weight, 0.375 if name in of_prompts else 0.25))


def test_models_of_other_shapes_or_alone_are_refused_and_nothing_is_written(tmp_path, capsys) -> None:
    for name, width in (("a", 12), ("b", 16)):
        tiny_pipeline(width).save_pretrained(tmp_path / name)
    a, b, out = str(tmp_path / "a"), str(tmp_path / "b"), ["--output_dir", str(tmp_path / "mean")]
    with pytest.raises(ValueError, match="not of one shape"):
        main(parse_args(["--models", a, b, *out]))
    with pytest.raises(ValueError, match="bicubic has no U-Net"):
        main(parse_args(["--models", "bicubic", a, *out]))
    with pytest.raises(SystemExit):
        parse_args(["--models", a, *out])
    with pytest.raises(SystemExit):
        parse_args(["--models", a, b, "--prompt_strength", "0", *out])
    errors = capsys.readouterr().err
    assert "--models must name at least two" in errors and "--prompt_strength 0.0 must be positive" in errors
    assert not (tmp_path / "mean").exists()
