"""Distil a residual-shifting model to one, two or four steps.

    accelerate launch train/distill_resshift.py --method sinsr --teacher runs/x4 --train_data_dir photos \\
        --output_dir runs/x4-one-step --max_train_minutes 30
    accelerate launch train/distill_resshift.py --recipe train/recipes/distill/rsd_small.yaml --teacher runs/x4 \\
        --train_data_dir photos --output_dir runs/x4-few-steps
    python train/distill_resshift.py ... --resume_from_checkpoint latest

The student starts as a copy of the teacher and takes `--num_inference_steps` of its schedule. Three methods:
sinsr (2311.14760; train/distill_sinsr.py): one deterministic step ends where the teacher's whole chain does.
rsd (2503.13358; train/distill_rsd.py): a student on whose images a residual-shifting model would become the teacher.
add (2311.17042, 2404.01717; train/distill_add.py): what the teacher makes of the student's images, and a critic.
`output_dir` ends up as a folder that `SRPipeline.from_pretrained` opens, with the averaged weights.
"""

import copy
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import nn

from resdiff.data.training_set import Batch
from resdiff.metrics.trunks import VGG
from resdiff.metrics.weights import find_weights
from resdiff.runs.launcher import run_script
from resdiff.train.arguments import option, parse, to_yaml
from resdiff.train.card import figures_table
from resdiff.train.critic import Critic, DinoView, EncoderFeatures, build_heads, open_features
from resdiff.train.distill_add import AddArguments, AddLosses, AddStep
from resdiff.train.distill_rsd import RsdArguments, RsdLosses, RsdStep
from resdiff.train.distill_sinsr import SinsrArguments, SinsrLoss
from resdiff.train.ema import Ema
from resdiff.train.progress import Progress
from resdiff.train.session import (
    INTERRUPTED,
    Session,
    SessionArguments,
    freeze_all_but,
    freeze_words,
    open_session,
    prepare_trained,
)
from resdiff.train.settings import OF_THIS_MACHINE
from resdiff.train.teacher import (
    Teacher,
    TeacherArguments,
    become_student,
    check_steps,
    open_teacher,
    warn_unless_mean,
)
from resdiff.train.update import Update, build_optimizer
from resdiff.train.validation import validate

