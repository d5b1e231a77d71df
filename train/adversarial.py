"""Teach a trained pixel model detail and words: an adversarial stage on its own chain.

    accelerate launch train/adversarial.py --pretrained_model_name_or_path runs/x4 --train_data_dir photos \\
        --output_dir runs/x4-gan --max_train_minutes 60
    python train/adversarial.py ... --resume_from_checkpoint latest

Only the denoiser learns; the predictor, and with it the mean, stays as it is. Each step runs the chain without a gradient
down to a random t, and pulls the prediction there towards the photo (L1), towards what a discriminator takes for real,
and towards the photo's measured attributes. Half of the photos come with a prompt that says something true about them,
if the model has a text encoder (`train/prompts.py`). The last step, one-step sampling, stays the mean: no discriminator
there. `output_dir` ends up as a folder that `SRPipeline.from_pretrained` opens, with the averaged weights.
"""

import logging
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from resdiff.data.training_set import Batch
from resdiff.models.discriminator import PatchDiscriminator
from resdiff.runs.launcher import run_script
from resdiff.train.adversarial_loss import (
    AdversarialArguments,
    Chain,
    GeneratorLoss,
    Made,
    discriminator_loss,
    draw_step,
)
from resdiff.train.arguments import parse
from resdiff.train.ema import Ema
from resdiff.train.progress import Progress
from resdiff.train.prompting import Prompting, PromptingArguments
from resdiff.train.session import INTERRUPTED, Session, SessionArguments, freeze_all_but, freeze_words, open_session
from resdiff.train.update import Update, build_optimizer

logger = logging.getLogger("resdiff.train.adversarial")  # also as a script: `start` lets the main process alone speak

DEFAULT_RECIPE = Path(__file__).resolve().parent / "recipes" / "resdiff_small_adversarial.yaml"


@dataclass(frozen=True, kw_only=True)
class Arguments(SessionArguments, AdversarialArguments, PromptingArguments):
    """Settings of this script, checked before anything is built; `--help` lists them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_loss()
        self.check_prompts()
        if self.pretrained_model_name_or_path is None:
            raise ValueError("--pretrained_model_name_or_path must be given: this stage goes on from a trained model")


def parse_args(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line and the recipe."""
    return parse(Arguments, __doc__, arguments, DEFAULT_RECIPE)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that trains, put together but not started."""

    session: Session
    ema: Ema
    chain: Chain
    loss: GeneratorLoss
    update: Update[Batch]
    discriminator: torch.nn.Module  # as prepared
    discriminator_optimizer: torch.optim.Optimizer

    def step(self, micro_batches: Sequence[Batch], progress: Progress) -> dict[str, float]:
        """Do one step of both players; what `fit` calls. While the discriminator warms up it alone learns."""
        session, args = self.session, self.loss.args
        t = draw_step(self.chain.seed, progress.step, len(session.pipe.scheduler), args.last_step_share)
        made: list[Made] = []

        def loss(batch: Batch) -> dict[str, Tensor]:
            images = self.chain(batch, t)
            made.append(replace(images, x0=images.x0.detach()))
            return self.loss(images)

        batches = [session.prepare(batch) for batch in micro_batches]
        logs: dict[str, float] = {}
        if progress.step >= args.discriminator_warmup_steps:
            logs = self.update(loss, batches, progress)
        else:
            with torch.no_grad(), session.accelerator.autocast():
                made = [self.chain(batch, t) for batch in batches]
        if t != self.loss.last:
            logs["discriminator"] = self.judge(made, progress)
        return logs

    def judge(self, made: Sequence[Made], progress: Progress) -> float:
        """Do one step of the discriminator, unless its loss is not finite; return that loss."""
        accelerator, optimizer = self.session.accelerator, self.discriminator_optimizer
        share = self.update.learning_rate.at(progress, self.update.limits) / self.update.learning_rate.peak
        for group in optimizer.param_groups:
            group["lr"] = share * self.loss.args.discriminator_learning_rate
        total = 0.0
        for i, images in enumerate(made):
            last = i == len(made) - 1
            with nullcontext() if last else accelerator.no_sync(self.discriminator):
                with accelerator.autocast():
                    loss = discriminator_loss(self.discriminator, images)
                accelerator.backward(loss / len(made))
            total += float(accelerator.reduce(loss.detach(), reduction="mean")) / len(made)
        if math.isfinite(total):
            optimizer.step()
        optimizer.zero_grad()
        return total


def assemble(args: Arguments) -> Run:
    """Check everything that can be wrong and build the run.

    Raises ValueError in one line.
    """
    session = open_session(args)
    pipe, device, accelerator = session.pipe, session.device, session.accelerator
    freeze_all_but(pipe.unet, "denoiser")
    if not pipe.takes_prompt:
        logger.info("the model has no text encoder (train/prompts.py): nothing is said, no attribute is asked for")
        freeze_words(pipe.unet)
    prompting = Prompting(pipe.text_encoder, args, args.seed, device)
    discriminator = PatchDiscriminator(scale=args.scale, prompt_dim=pipe.unet.config.prompt_dim)
    trained = [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]
    unet, optimizer, judge, judge_optimizer = accelerator.prepare(
        pipe.unet,
        build_optimizer(trained, args, device),
        discriminator.to(memory_format=torch.channels_last),
        torch.optim.Adam(discriminator.parameters(), lr=args.discriminator_learning_rate, betas=(0.5, 0.9)),
    )
    last = len(pipe.scheduler) - 1
    return Run(
        session=session,
        ema=Ema(pipe.unet.parameters(), args.ema_decay, args.ema_warmup),
        chain=Chain(pipe, unet, prompting.say, args.seed),
        loss=GeneratorLoss(
            args,
            discriminator,
            prompting.distance(args.attribute_level, args.attribute_share, last, args.scale),
            last,
        ),
        update=Update(
            accelerator=accelerator,
            model=unet,
            optimizer=optimizer,
            learning_rate=args.rate,
            limits=session.limits,
            max_grad_norm=args.max_grad_norm,
        ),
        discriminator=judge,
        discriminator_optimizer=judge_optimizer,
    )


def main(args: Arguments) -> None:
    """Train and write the pipeline folder.

    Raises ValueError in one line for whatever is wrong before the first step, RunAborted when bad losses end the run.
    """
    run = assemble(args)
    run.session.train(run.step, run.ema)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run_script(lambda: main(parse_args()), INTERRUPTED))
