"""Teach a model's text encoder what words say of a photo.

    python train/prompts.py --train_data_dir photos --pretrained_model_name_or_path runs/x4 --output_dir runs/x4-words

Crops are measured against the model's posterior mean of their low-resolution images (`resdiff.data.attributes`), and
prompts are drawn that are true of them (`resdiff.data.phrases`). The encoder (`resdiff.models.prompt_encoder`) learns
the expected attributes of a crop from its prompt, those that are not spoken of included. Then every token is taken out
of prompts of held-out crops: one that does not lower their error is closed, its embedding set to zero, and the others
are trained on. (A group lasso on the embeddings, tried first, favoured rare words over common ones.)

The model is written with the encoder beside its network, which does not listen yet: `train/adversarial.py` teaches it.
"""

import logging
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from resdiff.data.attributes import ATTRIBUTES, SMALLEST, attributes, traits
from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.presets import preset
from resdiff.data.phrases import draw_prompt
from resdiff.data.scan import scan
from resdiff.data.training_set import TrainingSet, sample_generator
from resdiff.devices import DTYPES
from resdiff.models.clip_tokenizer import PADDING, tokenize
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.runs.launcher import run_script
from resdiff.train.arguments import option, parse, to_yaml
from resdiff.train.card_of_words import card_of_words
from resdiff.train.output import check_output, write_model
from resdiff.train.prompting import unit
from resdiff.train.recipe import check_crop
from resdiff.train.settings import OF_THIS_MACHINE

logger = logging.getLogger("resdiff.train.prompts")

FIRST_STD = 0.5  # of the embeddings of all tokens that occur
PHASES = 2  # of training; after each, tokens that do not pay are closed
LEAST_GAIN = 0.005  # of a token, in squared standard deviations: fillers help a little with what is not meant
CERTAINTY = 2.5  # standard errors of that gain
LONGEST = 16  # tokens of a prompt that is trained on; few are longer, and they cost all others of their batch
HELD_OUT = 5  # every fifth crop
TAILS = (0.01, 0.99)  # quantiles to which attributes are clipped before their deviation is taken
SMALLEST_REST = 0.05  # of its root mean square: below it, a deviation's logarithm says nothing
FARTHEST = 3.0  # standard deviations that a target may have


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Settings of this script; `--help` lists them."""

    train_data_dir: Path = option(help="folder of HR photos, searched recursively")
    pretrained_model_name_or_path: str = option(help="model on pixels that is to get words, as SRPipeline opens it")
    output_dir: Path = option(help="the model with its encoder")
    resolution: int = option(128, "side of the crops in px; that of the training that follows")
    degradation: str = option("light", "name of the preset that makes the LR images")
    max_train_samples: int | None = option(None, "use the first N photos only")
    num_crops: int = option(20000, "crops that are measured")
    num_prompts: int = option(100000, "prompts that are drawn for them")
    max_train_steps: int = option(4000, "optimizer steps")
    train_batch_size: int = option(512, "prompts of a step")
    learning_rate: float = option(1e-2, "at first; it falls to zero along a cosine")
    seed: int = option(0, "of crops, prompts and weights")
    dtype: Literal["fp32", "fp16"] = option("fp16", "of the weights written at the end")

    def __post_init__(self) -> None:
        for name in ("resolution", "num_crops", "num_prompts", "max_train_steps", "train_batch_size"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} {value} must be at least 1")
        if self.resolution < SMALLEST:
            raise ValueError(f"--resolution {self.resolution} must be at least {SMALLEST}, which the attributes need")
        if not self.learning_rate > 0:
            raise ValueError(f"--learning_rate {self.learning_rate} must be positive")


def parse_args(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line, and the recipe where one is named."""
    return parse(Arguments, __doc__, arguments)


@torch.no_grad()
def measure(
    pipe: ResShiftPipeline,
    data: TrainingSet,
    degradation: Degradation,
    count: int,
    seed: int,
    batch_size: int = 16,
) -> tuple[Tensor, Tensor]:
    """Return the attributes of so many crops against the model's mean, (count, 4), NaN where undefined; and its traits."""
    found, seen = [], []
    for first in trange(0, count, batch_size, desc="measuring", disable=None):
        indices = range(first, min(first + batch_size, count))
        hr = torch.stack([data[i].hr for i in indices]).float() / 255
        lq = 2 * degradation(hr, [sample_generator(seed, i, stream="prompts") for i in indices]) - 1
        mean = unit(pipe.upsample(lq) - pipe.unet(None, None, lq))
        found.append(attributes(hr, mean))
        seen.append(traits(mean))
    return torch.cat(found), torch.cat(seen)


