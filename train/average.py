"""Average the weights of models of one lineage, such as two moments of one run.

    python train/average.py --models runs/x4-gan-100min runs/x4-gan-150min --output_dir runs/x4-gan-mean

Adversarial training swings between more detail and fewer errors; the mean of two moments lies between them, and is often
better than either (model soups, 2203.05482). A student that shows its teacher's faults is tamed by a share of the teacher
(`--shares 0.1 0.9`), as fine-tuned models are by what they started from (2109.01903). The networks must have the same
shapes; everything but the weights of the U-Net (text encoder, scheduler, settings) is that of the last model. `--prompt_strength` exaggerates what words do, where
the training came out timid, at no cost to a picture without words or to speed.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from resdiff.models.pixel_blocks import Film
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.runs.launcher import run_script
from resdiff.train.arguments import option, parse, to_yaml
from resdiff.train.output import check_output, write_model
from resdiff.train.settings import OF_THIS_MACHINE

logger = logging.getLogger("resdiff.train.average")

CARD = """# {name}

A super-resolution model: the mean of the weights of {count} models of one lineage ({parts}), by `train/average.py` of
resdiff.
"""
ORIGIN = "## Distilled"  # section of the last model's card that goes on


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Settings of this script; `--help` lists them."""

    models: tuple[str, ...] = option(help="two or more, as SRPipeline opens them")
    shares: tuple[float, ...] | None = option(None, "of each model in the mean, in this order [equal]")
    prompt_strength: float = option(1.0, "factor on what prompts add to the network's layers")
    output_dir: Path = option(help="the model of the mean weights")

    def __post_init__(self) -> None:
        if len(self.models) < 2:
            raise ValueError("--models must name at least two")
        if self.shares is not None:
            if len(self.shares) != len(self.models):
                raise ValueError(f"--shares has {len(self.shares)} values for {len(self.models)} models")
            if not (all(share >= 0 for share in self.shares) and math.isclose(sum(self.shares), 1, abs_tol=1e-6)):
                raise ValueError(f"--shares {' '.join(map(str, self.shares))} must not be negative, and sum to 1")
        if not 0 < self.prompt_strength < math.inf:
            raise ValueError(f"--prompt_strength {self.prompt_strength} must be positive")


def parse_args(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line."""
    return parse(Arguments, __doc__, arguments)


@torch.no_grad()
def average(pipes: Sequence[ResShiftPipeline], shares: Sequence[float]) -> ResShiftPipeline:
    """Return the last pipeline with the mean weights of all U-Nets. Raises ValueError when their shapes differ."""
    weights = [pipe.unet.state_dict() for pipe in pipes]
    last = weights[-1]
    for other in weights[:-1]:
        if {name: w.shape for name, w in other.items()} != {name: w.shape for name, w in last.items()}:
            raise ValueError("--models are not of one shape; average models of one lineage")
    for name, weight in last.items():
        weight.copy_(sum(share * each[name].double() for share, each in zip(shares, weights, strict=True)))
    return pipes[-1]


def origin(model: str) -> str:
    """Return what the card of a model's folder says about whom it was distilled from, if it says so."""
    card = Path(model) / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    return text[text.index(ORIGIN) :] if ORIGIN in text else ""


@torch.no_grad()
def exaggerate(unet: nn.Module, strength: float) -> None:
    """Multiply what prompts add to the layers of `unet`."""
    for module in unet.modules():
        if isinstance(module, Film) and module.prompt is not None:
            module.prompt.weight *= strength


def main(args: Arguments) -> None:
    """Open, average, and write the pipeline folder. Raises ValueError in one line for whatever is wrong."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it names every file it writes
    check_output(args.output_dir, None, "")
    pipes = [SRPipeline.from_pretrained(model, dtype=torch.float32) for model in args.models]
    for model, pipe in zip(args.models, pipes, strict=True):
        if not isinstance(pipe, ResShiftPipeline):
            raise ValueError(f"--models {model} has no U-Net to average")
    names = tuple(Path(model).name for model in args.models)  # not where they lie here
    shares = args.shares or (1 / len(pipes),) * len(pipes)
    parts = ", ".join(f"{share:.3g} of `{name}`" for share, name in zip(shares, names, strict=True))
    card = CARD.format(name=args.output_dir.resolve().name, count=len(pipes), parts=parts)
    if about := origin(args.models[-1]):
        card += f"\n{about}"
    mean = average(pipes, shares)
    exaggerate(mean.unet, args.prompt_strength)
    published = replace(args, models=names)
    write_model(mean, args.output_dir, to_yaml(published, without=OF_THIS_MACHINE), card)
    logger.info("the model is in %s", args.output_dir)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run_script(lambda: main(parse_args())))
