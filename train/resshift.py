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

import copy
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from resdiff.data.check import in_words
from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.pool import PairPool
from resdiff.data.scan import Scan, scan
from resdiff.data.training_set import Batch, TrainingSet, collate, sample_generator
from resdiff.devices import DTYPES
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.runs.launcher import run_script
from resdiff.train.arguments import parse, to_yaml
from resdiff.train.batches import training_batches
from resdiff.train.card import model_card
from resdiff.train.checkpoints import Checkpoints
from resdiff.train.ema import Ema
from resdiff.train.launch import PRECISIONS, choose_workers, start
from resdiff.train.loop import fit
from resdiff.train.output import check_output, publish, write_model
from resdiff.train.progress import Limits, Progress
from resdiff.train.recipe import ModelArguments, build_degradation, build_pipeline, check_crop
from resdiff.train.resshift_loss import LossArguments, Prepare, ResShiftLoss
from resdiff.train.settings import OF_THIS_MACHINE, TrainingArguments
from resdiff.train.update import Update, build_optimizer
from resdiff.train.validation import ValidationPair, validate, validation_pairs

logger = logging.getLogger("resdiff.train.resshift")  # also as a script: `start` lets the main process alone speak

INTERRUPTED = "interrupted; --resume_from_checkpoint latest goes on from the last checkpoint"
DEFAULT_RECIPE = Path(__file__).resolve().parent / "recipes" / "resdiff_small.yaml"


