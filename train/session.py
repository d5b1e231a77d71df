"""`Session`: what every training script puts together alike, and how it runs from the first step to the saved model.

A script adds what is its own: the loss, the optimizers, and `step(batch, progress)`, which `Session.train` calls.
"""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from resdiff.data.check import in_words
from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.pool import PairPool
from resdiff.data.scan import Scan, scan
from resdiff.data.training_set import Batch, TrainingSet, collate, sample_generator
from resdiff.devices import DTYPES
from resdiff.models.pixel_blocks import Film
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.train.arguments import to_yaml
from resdiff.train.batches import training_batches
from resdiff.train.card import model_card
from resdiff.train.checkpoints import Checkpoints
from resdiff.train.ema import Ema
from resdiff.train.launch import PRECISIONS, choose_workers, start
from resdiff.train.loop import fit
from resdiff.train.output import check_output, publish, write_model
from resdiff.train.prepare import Prepare
from resdiff.train.progress import Limits, Progress
from resdiff.train.recipe import ModelArguments, build_degradation, build_pipeline, check_crop
from resdiff.train.settings import OF_THIS_MACHINE, TrainingArguments
from resdiff.train.validation import ValidationPair, validate, validation_pairs

logger = logging.getLogger(__name__)

INTERRUPTED = "interrupted; --resume_from_checkpoint latest goes on from the last checkpoint"


@dataclass(frozen=True, kw_only=True)
class SessionArguments(ModelArguments, TrainingArguments):
    """What a session is told; scripts add what their loss is told."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair_pool % self.train_batch_size:
            raise ValueError(
                f"--pair_pool {self.pair_pool} must be a multiple of --train_batch_size {self.train_batch_size}"
            )

    def check_schedule(self, timesteps: int) -> None:
        """Raise ValueError in one line when the settings do not go with a schedule of so many timesteps."""

    def recipe(self) -> str:
        """Return what is written beside the model: the settings without those of this machine, as YAML."""
        return to_yaml(self, without=OF_THIS_MACHINE)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A run put together but for what is trained, and not started."""

    args: SessionArguments
    settings: str  # YAML
    checkpoint: Path | None  # to go on from
    accelerator: Accelerator
    pipe: ResShiftPipeline  # what is trained, as it will be sampled from
    autoencoder: VQAutoencoder | None  # in float32; the pipeline's own runs in the precision of the training
    dataset: TrainingSet
    limits: Limits
    held_out: list[ValidationPair]
    accumulation: int  # micro-batches of a step
    workers: int  # processes that read photos
    pool: PairPool | None
    prepare: Prepare

    @property
    def device(self) -> torch.device:
        """Where the networks run."""
        return self.accelerator.device

    @property
    def samples_per_step(self) -> int:
        """Crops of a step, over all processes."""
        return self.args.train_batch_size * self.accumulation * self.accelerator.num_processes

    def batches(self, first: int) -> Iterator[list[Batch]]:
        """Yield the micro-batches of each step of this process, from the sample `first` on."""
        return training_batches(
            self.dataset,
            first=first,
            batch_size=self.args.train_batch_size,
            accumulation=self.accumulation,
            process=self.accelerator.process_index,
            num_processes=self.accelerator.num_processes,
            num_workers=self.workers,
            collate=collate,
            pin_memory=self.device.type == "cuda",
        )

    def train(self, step: Callable[[Sequence[Batch], Progress], dict[str, float]], ema: Ema, about: str = "") -> None:
        """Start or resume, do the steps, write the model with the averaged weights, and publish it if asked to.

        about: a section of its card. Raises RunAborted when bad losses end the run.
        """
        args, accelerator, progress = self.args, self.accelerator, Progress()
        logger.info("settings:\n%s", self.settings)
        checkpoints = Checkpoints(
            accelerator=accelerator,
            output_dir=args.output_dir,
            settings=self.settings,
            total_limit=args.checkpoints_total_limit,
            shared={"ema": ema},
            per_process={"pool": self.pool} if self.pool is not None else {},
        )
        if self.checkpoint is not None:
            checkpoints.load(self.checkpoint, progress)
            logger.info("resumed from %s at step %d", self.checkpoint, progress.step)
        checkpoints.begin()
        scalars = {name: value for name, value in vars(args).items() if isinstance(value, (int, float, str, bool))}
        accelerator.init_trackers(args.tracker_project_name, config=scalars)

        finished = fit(
            step,
            self.batches(progress.samples),
            samples_per_step=self.samples_per_step,
            progress=progress,
            limits=self.limits,
            rhythm=args.rhythm,
            checkpoints=checkpoints,
            ema=ema,
            validate=(lambda: self._validate(progress)) if self.held_out else None,
            tensors_of=lambda batch: {name: x for name, x in vars(batch).items() if isinstance(x, torch.Tensor)},
            on_bad_loss=args.on_bad_loss,
        )
        if finished and accelerator.is_main_process:
            self._finish(progress, ema, about)
        accelerator.wait_for_everyone()
        accelerator.end_training()

    def _validate(self, progress: Progress) -> dict[str, float]:
        pipe = self.pipe
        pipe.unet.eval()
        steps = sorted({1, pipe.default_steps})
        figures = validate(pipe, self.held_out, self.args.scale, steps, self.accelerator, progress.step)
        pipe.unet.train()
        return figures

    def _finish(self, progress: Progress, ema: Ema, about: str) -> None:
        args, pipe = self.args, self.pipe
        with ema.applied():
            pipe.register_modules(vae=self.autoencoder)
            for network in filter(None, (pipe.unet, pipe.text_encoder)):
                network.to(DTYPES[args.dtype])
            pipe.scheduler.set_timesteps(len(pipe.scheduler))
            card = model_card(args.output_dir, progress, self.dataset.num_photos, pipe.text_encoder, about)
            write_model(pipe, args.output_dir, args.recipe(), card)
        logger.info("the model is in %s", args.output_dir)
        if args.push_to_hub:
            publish(args.output_dir, args.hub_model_id or args.output_dir.resolve().name)


