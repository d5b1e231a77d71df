"""The folder of a run: what it may hold before, and the model at its end."""

import json
from types import SimpleNamespace
from typing import ClassVar

import pytest
import yaml
from huggingface_hub.utils import filter_repo_objects

from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.card import model_card
from resdiff.train.output import changed_settings, check_output, publish, write_model
from resdiff.train.progress import Progress

SETTINGS = {"unet": {"channels": [8]}, "learning_rate": 1e-3, "max_train_steps": 10, "resume_from_checkpoint": None}


def checkpoint(folder, step: int = 5, **changes):
    """Write what the checks look at."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "progress.json").write_text("{}")
    (path / "run.yaml").write_text(settings(**changes))
    return path


def settings(**changes) -> str:
    return yaml.safe_dump(SETTINGS | changes)


def pipeline(width: int = 8) -> ResShiftPipeline:
    unet = PixelUNet(channels=(width,), num_blocks=(1,))
    return ResShiftPipeline(unet, None, ResShiftScheduler(num_train_timesteps=4), padding_multiple=1, upsampling="pil")


def test_an_empty_or_new_folder_is_fine(tmp_path) -> None:
    assert check_output(tmp_path, None, settings()) is None
    assert check_output(tmp_path / "new", None, settings()) is None
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("left", ["checkpoint", "model"])
def test_the_folder_of_another_run_is_refused(tmp_path, left) -> None:
    if left == "checkpoint":
        checkpoint(tmp_path)
    else:
        (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"holds another run: add --resume_from_checkpoint latest .* choose another folder"
    ):
        check_output(tmp_path, None, settings())


def test_a_file_in_place_of_the_folder_is_refused(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--output_dir .*file is a file; choose a folder"):
        check_output(tmp_path / "file", None, settings())


def test_latest_without_a_checkpoint_starts_from_the_beginning(tmp_path, caplog) -> None:
    with caplog.at_level("INFO", logger="resdiff"):
        assert check_output(tmp_path, "latest", settings()) is None
    assert "holds no checkpoint yet" in caplog.text


def test_a_checkpoint_of_another_model_is_refused(tmp_path) -> None:
    checkpoint(tmp_path)
    with pytest.raises(ValueError, match="checkpoint-5 is a checkpoint of another model: its scheduler, unet differ"):
        check_output(tmp_path, "latest", settings(unet={"channels": [16]}, scheduler={"kappa": 1.0}))


def test_changed_settings_are_told_except_those_that_are_meant_to_change(tmp_path, caplog) -> None:
    path = checkpoint(tmp_path)
    now = settings(max_train_steps=20, resume_from_checkpoint="latest")
    assert check_output(tmp_path, "latest", now) == path and not caplog.records
    now = settings(learning_rate=5e-4, seed=3)
    assert check_output(tmp_path, "latest", now) == path
    assert caplog.messages == ["changed since checkpoint-5 was written: learning_rate, seed"]
    assert changed_settings("a: 1\nb: 2", "b: 3\nc: 4") == {"a", "b", "c"}


@pytest.mark.parametrize("damage", ["gone", "", "- a\n", "a: b: c\n", "\x00"])
def test_a_checkpoint_without_readable_settings_is_one_line(tmp_path, damage) -> None:
    path = checkpoint(tmp_path)
    (path / "run.yaml").unlink()
    if damage != "gone":
        (path / "run.yaml").write_text(damage)
    with pytest.raises(ValueError, match=r"checkpoint-5 .*run.yaml") as caught:
        check_output(tmp_path, "latest", settings())
    assert "\n" not in str(caught.value)


def test_going_back_behind_a_newer_checkpoint_is_refused(tmp_path) -> None:
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10)
    with pytest.raises(ValueError, match="checkpoint-10 is newer than checkpoint-5; remove it, or choose another"):
        check_output(tmp_path, "checkpoint-5", settings())
    assert check_output(tmp_path, "checkpoint-10", settings()).name == "checkpoint-10"
    assert check_output(tmp_path / "other", str(tmp_path / "checkpoint-5"), settings()).name == "checkpoint-5"


def test_a_model_is_written_with_its_recipe_and_card(tmp_path) -> None:
    write_model(pipeline(), tmp_path, "a: 1\n", "# card\n")
    assert {path.name for path in tmp_path.iterdir()} == {
        "model_index.json", "unet", "scheduler", "recipe.yaml", "README.md",
    }  # fmt: skip
    assert (tmp_path / "recipe.yaml").read_text() == "a: 1\n" and (tmp_path / "README.md").read_text() == "# card\n"
    assert SRPipeline.from_pretrained(tmp_path).unet.config.channels == [8]


def test_a_failure_while_writing_leaves_the_previous_model(tmp_path) -> None:
    write_model(pipeline(8), tmp_path, "a: 1\n", "# card\n")
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    second = pipeline(16)

    def fail(*args: object, **options: object) -> None:
        raise OSError("No space left on device")

    second.scheduler.save_pretrained = fail
    with pytest.raises(OSError, match="No space left"):
        write_model(second, tmp_path, "a: 2\n", "# other card\n")
    assert before == {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_model_replaces_an_older_one(tmp_path) -> None:
    write_model(pipeline(8), tmp_path, "a: 1\n", "")
    write_model(pipeline(16), tmp_path, "a: 2\n", "")
    assert SRPipeline.from_pretrained(tmp_path).unet.config.channels == [16]
    assert (tmp_path / "recipe.yaml").read_text() == "a: 2\n"


def test_the_card_has_the_figures_of_the_last_validation(tmp_path) -> None:
    lines = [
        {"step": 1, "minutes": 0.1, "psnr_y_1_step": 20.0},
        {"step": 2, "minutes": 0.2, "psnr_y_1_step": 31.415926, "ssim_y_1_step": 0.9},
        {"step": 3, "minutes": 0.3, "loss": 0.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    card = model_card(tmp_path, Progress(step=3, samples=48, seconds=120), photos=7)
    assert "3 steps (2 minutes, 48 samples) on 7 photos" in card and tmp_path.name in card
    assert "Validation after 2 steps:" in card
    assert "| psnr_y_1_step | 31.42 |" in card and "| ssim_y_1_step | 0.9 |" in card and "| loss" not in card
    (tmp_path / "metrics.jsonl").write_text("")
    assert "It was not validated." in model_card(tmp_path, Progress(), photos=7)
    assert "## Words" not in card
    assert "\n\n## Words\n" in model_card(tmp_path, Progress(), 7, PromptEncoder())


class Hub:
    """Stands for huggingface_hub.HfApi: remembers what it was asked for."""

    asked: ClassVar[dict] = {}

    def create_repo(self, repo_id: str, exist_ok: bool):
        self.asked["created"] = repo_id
        return SimpleNamespace(repo_id=f"me/{repo_id}")

    def upload_folder(self, **options) -> None:
        self.asked["uploaded"] = options


def test_publishing_uploads_the_folder_with_recipe_and_card_but_not_the_run(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    publish(tmp_path, "model")
    uploaded = Hub.asked["uploaded"]
    assert Hub.asked["created"] == "model" and uploaded["repo_id"] == "me/model"
    assert uploaded["folder_path"] == tmp_path
    kept = ["model_index.json", "recipe.yaml", "README.md", "unet/config.json"]
    left = ["checkpoint-3/model.safetensors", "run.yaml", "metrics.jsonl", "logs/resshift/events.1", "bad-batch-1-0.x"]
    assert list(filter_repo_objects(kept + left, ignore_patterns=uploaded["ignore_patterns"])) == kept


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch, caplog) -> None:
    def unreachable(self, repo_id: str, exist_ok: bool) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", unreachable)
    publish(tmp_path, "model")
    assert caplog.messages == [f"not published: no route; the model is in {tmp_path}"]
