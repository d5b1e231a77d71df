"""Train a residual-shifting model from a folder of photos.

    accelerate launch train/resshift.py --train_data_dir photos --output_dir runs/x4 --max_train_minutes 60
    accelerate launch train/resshift.py --recipe train/recipes/realsr_v3.yaml --train_data_dir imagenet \\
        --pretrained_vae autoencoder_vq_f4.pth --output_dir runs/realsr
    python train/resshift.py ... --resume_from_checkpoint latest

The method is ResShift (2307.12348; zsyOAOA/ResShift trainer.py): the chain runs between a photo and the enlargement of
its degraded version, in the latent space of a VQ autoencoder or on pixels. A recipe (train/recipes) names the networks,
the schedule, the degradation and the hyperparameters; flags override it. `output_dir` ends up as a folder that
`SRPipeline.from_pretrained` opens, with the averaged weights. train/README.md explains every step.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from resdiff.data.training_set import Batch
from resdiff.runs.launcher import run_script
from resdiff.train.arguments import parse
from resdiff.train.ema import Ema
from resdiff.train.progress import Progress
from resdiff.train.resshift_loss import LossArguments, ResShiftLoss
from resdiff.train.session import INTERRUPTED, Session, SessionArguments, freeze_all_but, freeze_words, open_session
from resdiff.train.update import Update, build_optimizer

DEFAULT_RECIPE = Path(__file__).resolve().parent / "recipes" / "resdiff_small.yaml"


@dataclass(frozen=True, kw_only=True)
class Arguments(SessionArguments, LossArguments):
    """Settings of this script, checked before anything is built; `--help` lists them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_loss()

    def check_schedule(self, timesteps: int) -> None:
        """Also the timesteps' weights must be as many."""
        self.check_loss(timesteps)


def parse_args(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line and the recipe."""
    return parse(Arguments, __doc__, arguments, DEFAULT_RECIPE)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that trains, put together but not started."""

    session: Session
    ema: Ema
    loss: ResShiftLoss
    update: Update[Batch]

    def step(self, micro_batches: Sequence[Batch], progress: Progress) -> dict[str, float]:
        """Do one optimizer step; what `fit` calls."""
        return self.update(self.loss, [self.session.prepare(batch) for batch in micro_batches], progress)


def assemble(args: Arguments) -> Run:
    """Check everything that can be wrong and build the run.

    Raises ValueError in one line.
    """
    session = open_session(args)
    pipe, device = session.pipe, session.device
    if args.trained_part != "all":
        freeze_all_but(pipe.unet, args.trained_part)
    trained = [parameter for parameter in pipe.unet.parameters() if parameter.requires_grad]
    freeze_words(pipe.unet)
    unet, optimizer = session.accelerator.prepare(pipe.unet, build_optimizer(trained, args, device))
    return Run(
        session=session,
        ema=Ema(pipe.unet.parameters(), args.ema_decay, args.ema_warmup),
        loss=ResShiftLoss(args, pipe, unet, device, args.seed),
        update=Update(
            accelerator=session.accelerator,
            model=unet,
            optimizer=optimizer,
            learning_rate=args.rate,
            limits=session.limits,
            max_grad_norm=args.max_grad_norm,
        ),
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