def open_session(args: SessionArguments) -> Session:
    """Check everything that can be wrong, in the order of its cost, and put the session together.

    Raises ValueError in one line.
    """
    settings = to_yaml(args)
    checkpoint = check_output(args.output_dir, args.resume_from_checkpoint, settings)
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
    args.check_schedule(len(pipe.scheduler))
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
    pool = None
    if args.pair_pool:
        pool = PairPool(args.pair_pool, sample_generator(args.seed, accelerator.process_index, stream="pool"))
    return Session(
        args=args,
        settings=settings,
        checkpoint=checkpoint,
        accelerator=accelerator,
        pipe=pipe,
        autoencoder=autoencoder,
        dataset=dataset,
        limits=limits,
        held_out=held_out,
        accumulation=accumulation,
        workers=workers,
        pool=pool,
        prepare=Prepare(degradation, pool, device),
    )


def open_photos(args: SessionArguments, found: Scan, degradation: Degradation, device: torch.device) -> TrainingSet:
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


def prepare_networks(pipe: ResShiftPipeline, args: SessionArguments, accelerator: Accelerator) -> None:
    """Bring a frozen copy of the autoencoder and the trained network to the device, the way they are going to run."""
    if pipe.vae is not None:
        precision = PRECISIONS[accelerator.mixed_precision]
        frozen = copy.deepcopy(pipe.vae).requires_grad_(False).eval()
        pipe.register_modules(vae=frozen.to(accelerator.device, precision, memory_format=torch.channels_last))
    pipe.set_progress_bar_config(disable=True)
    prepare_trained(pipe.unet, args)


def prepare_trained(unet: SwinUNet | PixelUNet, args: SessionArguments) -> None:
    """Make a network ready to be trained, all of it."""
    unet.train().requires_grad_(True)
    if args.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    if args.compile:
        unet.compile_repeated_blocks()


def freeze_all_but(unet: torch.nn.Module, part: Literal["predictor", "denoiser"]) -> None:
    """Leave one part of a PixelUNet to be trained. Raises ValueError for other networks."""
    if not isinstance(unet, PixelUNet):
        raise ValueError(f"the {part} is a part of PixelUNet; {type(unet).__name__} has none, and is trained whole")
    unet.requires_grad_(False)
    for module in unet.parts(part):
        module.requires_grad_(True)


def freeze_words(unet: torch.nn.Module) -> None:
    """Leave out what a prompt moves: none is given here, and several processes would wait for its gradients forever."""
    for module in unet.modules():
        if isinstance(module, Film) and module.prompt is not None:
            module.prompt.requires_grad_(False)
