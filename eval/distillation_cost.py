"""What a step of distilling takes, measured beside plain training, for `eval/bench_training.py`.

It runs what train/distill_resshift.py itself assembles, with a random teacher of fifteen steps, against what
train/resshift.py makes of the same network, batch and crops.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from resdiff.eval.training_cost import (
    SMALL_TEACHER,
    TINY,
    V1,
    Case,
    Settings,
    Training,
    command,
    in_one_batch,
    make_files,
    timed,
    training_arguments,
)
from resdiff.metrics.trunks import VGG, Features
from resdiff.train import resshift
from resdiff.train.distill_resshift import Arguments, assemble, parse_args
from resdiff.train.recipe import build_pipeline

SMALL_RECIPES = ("sinsr_small", "rsd_small", "add_small")  # in train/recipes/distill
FULL_RECIPES = ("sinsr_realsr", "rsd_realsr", "add_realsr")
SMALL_STEPS = 4  # steps of a small recipe for one of a full-size one


@dataclass(frozen=True, kw_only=True)
class Distilling:
    """A recipe, and plain training of the same network on the same batch, in turns."""

    recipe: str
    distilling: Training
    training: Training

    @property
    def ratio(self) -> float:
        """Steps of training in the time of one of distilling."""
        return self.distilling.step_seconds / self.training.step_seconds


def teacher_of(recipe: str) -> str:
    """Return the recipe of the teacher of a distillation."""
    return V1 if recipe in FULL_RECIPES else SMALL_TEACHER


def distillation_arguments(recipe: str, settings: Settings, folder: Path) -> Arguments:
    """Return the script's settings; what they name lies in `folder`. All players learn from the first step on."""
    flags = command(Case(recipe=f"distill/{recipe}"), settings, folder)
    args = parse_args([*flags, "--teacher", str(folder / "teacher")])
    args = replace(in_one_batch(args, args.train_batch_size), fake_warmup_steps=0, critic_warmup_steps=0)
    args = replace(args, lpips_weights=folder / "vgg16.pth" if args.lpips_weight else None)
    return replace(args, resolution=TINY[teacher_of(recipe)]["resolution"]) if settings.smoke else args


def alike(args: Arguments, recipe: str, settings: Settings, folder: Path) -> resshift.Arguments:
    """Return train/resshift.py's settings for the teacher's network, on the batches of a distillation."""
    training = training_arguments(Case(recipe=teacher_of(recipe)), settings, folder)
    return replace(
        training,
        train_batch_size=args.train_batch_size,
        pair_pool=args.pair_pool,
        resolution=args.resolution,
        degradation=args.degradation,
        trained_part=args.trained_part,
    )


def measure_distilling(recipe: str, settings: Settings) -> Training:
    """Distil for a few steps; for a process of its own."""
    with prepared(recipe, settings) as (args, training):
        make_teacher(training, Path(args.teacher))
        if args.lpips_weights is not None:
            torch.save(vgg_layers("cpu").state_dict(), args.lpips_weights)
        case = Case(recipe=f"distill/{recipe}")
        return timed(case, lambda: assemble(args), steps_of(recipe, settings), settings.warmup)


def measure_alike(recipe: str, settings: Settings) -> Training:
    """Train the same network on the same batch; for a process of its own."""
    with prepared(recipe, settings) as (_, args):
        case = Case(recipe=teacher_of(recipe))
        return timed(case, lambda: resshift.assemble(args), steps_of(recipe, settings), settings.warmup)


def steps_of(recipe: str, settings: Settings) -> int:
    """Return how many steps of a recipe count."""
    return settings.steps * (SMALL_STEPS if recipe in SMALL_RECIPES else 1)


@contextmanager
def prepared(recipe: str, settings: Settings) -> Iterator[tuple[Arguments, resshift.Arguments]]:
    """Make the files of a measurement; give the settings of both scripts."""
    with tempfile.TemporaryDirectory() as name:
        args = distillation_arguments(recipe, settings, Path(name))
        training = alike(args, recipe, settings, Path(name))
        make_files(training, settings)
        yield args, training


def make_teacher(args: resshift.Arguments, folder: Path) -> None:
    """Write a teacher with random weights; those that start at zero too, or all its steps would lead to one place."""
    pipe = build_pipeline(args, seed=0)
    for parameter in pipe.unet.parameters():
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    pipe.save_pretrained(folder)


def vgg_layers(device: str) -> Features:
    """Return the layers that LPIPS looks through, with random weights."""
    with torch.device("meta"):  # the classifier, most of its weights, is not wanted
        layers = Features(*VGG.build(weights=None).features[: VGG.taps[-1] + 1])
    if device != "meta":
        layers.to_empty(device=device)
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
    return layers.eval().requires_grad_(False)