@dataclass(frozen=True, kw_only=True)
class Arguments(ModelArguments, LossArguments, TrainingArguments):
    """Settings of this script, checked before anything is built; `--help` lists them."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_loss()
        if self.pair_pool % self.train_batch_size:
            raise ValueError(
                f"--pair_pool {self.pair_pool} must be a multiple of --train_batch_size {self.train_batch_size}"
            )


def parse_args(arguments: Sequence[str] | None = None) -> Arguments:
    """Read the command line and the recipe."""
    return parse(Arguments, __doc__, arguments, DEFAULT_RECIPE)


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that trains, put together but not started."""

    args: Arguments
    accelerator: Accelerator
    pipe: ResShiftPipeline  # what is trained, as it will be sampled from
    autoencoder: VQAutoencoder | None  # in float32; the pipeline's own runs in the precision of the training
    dataset: TrainingSet
    limits: Limits
    held_out: list[ValidationPair]
    accumulation: int  # micro-batches of a step
    workers: int  # processes that read photos
    ema: Ema
    pool: PairPool | None
    prepare: Prepare
    loss: ResShiftLoss
    update: Update[Batch]

    @property
    def samples_per_step(self) -> int:
        """Crops of a step, over all processes."""
        return self.args.train_batch_size * self.accumulation * self.accelerator.num_processes

    def batches(self, first: int) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step of this process, from the sample `first` on."""
        accelerator, args = self.accelerator, self.args
        return training_batches(
            self.dataset,
            first=first,
            batch_size=args.train_batch_size,
            accumulation=self.accumulation,
            process=accelerator.process_index,
            num_processes=accelerator.num_processes,
            num_workers=self.workers,
            collate=collate,
            pin_memory=accelerator.device.type == "cuda",
        )

    def step(self, micro_batches: Sequence[Batch], progress: Progress) -> dict[str, float]:
        """Do one optimizer step; what `fit` calls."""
        return self.update(self.loss, [self.prepare(batch) for batch in micro_batches], progress)


def assemble(args: Arguments) -> Run:
    """Check everything that can be wrong, in the order of its cost, and build the run.

    Raises ValueError in one line.
    """
    found = scan(
        args.train_data_dir, lr_data_dir=args.lr_data_dir, manifest=args.manifest, crop=args.crop, scale=args.scale
    ).first(args.max_train_samples)
    degradation = build_degradation(args.degradation)
    accelerator = start(args)
    device, processes = accelerator.device, accelerator.num_processes
    accumulation = args.accumulation(processes)
    workers = choose_workers(args.dataloader_num_workers, args.photos_in, processes, device)
    pipe = build_pipeline(args, args.seed)
    check_crop(args.crop, pipe, None if found.has_pairs else degradation)
    args.check_loss(len(pipe.scheduler))
    held_out = []
    if args.validation_dir is not None:
        held_out = validation_pairs(
            args.validation_dir,
            args.validation_lr_dir,
            degradation,
            scale=args.scale,
            resolution=args.validation_resolution,
            limit=args.num_validation_images,
        )
    logger.info("%s", in_words(found, args.scale))
    dataset = open_photos(args, found, degradation, device)
    limits = args.limits(dataset.num_photos, args.train_batch_size * accumulation * processes)

    set_seed(args.seed + accelerator.process_index)
    autoencoder = pipe.vae
    prepare_networks(pipe, args, accelerator)
    unet, optimizer = accelerator.prepare(pipe.unet, build_optimizer(pipe.unet.parameters(), args, device))
    pool = None
    if args.pair_pool:
        pool = PairPool(args.pair_pool, sample_generator(args.seed, accelerator.process_index, stream="pool"))
    return Run(
        args=args,
        accelerator=accelerator,
        pipe=pipe,
        autoencoder=autoencoder,
        dataset=dataset,
        limits=limits,
        held_out=held_out,
        accumulation=accumulation,
        workers=workers,
        ema=Ema(pipe.unet.parameters(), args.ema_decay, args.ema_warmup),
        pool=pool,
        prepare=Prepare(degradation, pool, device),
        loss=ResShiftLoss(args, pipe, unet, device, args.seed),
        update=Update(
            accelerator=accelerator,
            model=unet,
            optimizer=optimizer,
            learning_rate=args.rate,
            limits=limits,
            max_grad_norm=args.max_grad_norm,
        ),
    )


def open_photos(args: Arguments, found: Scan, degradation: Degradation, device: torch.device) -> TrainingSet:
    """Return the samples of these photos; those without LR partners bring draws of the degradation."""
    return TrainingSet(
        found,
        crop=args.crop,
        scale=args.scale,
        seed=args.seed,
        augmentation=args.augmentation,
        rescale=args.rescale,
        photos_in=args.photos_in,
        device=device,
        degradation=None if found.has_pairs else degradation,
    )


def prepare_networks(pipe: ResShiftPipeline, args: Arguments, accelerator: Accelerator) -> None:
    """Bring a frozen copy of the autoencoder and the trained network to the device, the way they are going to run."""
    if pipe.vae is not None:
        precision = PRECISIONS[accelerator.mixed_precision]
        frozen = copy.deepcopy(pipe.vae).requires_grad_(False).eval()
        pipe.register_modules(vae=frozen.to(accelerator.device, precision, memory_format=torch.channels_last))
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.train().requires_grad_(True)
    if args.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    if args.compile:
        pipe.unet.compile_repeated_blocks()


def build_validation(run: Run, progress: Progress) -> Callable[[], dict[str, float]] | None:
    """Return the function that validates at `progress`, None without `--validation_dir`."""
    pipe, scale = run.pipe, run.args.scale
    if not run.held_out:
        return None

    def validation() -> dict[str, float]:
        pipe.unet.eval()
        figures = validate(pipe, run.held_out, scale, sorted({1, pipe.default_steps}), run.accelerator, progress.step)
        pipe.unet.train()
        return figures

    return validation


def finish(run: Run, progress: Progress) -> None:
    """Write the model with the averaged weights, and publish it if asked to."""
    args, pipe = run.args, run.pipe
    with run.ema.applied():
        pipe.register_modules(vae=run.autoencoder)
        pipe.unet.to(DTYPES[args.dtype])
        pipe.scheduler.set_timesteps(len(pipe.scheduler))
        recipe = to_yaml(args, without=OF_THIS_MACHINE)
        write_model(pipe, args.output_dir, recipe, model_card(args.output_dir, progress, run.dataset.num_photos))
    logger.info("the model is in %s", args.output_dir)
    if args.push_to_hub:
        publish(args.output_dir, args.hub_model_id or args.output_dir.resolve().name)


def main(args: Arguments) -> None:
    """Train and write the pipeline folder.

    Raises ValueError in one line for whatever is wrong before the first step, RunAborted when bad losses end the run.
    """
    settings = to_yaml(args)
    checkpoint = check_output(args.output_dir, args.resume_from_checkpoint, settings)
    run = assemble(args)
    accelerator, progress = run.accelerator, Progress()
    validation = build_validation(run, progress)
    logger.info("settings:\n%s", settings)

    # Start or resume
    checkpoints = Checkpoints(
        accelerator=accelerator,
        output_dir=args.output_dir,
        settings=settings,
        total_limit=args.checkpoints_total_limit,
        shared={"ema": run.ema},
        per_process={"pool": run.pool} if run.pool is not None else {},
    )
    if checkpoint is not None:
        checkpoints.load(checkpoint, progress)
        logger.info("resumed from %s at step %d", checkpoint, progress.step)
    checkpoints.begin()
    scalars = {name: value for name, value in vars(args).items() if isinstance(value, (int, float, str, bool))}
    accelerator.init_trackers(args.tracker_project_name, config=scalars)

    # Train
    finished = fit(
        run.step,
        run.batches(progress.samples),
        samples_per_step=run.samples_per_step,
        progress=progress,
        limits=run.limits,
        rhythm=args.rhythm,
        checkpoints=checkpoints,
        ema=run.ema,
        validate=validation,
        tensors_of=lambda batch: {"hr": batch.hr, "lr": batch.lr},
        on_bad_loss=args.on_bad_loss,
    )

    # Write the model
    if finished and accelerator.is_main_process:
        finish(run, progress)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(run_script(lambda: main(parse_args()), INTERRUPTED))
