"""The adversarial stage as a script, on tiny networks and photos."""

from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines import SRPipeline
from resdiff.runs.launcher import RunAborted
from resdiff.train.adversarial import Arguments, main, parse_args

from .conftest import TINY, reset_accelerate

UNET = TINY["unet"] | {"prompt_dim": 4}


@pytest.fixture
def trained(train) -> Path:
    """A model to go on from, which takes prompts and has an encoder that knows a word."""
    folder = train("--max_train_steps", "2", name="model", unet=UNET)
    torch.manual_seed(0)
    encoder = PromptEncoder()
    torch.nn.init.normal_(encoder.table.weight[300:400])
    pipe = SRPipeline.from_pretrained(folder)
    pipe.register_modules(text_encoder=encoder)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def adversarial(tmp_path, photos, write_recipe, trained):
    """Run the script on the tiny model in this process; return the output folder."""

    def run(*flags: str, name: str = "gan") -> Path:
        reset_accelerate()
        recipe = {key: value for key, value in TINY.items() if key != "loss"} | {"unet": UNET}
        path = tmp_path / "adversarial.yaml"
        path.write_text(yaml.safe_dump(recipe))
        always = ["--recipe", str(path), "--pretrained_model_name_or_path", str(trained)]
        always += ["--train_data_dir", str(photos), "--output_dir", str(tmp_path / name)]
        main(parse_args([*always, *flags]))
        return tmp_path / name

    return run


def parameters(folder: Path) -> dict[str, torch.Tensor]:
    return dict(SRPipeline.from_pretrained(folder).unet.named_parameters())


def test_only_the_denoiser_learns_and_the_mean_stays(adversarial, trained) -> None:
    folder = adversarial("--max_train_steps", "12", "--discriminator_warmup_steps", "2", "--ema_decay", "0.5")
    before, after = parameters(trained), parameters(folder)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith(("denoiser.", "time_embed.")) for name in changed)
    assert any("film.prompt" in name for name in changed)
    pipes = [SRPipeline.from_pretrained(path) for path in (trained, folder)]
    assert pipes[1].takes_prompt
    lq = torch.rand(1, 3, 8, 8)
    assert torch.equal(*(pipe.unet(None, None, lq) for pipe in pipes))


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(adversarial) -> None:
    flags = ("--discriminator_warmup_steps", "2", "--lr_scheduler", "constant", "--lr_min", "0")
    whole = adversarial("--max_train_steps", "8", *flags, name="whole")
    adversarial("--max_train_steps", "5", *flags, name="parts")
    parts = adversarial("--max_train_steps", "8", "--resume_from_checkpoint", "latest", *flags, name="parts")
    expected, found = parameters(whole), parameters(parts)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0)


def test_while_it_warms_up_the_discriminator_alone_learns(adversarial, trained, metrics) -> None:
    folder = adversarial("--max_train_steps", "6", "--discriminator_warmup_steps", "6", "--logging_steps", "1")
    before, after = parameters(trained), parameters(folder)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert metrics(folder, "discriminator") and not metrics(folder, "l1")


def test_a_bad_loss_is_saved_with_what_led_to_it(adversarial, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("resdiff.train.adversarial_loss.hinge_generator", lambda logits: logits.mean() * float("nan"))
    with pytest.raises(RunAborted, match="the loss is nan"):
        adversarial("--max_train_steps", "8", "--discriminator_warmup_steps", "0", "--on_bad_loss", "abort")
    (saved,) = (tmp_path / "gan").glob("bad-batch-*")
    assert {"0.hr", "0.lr"} <= load_file(saved).keys()


def test_the_encoder_is_written_like_the_network_and_the_card_lists_its_words(adversarial) -> None:
    folder = adversarial("--max_train_steps", "1", "--dtype", "fp16")
    for part in ("unet", "text_encoder"):
        weights = load_file(folder / part / "diffusion_pytorch_model.safetensors")
        assert {weight.dtype for weight in weights.values()} == {torch.float16}, part
    assert "100 of the 49408 tokens are open" in (folder / "README.md").read_text()


def test_a_model_to_go_on_from_is_asked_for(tmp_path) -> None:
    with pytest.raises(ValueError, match="pretrained_model_name_or_path must be given"):
        Arguments(train_data_dir=tmp_path, output_dir=tmp_path / "out", max_train_steps=1)
