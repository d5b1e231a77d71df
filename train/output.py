"""What a run leaves behind: the checks of its folder before it starts, and the model folder at its end."""

import logging
import os
import shutil
from pathlib import Path

import yaml
from diffusers import DiffusionPipeline

from resdiff.train.checkpoints import SETTINGS, all_checkpoints, find_checkpoint

logger = logging.getLogger(__name__)

MODEL_SECTIONS = {"unet", "scheduler", "vae", "pipeline"} | {"method", "teacher_weights", "num_inference_steps"}
MAY_CHANGE = {"max_train_steps", "max_train_minutes", "num_train_epochs", "resume_from_checkpoint"}
RECIPE = "recipe.yaml"
UNFINISHED = "unfinished-model"
OF_THE_RUN = ("checkpoint-*", "partial-*", "bad-batch-*", "logs/*", SETTINGS, "metrics.jsonl")


def check_output(output_dir: Path, resume_from_checkpoint: str | None, settings: str) -> Path | None:
    """Return the checkpoint to resume from, if any.

    Raises ValueError in one line when the folder cannot be made or holds another run, or the checkpoint is one of another
    model.
    """
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise ValueError(f"--output_dir {output_dir}: {existing} is a file; choose a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"--output_dir {output_dir}: {existing} is not writable; choose another folder")
    if resume_from_checkpoint is None:
        if all_checkpoints(output_dir) or (output_dir / "model_index.json").exists():
            raise ValueError(
                f"--output_dir {output_dir} holds another run: add --resume_from_checkpoint latest to go on with it, or "
                "choose another folder"
            )
        return None
    folder = find_checkpoint(output_dir, resume_from_checkpoint)
    if folder is None:
        if (output_dir / "model_index.json").exists():
            raise ValueError(
                f"--output_dir {output_dir} holds a model without a checkpoint: choose another folder, and pass "
                f"--pretrained_model_name_or_path {output_dir} to go on from its weights"
            )
        logger.info("%s holds no checkpoint yet: starting from the beginning", output_dir)
        return None
    newest = all_checkpoints(output_dir)[-1:]
    if newest and folder.parent.samefile(output_dir) and not folder.samefile(newest[0]):
        raise ValueError(
            f"{newest[0]} is newer than {folder.name}; remove it, or choose another folder: latest would mix two runs"
        )
    changed = changed_settings(read_settings(folder), settings)
    if model := sorted(changed & MODEL_SECTIONS):
        raise ValueError(f"{folder} is a checkpoint of another model: its {', '.join(model)} differ from this recipe's")
    if others := sorted(changed - MAY_CHANGE):
        logger.warning("changed since %s was written: %s", folder.name, ", ".join(others))
    return folder


def read_settings(checkpoint: Path) -> str:
    """Return the settings kept in a checkpoint. Raises ValueError in one line when they cannot be read."""
    path = checkpoint / SETTINGS
    try:
        text = path.read_text(encoding="utf-8")
        if isinstance(yaml.safe_load(text), dict):
            return text
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        pass
    raise ValueError(f"{checkpoint} is damaged, or no checkpoint of this script: {path} is no mapping of settings")


def changed_settings(before: str, now: str) -> set[str]:
    """Return the names of the settings in which two YAML texts differ."""
    old, new = yaml.safe_load(before), yaml.safe_load(now)
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def publish(output_dir: Path, repo_id: str) -> None:
    """Upload the model folder as it is, recipe and card included, without what belongs to the run alone.

    A model that took a month is not lost to a broken network: whatever goes wrong is logged in one line.
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        repo = api.create_repo(repo_id, exist_ok=True).repo_id
        api.upload_folder(repo_id=repo, folder_path=output_dir, ignore_patterns=list(OF_THE_RUN))
    except Exception as error:  # the hub's library passes on those of several others
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        logger.error("not published: %s; the model is in %s", reason, output_dir)


def write_model(pipe: DiffusionPipeline, output_dir: Path, recipe: str, card: str) -> None:
    """Write the pipeline, its recipe and its card into `output_dir`: whole, or nothing of it."""
    new = output_dir / UNFINISHED
    shutil.rmtree(new, ignore_errors=True)
    try:
        pipe.save_pretrained(new)
        (new / RECIPE).write_text(recipe, encoding="utf-8")
        (new / "README.md").write_text(card, encoding="utf-8")
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    # `model_index.json` comes last: a folder that has one is complete
    for path in sorted(new.iterdir(), key=lambda p: p.name == "model_index.json"):
        target = output_dir / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    new.rmdir()
