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

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from resdiff.data.check import in_words
from resdiff.data.degradation.pool import PairPool
from resdiff.data.scan import scan
from resdiff.data.training_set import Batch, TrainingSet, collate, sample_generator
from resdiff.devices import DTYPES
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.train.arguments import parse, to_yaml
from resdiff.train.batches import training_batches
from resdiff.train.card import model_card
from resdiff.train.checkpoints import Checkpoints
from resdiff.train.ema import Ema
from resdiff.train.launch import choose_workers, start
from resdiff.train.loop import fit
from resdiff.train.output import check_output, write_model
from resdiff.train.progress import Progress
from resdiff.train.recipe import ModelArguments, build_degradation, build_pipeline, build_vae, check_crop
from resdiff.train.resshift_loss import LossArguments, Prepare, ResShiftLoss
from resdiff.train.settings import OF_THIS_MACHINE, TrainingArguments
from resdiff.train.update import Update
from resdiff.train.validation import validate, validation_pairs

logger = logging.getLogger(__name__)

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


def prepare_networks(pipe: ResShiftPipeline, args: Arguments, accelerator: Accelerator) -> None:
    """Bring the frozen autoencoder and the trained network to the device, the way they are going to run."""
    if pipe.vae is not None:
        precision = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(accelerator.mixed_precision, torch.float32)
        pipe.vae.requires_grad_(False).to(accelerator.device, precision, memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.train().requires_grad_(True)
    if args.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    if args.compile:
        pipe.unet.compile_repeated_blocks()


def main(args: Arguments) -> None:
    """Train and write the pipeline folder.

    Raises ValueError in one line for whatever is wrong before the first step, RuntimeError when a bad loss ends the run.
    """
    # Check what can be checked before anything is built
    settings = to_yaml(args)
    checkpoint = check_output(args.output_dir, args.resume_from_checkpoint, settings)
    found = scan(args.train_data_dir, lr_data_dir=args.lr_data_dir, manifest=args.manifest, crop=args.crop)
    degradation = build_degradation(args.degradation)
    accelerator = start(args)
    device, processes = accelerator.device, accelerator.num_processes
    accumulation = args.accumulation(processes)
    workers = choose_workers(args.dataloader_num_workers, args.photos_in, processes, device)
    samples_per_step = args.train_batch_size * accumulation * processes
    pipe = build_pipeline(args, args.seed)
    scale = pipe.native_scale
    check_crop(args.crop, pipe, None if found.has_pairs else degradation)
    held_out = []
    if args.validation_dir is not None:
        held_out = validation_pairs(
            args.validation_dir,
            args.validation_lr_dir,
            degradation,
            scale=scale,
            resolution=args.validation_resolution,
            limit=args.num_validation_images,
        )
    dataset = TrainingSet(
        found,
        crop=args.crop,
        scale=scale,
        seed=args.seed,
        augmentation=args.augmentation,
        rescale=args.rescale,
        photos_in=args.photos_in,
        device=device,
        degradation=None if found.has_pairs else degradation,
        limit=args.max_train_samples,
    )
    limits = args.limits(dataset.num_photos, samples_per_step)

    logger.info("%s\nsettings:\n%s", in_words(found, scale), settings)

    # Build
    set_seed(args.seed + accelerator.process_index)
    prepare_networks(pipe, args, accelerator)
    optimizer = torch.optim.AdamW(
        pipe.unet.parameters(),
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        weight_decay=args.adam_weight_decay,
        fused=device.type in ("cuda", "cpu"),
    )
    unet, optimizer = accelerator.prepare(pipe.unet, optimizer)
    ema = Ema(pipe.unet.parameters(), args.ema_decay, args.ema_warmup)
    pool = None
    if args.pair_pool:
        pool = PairPool(args.pair_pool, sample_generator(args.seed, accelerator.process_index, stream="pool"))
    checkpoints = Checkpoints(
        accelerator=accelerator,
        output_dir=args.output_dir,
        settings=settings,
        total_limit=args.checkpoints_total_limit,
        shared={"ema": ema},
        per_process={"pool": pool} if pool is not None else {},
    )
    prepare = Prepare(degradation, pool, device)
    loss = ResShiftLoss(args, pipe, unet, device, args.seed)
    update = Update(
        accelerator=accelerator,
        model=unet,
        optimizer=optimizer,
        learning_rate=args.rate,
        limits=limits,
        max_grad_norm=args.max_grad_norm,
    )

    # Start or resume
    checkpoints.begin()
    scalars = {k: v for k, v in vars(args).items() if isinstance(v, (int, float, str, bool))}
    accelerator.init_trackers(args.tracker_project_name, config=scalars)
    progress = checkpoints.load(checkpoint) if checkpoint is not None else Progress()
    if checkpoint is not None:
        logger.info("resumed from %s at step %d", checkpoint, progress.step)
    batches = training_batches(
        dataset,
        first=progress.samples,
        batch_size=args.train_batch_size,
        accumulation=accumulation,
        process=accelerator.process_index,
        num_processes=processes,
        num_workers=workers,
        collate=collate,
        pin_memory=device.type == "cuda",
    )

    def step(micro_batches: list[Batch], progress: Progress) -> dict[str, float]:
        return update(loss, [prepare(batch) for batch in micro_batches], progress)

    def validation() -> dict[str, float]:
        pipe.unet.eval()
        steps = sorted({1, pipe.default_steps})
        figures = validate(pipe, held_out, scale, steps, accelerator, progress.step)
        pipe.unet.train()
        return figures

    finished = fit(
        step,
        batches,
        samples_per_step=samples_per_step,
        progress=progress,
        limits=limits,
        rhythm=args.rhythm,
        checkpoints=checkpoints,
        ema=ema,
        validate=validation if held_out else None,
        tensors_of=lambda batch: {"hr": batch.hr, "lr": batch.lr},
        on_bad_loss=args.on_bad_loss,
    )

    # Write the model
    if finished and accelerator.is_main_process:
        with ema.applied():
            if pipe.vae is not None and args.vae is not None:  # trained with it in half precision
                pipe.register_modules(vae=build_vae(args.vae, args.pretrained_vae))
            pipe.unet.to(DTYPES[args.dtype])
            pipe.scheduler.set_timesteps(len(pipe.scheduler))
            recipe = to_yaml(args, without=OF_THIS_MACHINE)
            write_model(pipe, args.output_dir, recipe, model_card(args.output_dir, progress, dataset.num_photos))
        logger.info("the model is in %s", args.output_dir)
        if args.push_to_hub:
            pipe.push_to_hub(args.hub_model_id or args.output_dir.name)
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(parse_args())
    except (ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
