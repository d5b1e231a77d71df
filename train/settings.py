"""`TrainingArguments`: what every training script can be told; scripts add their model, degradation and loss."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resdiff.train.arguments import option
from resdiff.train.learning_rate import LearningRate, LearningRateSchedule
from resdiff.train.progress import Limits, Rhythm

OF_THIS_MACHINE = {  # what the recipe of a published model leaves out
    "train_data_dir", "lr_data_dir", "manifest", "output_dir", "validation_dir", "validation_lr_dir", "pretrained_vae",
    "pretrained_model_name_or_path", "lpips_weights", "resume_from_checkpoint", "logging_dir", "num_threads",
    "dataloader_num_workers", "photos_in", "report_to", "push_to_hub", "hub_model_id",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """Data, optimization, output and validation, checked before anything is built; `--help` lists them."""

    # Data
    train_data_dir: Path | None = option(None, "folder of HR photos, searched recursively")
    lr_data_dir: Path | None = option(None, "folder of LR photos of the same names: train on pairs, degrade nothing")
    manifest: Path | None = option(None, "CSV or JSONL of pairs (hr, lr, caption, tags) instead of the folders")
    resolution: tuple[int, ...] = option((128,), "side of the HR crops in px, or height and width")
    rescale: bool = option(False, "reduce photos so that the shorter side is that of the crop (published, ImageNet)")
    augmentation: Literal["none", "flip", "poses"] = option("poses", "none, flip (p .5) or the square's 8 poses")
    max_train_samples: int | None = option(None, "use the first N photos only")
    photos_in: Literal["auto", "memory", "disk", "device"] = option("auto", "where decoded photos are kept")
    dataloader_num_workers: int | None = option(None, "processes that read photos [0 on CPU, else cores / processes]")

    # Optimization
    train_batch_size: int = option(16, "crops of one process and micro-batch")
    gradient_accumulation_steps: int | None = option(None, "micro-batches of a step [1]")
    global_batch_size: int | None = option(None, "crops of a step; sets the accumulation by the number of processes")
    max_train_steps: int | None = option(None, "optimizer steps")
    num_train_epochs: float | None = option(None, "the same in passes over the photos")
    max_train_minutes: float | None = option(None, "end, and learning rate at its end, by the clock")
    learning_rate: float = option(5e-5, "peak")
    lr_scheduler: LearningRateSchedule = option("cosine", "constant, constant_with_warmup or cosine")
    lr_warmup_steps: int = option(0, "linear warm-up")
    lr_min: float = option(0.0, "end of the cosine")
    adam_beta1: float = option(0.9, "decay of the gradient's mean")
    adam_beta2: float = option(0.999, "decay of its mean square")
    adam_weight_decay: float = option(0.0, "decoupled")
    adam_epsilon: float = option(1e-8, "added to the root of the mean square")
    max_grad_norm: float | None = option(None, "clip the gradient's norm")
    ema_decay: float = option(0.999, "of the averaged weights")
    ema_warmup: bool = option(True, "raise the decay as (1 + step) / (10 + step)")
    gradient_checkpointing: bool = option(False, "less memory for a third more time")
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = option("auto", "auto: the launcher's, else what is fast")
    allow_tf32: bool = option(True, "on CUDA")
    compile: bool = option(False, "torch.compile the network's repeated blocks")
    on_bad_loss: Literal["skip", "abort"] = option("skip", "NaN or exploding loss: skip the step, or abort")
    seed: int = option(0, "of weights, data and noise")
    num_threads: int | None = option(None, "CPU threads of a process [cores / processes, unless OMP_NUM_THREADS says]")

    # Output
    output_dir: Path = option(help="checkpoints, metrics.jsonl and the model")
    dtype: Literal["fp32", "fp16", "bf16"] = option("fp32", "of the weights written at the end")
    logging_dir: Path | None = option(None, "of the trackers [output_dir/logs]")
    report_to: Literal["tensorboard", "wandb", "all", "none"] = option("tensorboard", "trackers")
    tracker_project_name: str = option("resshift", "name of the run's project in the trackers")
    logging_steps: int = option(10, "steps between lines of metrics.jsonl and the trackers")
    checkpointing_steps: int | None = option(None, "steps between checkpoints")
    checkpointing_minutes: float | None = option(5.0, "minutes between checkpoints")
    checkpoints_total_limit: int = option(2, "newest checkpoints that are kept")
    resume_from_checkpoint: str | None = option(None, "latest, or a checkpoint-<step> folder", alone="latest")
    push_to_hub: bool = option(False, "publish the model at the end")
    hub_model_id: str | None = option(None, "user/name [the output folder's name]")

    # Validation
    validation_dir: Path | None = option(None, "HR photos that are not trained on")
    validation_lr_dir: Path | None = option(None, "their LR photos [degraded as in training]")
    validation_steps: int | None = option(None, "steps between validations [beside each checkpoint]")
    validation_resolution: int = option(256, "centre of the photos that is used, in px, where they are degraded")
    num_validation_images: int | None = option(None, "use the first N")

    def __post_init__(self) -> None:
        if len(self.resolution) not in (1, 2) or min(self.resolution) < 1:
            sides = " ".join(map(str, self.resolution))
            raise ValueError(f"--resolution {sides} must be one positive number of pixels, or height and width")
        counts = ("train_batch_size", "gradient_accumulation_steps", "global_batch_size", "checkpoints_total_limit",
                  "max_train_samples", "num_threads", "num_validation_images", "validation_resolution")  # fmt: skip
        for name in counts:
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"--{name} {value} must be at least 1")
        for name in ("max_grad_norm", "num_train_epochs"):
            if (value := getattr(self, name)) is not None and not value > 0:
                raise ValueError(f"--{name} {value} must be positive")
        rhythm = ("logging_steps", "checkpointing_steps", "checkpointing_minutes", "validation_steps")
        for name in (*rhythm, "dataloader_num_workers"):
            if (value := getattr(self, name)) is not None and not value >= 0:
                raise ValueError(f"--{name} {value} must not be negative")
        if self.global_batch_size and self.gradient_accumulation_steps:
            raise ValueError("--global_batch_size sets --gradient_accumulation_steps; give one of them")
        if self.train_data_dir is None and self.manifest is None:
            raise ValueError("--train_data_dir must be given, or a --manifest")
        if self.lr_data_dir and self.manifest:
            raise ValueError("--manifest names the pairs itself; leave out --lr_data_dir")
        if self.validation_lr_dir and not self.validation_dir:
            raise ValueError("--validation_lr_dir needs --validation_dir, the HR photos")
        for name in ("adam_beta1", "adam_beta2", "ema_decay"):
            if not 0 <= (value := getattr(self, name)) < 1:
                raise ValueError(f"--{name} {value} must lie in [0, 1)")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"--seed {self.seed} must be a 64-bit number")
        self.check_duration()

    def check_duration(self) -> None:
        """Raise ValueError when nothing says how long to train, or the learning rate's numbers do not go together."""
        self.limits(photos=1, samples_per_step=1)
        _ = self.rate

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the HR crops."""
        return self.resolution[0], self.resolution[-1]

    @property
    def rate(self) -> LearningRate:
        """The learning rate as a function of the progress."""
        return LearningRate(
            peak=self.learning_rate, schedule=self.lr_scheduler, warmup_steps=self.lr_warmup_steps, final=self.lr_min
        )

    @property
    def rhythm(self) -> Rhythm:
        """How often the loop logs, saves and validates."""
        return Rhythm(
            logging_steps=self.logging_steps,
            checkpointing_steps=self.checkpointing_steps,
            checkpointing_minutes=self.checkpointing_minutes,
            validation_steps=self.validation_steps,
        )

    def accumulation(self, num_processes: int) -> int:
        """Micro-batches of a step. Raises ValueError when the global batch cannot be divided so."""
        if self.global_batch_size is None:
            return self.gradient_accumulation_steps or 1
        at_once = self.train_batch_size * num_processes
        if self.global_batch_size % at_once:
            raise ValueError(
                f"--global_batch_size {self.global_batch_size} is no multiple of --train_batch_size "
                f"{self.train_batch_size} x {num_processes} processes; change one of them"
            )
        return self.global_batch_size // at_once

    def limits(self, photos: int, samples_per_step: int) -> Limits:
        """How long to train with so many photos."""
        steps = self.max_train_steps
        if self.num_train_epochs is not None:
            by_epochs = max(1, round(self.num_train_epochs * photos / samples_per_step))
            steps = by_epochs if steps is None else min(steps, by_epochs)
        return Limits(max_train_steps=steps, max_train_minutes=self.max_train_minutes)