Step = Callable[[Sequence[Batch], Progress], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Arguments(SessionArguments, TeacherArguments, SinsrArguments, RsdArguments, AddArguments):
    """Settings of this script, checked before anything is built; `--help` lists them."""

    method: Literal["sinsr", "rsd", "add"] = option(help="sinsr, rsd or add")
    unet: dict[str, Any] = option({}, "the teacher's; so are scheduler, vae and pipeline")
    loss_in_image_space: bool = option(False, "sinsr, add: measure through the decoder")
    trained_part: Literal["all", "denoiser"] = option("all", "of a PixelUNet: the denoiser leaves the predictor alone")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_sinsr()
        self.check_critic()
        self.check_rsd()
        self.check_add()

    def check_schedule(self, timesteps: int) -> None:
        """The student's steps must be some of the teacher's; and the files that the loss needs must be there."""
        check_steps(self.num_inference_steps, timesteps)
        if self.lpips_weight:
            find_weights(VGG.weights, self.lpips_weights)
        if self.method == "add":
            self.find_critic()

    def accumulation(self, num_processes: int) -> int:
        """Micro-batches of a step: each update of rsd's fake network has its own."""
        return super().accumulation(num_processes) * (self.fake_updates if self.method == "rsd" else 1)

    def recipe(self) -> str:
        """Leave out where the teacher lies as well; its weights say which it was."""
        return to_yaml(self, without=OF_THIS_MACHINE | {"teacher"})

    def of(self, teacher: Teacher) -> "Arguments":
        """Return the settings with the teacher's sections; the student starts from it unless they say otherwise."""
        start = self.pretrained_model_name_or_path or self.teacher
        changed: dict[str, Any] = {"teacher_weights": teacher.weights, "pretrained_model_name_or_path": start}
        return replace(self, **teacher.sections(), **changed)


def parse_args(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line and the recipe, if one is given."""
    return parse(Arguments, __doc__, arguments)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that trains, put together but not started."""

    session: Session
    ema: Ema
    advance: Step  # on prepared batches
    about: str  # section of the student's card

    def step(self, micro_batches: Sequence[Batch], progress: Progress) -> dict[str, float]:
        """Do one step; what `fit` calls."""
        return self.advance([self.session.prepare(batch) for batch in micro_batches], progress)


def optimized(
    session: Session, args: Arguments, network: nn.Module, learning_rate: float | None = None
) -> tuple[nn.Module, Update]:
    """Return a network as accelerate prepares it, and the update of what of it is trained.

    learning_rate: its peak, None: the student's.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    model, optimizer = session.accelerator.prepare(network, build_optimizer(trained, args, session.device))
    update: Update = Update(
        accelerator=session.accelerator,
        model=model,
        optimizer=optimizer,
        learning_rate=replace(args.rate, peak=learning_rate or args.learning_rate),
        limits=session.limits,
        max_grad_norm=args.max_grad_norm,
        game=args.method != "sinsr",
    )
    return model, update


def optimized_unet(
    session: Session, args: Arguments, unet: nn.Module, learning_rate: float | None = None
) -> tuple[nn.Module, Update[Batch]]:
    """Return a denoising network, the part of it that is trained and without words, as `optimized` does."""
    if args.trained_part != "all":
        freeze_all_but(unet, args.trained_part)
    freeze_words(unet)
    return optimized(session, args, unet, learning_rate)


def build_critic(session: Session, args: Arguments, features: EncoderFeatures | DinoView) -> tuple[Critic, Update]:
    """Return a critic with new heads, and their update."""
    heads = build_heads(features).to(session.device)
    prepared, update = optimized(session, args, heads, args.critic_learning_rate)
    return Critic(features, heads, prepared, args.seed, args.r1_weight), update


def sinsr_step(session: Session, args: Arguments, teacher: nn.Module) -> Step:
    """Return what a step of SinSR does; the student samples as the chains that it learns from."""
    become_student(session.pipe, args.num_inference_steps, deterministic=True)
    unet, update = optimized_unet(session, args, session.pipe.unet)
    return partial(update, SinsrLoss(args, session.pipe, unet, teacher, args.seed, args.loss_in_image_space))


def rsd_step(session: Session, args: Arguments, teacher: nn.Module) -> Step:
    """Return what a step of residual shifting distillation does."""
    warn_unless_mean(args.teacher)
    become_student(session.pipe, args.num_inference_steps)
    fake = copy.deepcopy(teacher)
    prepare_trained(fake, args)
    unet, update_student = optimized_unet(session, args, session.pipe.unet)
    prepared_fake, update_fake = optimized_unet(session, args, fake, args.fake_learning_rate)
    critic, update_critic = None, None
    if args.adversarial_weight:
        every = range(len(session.pipe.scheduler))
        critic, update_critic = build_critic(
            session, args, EncoderFeatures(fake, session.pipe.scheduler, every, first=-1)
        )
    losses = RsdLosses(args, session.pipe, unet, teacher, fake, prepared_fake, args.seed, session.device, critic)
    return RsdStep(losses=losses, update_fake=update_fake, update_student=update_student, update_critic=update_critic)


def add_step(session: Session, args: Arguments, teacher: nn.Module) -> Step:
    """Return what a step of adversarial diffusion distillation does; the student refines its own condition."""
    pipe = session.pipe
    become_student(pipe, args.num_inference_steps)
    pipe.register_to_config(psr_weight=args.psr_weight)
    unet, update_student = optimized_unet(session, args, pipe.unet)
    critic, update_critic = build_critic(session, args, open_features(args, teacher, pipe))
    losses = AddLosses(args, pipe, unet, teacher, critic, args.seed, args.loss_in_image_space)
    return AddStep(losses=losses, update_student=update_student, update_critic=update_critic)


@dataclass(frozen=True)
class Method:
    """A way to distil."""

    paper: str
    step: Callable[[Session, Arguments, nn.Module], Step]  # of the student, whose teacher's network is given


METHODS = {
    "sinsr": Method("SinSR (arXiv 2311.14760)", sinsr_step),
    "rsd": Method("residual shifting distillation (arXiv 2503.13358)", rsd_step),
    "add": Method("adversarial diffusion distillation (arXiv 2311.17042, 2404.01717)", add_step),
}


def place_teacher(teacher: Teacher, session: Session, args: Arguments) -> nn.Module:
    """Bring the teacher's network to the device, to be looked at only; it shares the session's autoencoder."""
    teacher.pipe.register_modules(vae=session.pipe.vae)
    teacher.pipe.set_progress_bar_config(disable=True)
    unet = teacher.pipe.unet.to(session.device).requires_grad_(False).eval()
    if args.compile:
        unet.compile_repeated_blocks()
    return unet


def describe(teacher: Teacher, session: Session, args: Arguments) -> str:
    """Return the section of the student's card about its origin, with the teacher's figures if there are photos."""
    about = teacher.card(METHODS[args.method].paper, args.num_inference_steps)
    if session.held_out and session.accelerator.is_main_process:
        pipe = teacher.pipe
        figures = validate(pipe, session.held_out, args.scale, [pipe.default_steps], session.accelerator, 0)
        about += f"\nThe teacher's validation on the same photos:\n\n{figures_table(figures)}\n"
    return about


def assemble(args: Arguments) -> Run:
    """Check everything that can be wrong and build the run.

    Raises ValueError in one line.
    """
    given = {"unet": args.unet, "scheduler": args.scheduler, "vae": args.vae, "pipeline": args.pipeline}
    teacher = open_teacher(args, given)
    args = args.of(teacher)
    session = open_session(args)
    network = place_teacher(teacher, session, args)
    return Run(
        session=session,
        advance=METHODS[args.method].step(session, args, network),
        ema=Ema(session.pipe.unet.parameters(), args.ema_decay, args.ema_warmup),
        about=describe(teacher, session, args),
    )


def main(args: Arguments) -> None:
    """Distil and write the pipeline folder.

    Raises ValueError in one line for whatever is wrong before the first step, RunAborted when bad losses end the run.
    """
    run = assemble(args)
    run.session.train(run.step, run.ema, run.about)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run_script(lambda: main(parse_args()), INTERRUPTED))
