"""The teacher of a distillation: opened and checked; it says what the student is, and the card says where it came from."""

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from resdiff.fingerprint import fingerprint, settings_of
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.arguments import option
from resdiff.train.output import RECIPE
from resdiff.train.recipe import listed

logger = logging.getLogger(__name__)

OF_THE_STUDENT = {"respacing", "deterministic"}  # what its scheduler has of its own
OF_THE_PIPELINE = ("scale", "padding_multiple", "upsampling", "tile_size")
CARD = """## Distilled

By {method} from `{teacher}` (weights {weights}): {before} steps became {after}.
"""


@dataclass(frozen=True, kw_only=True)
class TeacherArguments:
    """Whom the student learns from."""

    teacher: str = option(help="ResShift model, as SRPipeline opens it; the student starts as its copy")
    teacher_weights: str | None = option(None, "fingerprint the teacher must have [written down by the run]")
    num_inference_steps: int = option(1, "steps of the student: 1, 2 or 4, fewer than the teacher's")


@dataclass(frozen=True)
class Teacher:
    """An opened teacher."""

    name: str
    pipe: ResShiftPipeline  # float32
    weights: str  # fingerprint of its network

    def sections(self) -> dict[str, dict[str, Any] | None]:
        """Return the sections of a recipe that its student has in common with it."""
        pipe = self.pipe
        scheduler, pipeline = settings_of(pipe.scheduler), settings_of(pipe)
        return {
            "unet": {"_class_name": type(pipe.unet).__name__} | settings_of(pipe.unet),
            "scheduler": {key: value for key, value in scheduler.items() if key not in OF_THE_STUDENT},
            "vae": None if pipe.vae is None else settings_of(pipe.vae),
            "pipeline": {key: pipeline[key] for key in OF_THE_PIPELINE},
        }

    def card(self, method: str, steps: int) -> str:
        """Return the part of the student's card about its origin; `method` with its paper."""
        name = Path(self.name).resolve().name if Path(self.name).exists() else self.name  # not where it lies here
        return CARD.format(
            method=method, teacher=name, weights=self.weights[:12], before=len(self.pipe.scheduler), after=steps
        )


def open_teacher(args: TeacherArguments, given: Mapping[str, Mapping[str, Any] | None]) -> Teacher:
    """Open the teacher; `given` are the recipe's own sections (unet, scheduler, vae, pipeline).

    Raises ValueError in one line for what is no residual-shifting model, takes masks, or is not what the recipe names.
    """
    pipe = SRPipeline.from_pretrained(args.teacher, dtype=torch.float32)
    if not isinstance(pipe, ResShiftPipeline):
        raise ValueError(f"--teacher {args.teacher} is no residual-shifting model")
    if pipe.takes_mask:
        raise ValueError(f"--teacher {args.teacher} fills in masks, which no photo here has; pass one that takes none")
    teacher = Teacher(args.teacher, pipe, fingerprint(pipe.unet))
    if args.teacher_weights not in (None, teacher.weights):
        raise ValueError(
            f"--teacher {args.teacher} has other weights than --teacher_weights or the recipe names; "
            "pass that one, or change them"
        )
    for name, section in teacher.sections().items():
        for key, wanted in (given[name] or {}).items():
            found = None if section is None else section.get(key)
            if listed(found) != listed(wanted):
                raise ValueError(
                    f"--teacher {args.teacher} has {name}.{key} {found}, the recipe {wanted}; leave out its {name}"
                )
    return teacher


def check_steps(steps: int, timesteps: int) -> None:
    """Raise ValueError unless a teacher of so many `timesteps` has fewer `steps` to give."""
    if timesteps == 1:
        raise ValueError("the teacher has a single step; there is nothing to distil")
    if not 1 <= steps < timesteps:
        raise ValueError(
            f"--num_inference_steps {steps} are no steps of the teacher's schedule of {timesteps}; "
            f"choose 1 to {timesteps - 1}"
        )


def become_student(pipe: ResShiftPipeline, steps: int, **scheduler: Any) -> None:
    """Give a copy of the teacher the student's schedule: `steps` from the last one down, and options of its own.

    The reference's way of leaving steps out begins below the last one, and uses t = 0.
    """
    options = {"respacing": "trailing"} | scheduler
    pipe.register_modules(scheduler=ResShiftScheduler.from_config(pipe.scheduler.config, **options))
    pipe.register_to_config(num_inference_steps=steps)
    pipe.scheduler.set_timesteps(steps)


def warn_unless_mean(teacher: str) -> None:
    """Warn of a teacher that is no conditional mean, by the recipe in its folder, if there is one."""
    recipe: Any = None
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        recipe = yaml.safe_load((Path(teacher) / RECIPE).read_text(encoding="utf-8"))
    if not isinstance(recipe, dict):
        return
    how = (
        "by distillation" if "teacher_weights" in recipe else "adversarially" if "adversarial_weight" in recipe else ""
    )
    how = how or ("by L1" if recipe.get("loss") == "l1" else "with LPIPS" if recipe.get("lpips_weight") else "")
    if how:
        logger.warning(
            "%s was trained %s: rsd takes its predictions for conditional means, which --loss mse alone gives",
            teacher,
            how,
        )