def usual_attributes(measured: Tensor, seen: Tensor) -> dict[str, tuple[Any, ...]]:
    """Fit attributes (N, A) by traits (N, T), over those that are no NaN, with clipped tails.

    Least squares for the mean, and for the logarithm of what is left of it: images whose edges are strong differ less
    from what is usual for them than others do. Returns mean, slope, std and log_std_slope of `PromptEncoder`. Raises
    ValueError for an attribute that was hardly ever measured, or always the same.
    """
    found = []
    for name, column in zip(ATTRIBUTES, measured.unbind(1), strict=True):
        known = ~column.isnan()
        values, of_these = column[known], seen[known].double()
        if len(values) <= 1 + of_these.shape[1] or values.min() == values.max():
            raise ValueError(f"{name} has no spread over {len(values)} crops; pass more photos, or --num_crops")
        values = values.clamp(*values.quantile(torch.tensor(TAILS)).tolist()).double()
        mean, slope = _line(of_these, values)
        rest = values - mean - of_these @ slope
        smallest = SMALLEST_REST * rest.square().mean().sqrt()
        _, log_std_slope = _line(of_these, rest.abs().clamp(min=smallest).log())
        std = (rest / (of_these @ log_std_slope).exp()).square().mean().sqrt()
        found.append((float(mean), tuple(slope.tolist()), float(std), tuple(log_std_slope.tolist())))
    return dict(zip(("mean", "slope", "std", "log_std_slope"), zip(*found, strict=True), strict=True))


def _line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return intercept and slope (T,) of the least squares of y (N,) by x (N, T)."""
    rows = torch.cat([torch.ones_like(x[:, :1]), x], dim=1)
    solution = torch.linalg.lstsq(rows, y[:, None], driver="gelsd").solution[:, 0]
    return solution[0], solution[1:]


def draw_prompts(standardized: Tensor, count: int, seed: int) -> list[str]:
    """Draw prompts for crops (N, A): prompt i is of crop i modulo N."""
    rows = standardized.tolist()
    steps = trange(count, desc="drawing prompts", disable=None)
    return [draw_prompt(rows[i % len(rows)], sample_generator(seed, i, stream="words")) for i in steps]


def error_per_prompt(said: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each row of (B, A) over the targets that are known: (B,)."""
    known = ~targets.isnan()
    return torch.where(known, said - targets, 0).square().sum(1) / known.sum(1).clamp(min=1)


@torch.no_grad()
def paying_tokens(encoder: PromptEncoder, ids: Tensor, targets: Tensor) -> Tensor:
    """Return which tokens pay on prompts (N, L) that the encoder was not trained on: (vocab_size,) bool.

    A token pays if the error of the prompts that have it grows when it is taken out: by `LEAST_GAIN` at least, and by
    more than `CERTAINTY` standard errors.
    """
    pays = torch.zeros_like(encoder.open_tokens())
    error = error_per_prompt(encoder(ids), targets)
    for token in encoder.open_tokens().nonzero()[:, 0].tolist():
        rows = (ids == token).any(dim=1)
        if (count := int(rows.sum())) > 1:
            without = torch.where(ids[rows] == token, PADDING, ids[rows])
            gain = error_per_prompt(encoder(without), targets[rows]) - error[rows]
            pays[token] = gain.mean() > max(LEAST_GAIN, CERTAINTY * float(gain.std()) / math.sqrt(count))
    return pays


