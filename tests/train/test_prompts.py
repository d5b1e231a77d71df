"""Teaching a text encoder: crops are measured against the model's mean, words that pay are opened, the rest ignored."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import resdiff.data.phrases as phrases
from resdiff.data.attributes import ATTRIBUTES, attributes
from resdiff.data.degradation.presets import preset
from resdiff.data.phrases import Saying, Wording, draw_prompt
from resdiff.data.scan import scan
from resdiff.data.training_set import TrainingSet
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.card_of_words import card_of_words, known_prompts, said
from resdiff.train.prompts import (
    draw_prompts,
    error_per_prompt,
    fit_encoder,
    main,
    measure,
    parse_args,
    paying_tokens,
    usual_attributes,
)

NAMES = ("detail", "grain")


def tiny_pipeline() -> ResShiftPipeline:
    torch.manual_seed(0)
    unet = PixelUNet(channels=(8, 16), num_blocks=(1, 1), embed_dim=16).eval()
    return ResShiftPipeline(unet, None, ResShiftScheduler(num_train_timesteps=4), padding_multiple=2, upsampling="pil")


@pytest.fixture
def half_flat(tmp_path) -> Path:
    """A folder of photos that are noise on the left, more from photo to photo, and almost flat on the right."""
    folder = tmp_path / "half_flat"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = 120 + rng.normal(0, 1, (96, 80, 3)).cumsum(axis=0)
        pixels[:, :30] += rng.normal(0, 8 + 6 * i, (96, 30, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def test_crops_are_measured_against_the_models_mean_whatever_the_batch(half_flat) -> None:
    data = TrainingSet(scan(half_flat, crop=(64, 64)), crop=(64, 64))
    pipe, light = tiny_pipeline(), preset("light")
    measured, seen = measure(pipe, data, light, 6, seed=1)
    assert measured.shape == (6, 4) and seen.shape == (6, 3)
    for one, other in zip((measured, seen), measure(pipe, data, light, 6, seed=1, batch_size=4), strict=True):
        assert torch.allclose(one, other, atol=1e-4, equal_nan=True)
    assert not torch.allclose(measured, measure(pipe, data, light, 6, seed=2)[0], atol=1e-2, equal_nan=True)
    assert (measured[:, 0] > 0.2).all()  # an untrained network predicts bicubic enlargement, which is soft


def test_a_mean_as_good_as_the_photo_leaves_nothing_to_say(half_flat, monkeypatch) -> None:
    data = TrainingSet(scan(half_flat, crop=(64, 64)), crop=(64, 64))
    seen: list[Tensor] = []

    def attributes_of(hr: Tensor, predicted: Tensor) -> Tensor:
        seen.extend([hr, predicted])
        return attributes(hr, predicted)

    monkeypatch.setattr("resdiff.train.prompts.attributes", attributes_of)
    measure(tiny_pipeline(), data, preset("bicubic-pil"), 2, seed=0)
    hr, predicted = seen
    assert hr.shape == predicted.shape == (2, 3, 64, 64)
    assert hr.min() >= 0 and hr.max() <= 1 and torch.equal((255 * hr).round(), 255 * hr)
    assert (hr - predicted).abs().mean() < 0.05 < (hr - predicted).abs().max()


def test_what_is_usual_is_found_without_undefined_values_and_tails() -> None:
    g = torch.Generator().manual_seed(0)
    seen = torch.randn(5000, 3, generator=g) + 2
    slope = torch.tensor([[1.0, 0, 0], [0, -2, 0], [0, 0, 0.2], [0, 0, 0]])
    log_std_slope = torch.tensor([[0, 0.5, 0], [0, 0, 0], [0, 0, 0], [-0.3, 0, 0]])
    spread = torch.tensor([1, 2, 0.1, 3]) * (seen @ log_std_slope.T).exp()
    measured = torch.randn(5000, 4, generator=g) * spread + torch.tensor([0, 1, 2, 3]) + seen @ slope.T
    measured[::3, 1] = float("nan")
    measured[0, 0] = 1e6
    usual = usual_attributes(measured, seen)
    assert usual["mean"] == pytest.approx((0, 1, 2, 3), abs=0.3)
    torch.testing.assert_close(torch.tensor(usual["slope"]), slope, rtol=0.05, atol=0.15)
    assert usual["std"] == pytest.approx((1, 2, 0.1, 3), rel=0.15)
    torch.testing.assert_close(torch.tensor(usual["log_std_slope"]), log_std_slope, rtol=0, atol=0.08)
    measured[:, 2] = 7
    with pytest.raises(ValueError, match="contrast has no spread over 5000 crops"):
        usual_attributes(measured, seen)


def test_the_error_counts_known_targets_only() -> None:
    targets = torch.tensor([[1.0, float("nan")], [0.0, 2.0], [float("nan"), float("nan")]])
    said = torch.zeros(3, 2, requires_grad=True)
    error = error_per_prompt(said, targets)
    assert error.tolist() == [1, 2, 0]
    error.sum().backward()
    assert said.grad is not None and said.grad.isfinite().all()


def test_tokens_that_do_not_lower_the_error_are_found() -> None:
    torch.manual_seed(0)
    encoder = PromptEncoder(vocab_size=6, attributes=NAMES, mean=(0, 0), std=(1, 1)).eval()
    with torch.no_grad():
        encoder.table.weight[2:5] = 3
        encoder.readout.weight *= 4
    answer = encoder(torch.tensor([[2]]))
    assert answer.abs().max() > 0.3
    ids = torch.tensor([[2, 0], [3, 0]] * 100)  # 2 is right, 3 says the same of other prompts, 4 does not occur
    targets = torch.where(ids[:, :1] == 2, answer, -answer)
    targets = targets + 0.1 * torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    assert paying_tokens(encoder, ids, targets.detach()).tolist() == [False, False, True, False, False, False]


@pytest.fixture(scope="module")
def taught() -> PromptEncoder:
    """An encoder taught a few words by the prompts of random attributes."""
    few = {
        "detail": (Wording(("sharp", "crisp")), Wording(("soft",))),
        "grain": (Wording(("grainy",)), Wording(("clean",))),
    }
    forms = (("{}",), ("{}",)), (("very {}",), ()), (("slightly {}",), ()), (("not {}",), ())
    ranges = (0.5, math.inf, 3), (1.3, math.inf, 3), (0.2, 0.8, 2), (-math.inf, -0.2, 2)
    sayings = tuple(Saying(*r, *f) for r, f in zip(ranges, forms, strict=True))
    g = torch.Generator().manual_seed(0)
    values = torch.randn(4000, 2, generator=g)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phrases, "WORDINGS", few)
        patch.setattr(phrases, "SAYINGS", sayings)
        patch.setattr(phrases, "NOUNS", ("dog", "fur", "brick", "sky", "granite"))
        patch.setattr(phrases, "draw_distraction", lambda generator: "big")
        prompts = [draw_prompt(row, g, NAMES) for row in values.tolist()]
    torch.manual_seed(0)
    encoder = PromptEncoder(dim=8, width=16, attributes=NAMES, mean=(0, 0), std=(1, 1))
    held_out = torch.arange(len(prompts)) % 5 == 0
    ids = tokenize(prompts)[:, :12]
    error = fit_encoder(encoder, ids, values, held_out, steps=300, batch_size=256, learning_rate=3e-2, seed=0)
    assert error < 0.85  # 1 without a word
    return encoder


def says(encoder: PromptEncoder, prompt: str) -> dict[str, float]:
    with torch.no_grad():
        return dict(zip(NAMES, encoder(tokenize([prompt]))[0].tolist(), strict=True))


def test_words_are_learned_with_degrees_and_negations(taught) -> None:
    detail = {p: says(taught, p)["detail"] for p in ("sharp", "very sharp", "slightly sharp", "not sharp", "soft")}
    assert detail["very sharp"] > detail["sharp"] + 0.2 > detail["slightly sharp"] + 0.4
    assert detail["sharp"] > 0.6 and detail["soft"] < -0.6 and detail["not sharp"] < -0.4
    assert says(taught, "not soft")["detail"] > 0.4
    assert says(taught, "grainy")["grain"] > 0.6 and says(taught, "clean")["grain"] < -0.6
    assert says(taught, "not grainy")["grain"] < -0.4 and abs(says(taught, "grainy")["detail"]) < 0.3


def test_several_attributes_are_told_apart(taught) -> None:
    both = says(taught, "sharp but not grainy")
    assert both["detail"] > 0.4 and both["grain"] < -0.3
    both = says(taught, "soft, clean photo")
    assert both["detail"] < -0.4 and both["grain"] < -0.4


def test_nouns_and_fillers_are_ignored_exactly(taught) -> None:
    sharp = says(taught, "sharp")
    for prompt in ("sharp fur", "a photo of sharp brick", "sharp dromedary", "granite sky dog sharp", "sharp granary"):
        assert says(taught, prompt) == sharp, prompt
    assert says(taught, "a picture of my fluffy dog") == says(taught, "") == {"detail": 0, "grain": 0}
    assert 5 <= int(taught.open_tokens().sum()) <= 16


def test_the_card_lists_the_words_that_say_something_and_what_they_were_measured_to_do() -> None:
    torch.manual_seed(0)
    encoder = PromptEncoder().eval()
    with torch.no_grad():
        encoder.table.weight[tokenize(["sharp"])[0, 0]] = 1
        encoder.table.weight[tokenize(["grainy"])[0, 1]] = -1  # its second piece
    assert known_prompts(encoder) == ["sharp", "grainy", "very sharp", "slightly sharp", "not sharp", "very grainy", "slightly grainy", "not grainy"]  # fmt: skip
    effects = {prompt: [0.0, math.log(1.5), -math.log(2), math.nan] for prompt in known_prompts(encoder)}
    row = card_of_words(encoder, effects, "3 of set14 images").split("| sharp ")[1].splitlines()[0]
    assert [cell.strip() for cell in row.split("|")[1:]][4:] == ["+0", "+50", "-50", "", ""]
    assert row.startswith(f"| {said(encoder, 'sharp')[0]:+.2f} |")
    assert "2 of the 49408 tokens are open" in card_of_words(encoder)


def test_prompts_are_drawn_crop_by_crop_and_again_the_same() -> None:
    rows = torch.tensor([[2.0, math.nan, 0.0, 0.0], [-2.0, math.nan, 0.0, 0.0]])
    prompts = draw_prompts(rows, 200, seed=3)
    assert prompts == draw_prompts(rows, 200, seed=3) != draw_prompts(rows, 200, seed=4)
    very_sharp = [re.search(r"(extremely|really|super) (sharp|crisp|detailed)", p) is not None for p in prompts]
    assert any(very_sharp[::2]) and not any(very_sharp[1::2])


def test_the_script_writes_a_model_with_its_encoder(tmp_path, half_flat, capsys) -> None:
    few = "--num_crops 20 --num_prompts 100 --max_train_steps 4 --dtype fp32"
    before, after = tmp_path / "before", tmp_path / "after"
    pipe = tiny_pipeline()
    pipe.save_pretrained(before)
    flags = (
        f"--train_data_dir {half_flat} --pretrained_model_name_or_path {before} --output_dir {after} --resolution 32"
    )
    main(parse_args([*flags.split(), *few.split()]))
    written = SRPipeline.from_pretrained(after)
    assert isinstance(written.text_encoder, PromptEncoder)
    assert tuple(written.text_encoder.config.attributes) == ATTRIBUTES
    assert written.text_encoder.config.std[0] > 0 and written.text_encoder.config.mean[0] != 0
    for name, weight in pipe.unet.state_dict().items():
        assert torch.equal(written.unet.state_dict()[name], weight), name
    card = (after / "README.md").read_text()
    assert "tokens are open" in card and card.count("\n| prompt | detail |") == 1
    assert "num_crops: 20" in (after / "recipe.yaml").read_text()
    with pytest.raises(ValueError, match="holds another run"):
        main(parse_args(flags.split()))
    again = parse_args([*flags.split(), "--recipe", str(after / "recipe.yaml")])
    assert (again.num_crops, again.num_prompts, again.dtype) == (20, 100, "fp32")
    with pytest.raises(ValueError, match="--resolution 36 36 must be a multiple of 8"):
        main(parse_args([*flags.replace(str(after), str(tmp_path / "new")).split(), "--resolution", "36"]))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--output_dir x", "--train_data_dir, --pretrained_model_name_or_path must be given"),
        ("--train_data_dir x --pretrained_model_name_or_path y --output_dir z --num_crops 0", "--num_crops 0 must be"),
        ("--train_data_dir x --pretrained_model_name_or_path y --output_dir z --learning_rate 0", "must be positive"),
        ("--train_data_dir x --pretrained_model_name_or_path y --output_dir z --resolution 16", "--resolution 16 must"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(flags: str, said: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_args(flags.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count("\n") == 1