def train_encoder(
    encoder: PromptEncoder,
    ids: Tensor,  # (N, L) of the prompts
    targets: Tensor,  # (N, A) standardized attributes, NaN where unknown
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,  # at first; it falls to zero along a cosine
    generator: torch.Generator,
    only_open: bool = False,  # leave closed tokens closed
) -> None:
    """Train on prompts by Adam."""
    optimizer = torch.optim.Adam(encoder.parameters(), learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    stay = encoder.open_tokens()[:, None] if only_open else None
    encoder.train()
    for _ in trange(steps, desc="training", disable=None):
        batch = torch.randint(len(ids), (batch_size,), generator=generator)
        tokens = ids[batch]
        said = encoder(tokens[:, : int((tokens != PADDING).sum(1).max())])
        optimizer.zero_grad()
        error_per_prompt(said, targets[batch]).mean().backward()
        optimizer.step()
        decay.step()
        if stay is not None:
            encoder.table.weight.data *= stay
    encoder.eval()


def fit_encoder(
    encoder: PromptEncoder,
    ids: Tensor,  # (N, L) of the prompts
    targets: Tensor,  # (N, A) standardized attributes, NaN where unknown
    held_out: Tensor,  # (N,) bool, prompts of crops that are not trained on
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> float:
    """Train with all words, close those that do not pay, go on with the others; return the error of held-out prompts."""
    generator = torch.Generator().manual_seed(seed)
    targets = targets.clamp(-FARTHEST, FARTHEST)
    seen, ids = F.pad(ids, (0, 1), value=PADDING).unique(return_inverse=True)  # padding stays number 0
    # the optimizer walks over the whole table in every step: over the tokens that occur, not over 49408
    whole = encoder.table
    encoder.table = nn.Embedding(len(seen), encoder.config.dim)
    nn.init.normal_(encoder.table.weight, std=FIRST_STD)  # what whispers has no gradient
    for phase in range(PHASES):
        train_encoder(
            encoder,
            ids[~held_out],
            targets[~held_out],
            steps=max(1, steps // PHASES),
            batch_size=batch_size,
            learning_rate=learning_rate / (1 + phase),
            generator=generator,
            only_open=phase > 0,
        )
        encoder.table.weight.data *= paying_tokens(encoder, ids[held_out], targets[held_out])[:, None]
    with torch.no_grad():
        error = float(error_per_prompt(encoder(ids[held_out]), targets[held_out]).mean())
        whole.weight[seen] = encoder.table.weight
    encoder.table = whole
    return error


CARD = """# {name}

A super-resolution model with a text encoder, trained by `train/prompts.py` of resdiff.

{words}"""


def main(args: Arguments) -> None:
    """Measure, train, and write the pipeline folder. Raises ValueError in one line for whatever is wrong."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it names every file it writes
    check_output(args.output_dir, None, "")
    degradation = preset(args.degradation)
    pipe = SRPipeline.from_pretrained(args.pretrained_model_name_or_path, dtype=torch.float32)
    if not isinstance(pipe, ResShiftPipeline) or not isinstance(pipe.unet, PixelUNet):
        raise ValueError(f"--pretrained_model_name_or_path {args.pretrained_model_name_or_path} is no model on pixels")
    crop = (args.resolution, args.resolution)
    check_crop(crop, pipe, degradation)
    found = scan(args.train_data_dir, crop=crop).first(args.max_train_samples)
    data = TrainingSet(found, crop=crop, seed=args.seed)

    measured, seen = measure(pipe, data, degradation, args.num_crops, args.seed)
    spread = (column[~column.isnan()].std() for column in measured.unbind(1))
    for row in zip(ATTRIBUTES, measured.nanmean(0), spread, measured.isnan().float().mean(0), strict=True):
        logger.info("%s: mean %.3f, standard deviation %.3f, undefined in %.0f %%", *row[:3], 100 * row[3])

    torch.manual_seed(args.seed)
    encoder = PromptEncoder(**usual_attributes(measured, seen))
    standardized = encoder.usual(seen).standardize(measured)
    ids = tokenize(draw_prompts(standardized, args.num_prompts, args.seed))
    crops = torch.arange(len(ids)) % args.num_crops
    short = (ids != PADDING).sum(1) <= LONGEST
    error = fit_encoder(
        encoder,
        ids[short, :LONGEST],
        standardized[crops[short]],
        crops[short] % HELD_OUT == 0,
        steps=args.max_train_steps,
        batch_size=args.train_batch_size,
        learning_rate=args.learning_rate,
        seed=args.seed,
    )
    words = card_of_words(encoder)
    logger.info("mean squared error %.3f on held-out crops\n%s", error, words)

    pipe.register_modules(text_encoder=encoder.to(DTYPES[args.dtype]))
    pipe.unet.to(DTYPES[args.dtype])
    card = CARD.format(name=args.output_dir.resolve().name, words=words)
    write_model(pipe, args.output_dir, to_yaml(args, without=OF_THIS_MACHINE), card)
    logger.info("the model is in %s", args.output_dir)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run_script(lambda: main(parse_args())))
