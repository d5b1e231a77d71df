"""Train the small residual-shifting model from a folder of photos.

    accelerate launch train/resshift.py --train_data_dir photos --output_dir runs/x4 --max_train_minutes 90
    python train/resshift.py --train_data_dir photos --output_dir runs/x4 --max_train_minutes 90 --resume_from_checkpoint

The method is ResShift (2307.12348) in pixel space: HR crops are reduced by antialiased bicubic, the chain runs between
the crop and the bicubic enlargement of its reduction, and the network predicts the residual. `output_dir` ends up as a
folder that `SRPipeline.from_pretrained` opens, with the EMA weights.
"""

import argparse
import logging
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from torch import Tensor

from resdiff.data.photos import load_photos, random_crops
from resdiff.devices import DTYPES
from resdiff.diffusion import resshift
from resdiff.models.pixel_unet import PixelUNet
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.resize import bicubic
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.loop import Schedule, fit


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Command line of this script, checked before anything is built."""

    train_data_dir: Path
    output_dir: Path
    validation_dir: Path | None = None  # HR photos, not trained on: their PSNR is reported beside each checkpoint
    max_train_steps: int | None = None
    max_train_minutes: float | None = None
    checkpointing_minutes: float = 5.0
    resume_from_checkpoint: bool = False
    channels: tuple[int, ...] = (64, 128, 256)
    num_blocks: tuple[int, ...] = (3, 2, 2)
    resolution: int = 128  # side of the HR crops, px
    train_batch_size: int = 16
    learning_rate: float = 1e-3
    ema_decay: float = 0.999
    last_step_share: float = 0.3  # of the draws of t that are forced to T-1, the step that one-step sampling uses
    mixed_precision: str = "no"
    dtype: str = "fp16"  # of the weights written at the end: a name of resdiff.devices.DTYPES
    seed: int = 0

    def __post_init__(self) -> None:
        multiple = 4 * 2 ** (len(self.channels) - 1)
        if self.resolution % multiple:
            raise ValueError(f"--resolution {self.resolution} must be a multiple of {multiple}")
        if self.train_batch_size < 1:
            raise ValueError(f"--train_batch_size {self.train_batch_size} must be at least 1")
        if not 0 <= self.last_step_share <= 1:
            raise ValueError(f"--last_step_share {self.last_step_share} must lie in [0, 1]")
        if self.dtype not in DTYPES:
            raise ValueError(f"--dtype {self.dtype} is unknown; choose one of {', '.join(DTYPES)}")
        _ = self.schedule

    @property
    def schedule(self) -> Schedule:
        """How long to train; raises ValueError when nothing says."""
        return Schedule(
            max_train_steps=self.max_train_steps,
            max_train_minutes=self.max_train_minutes,
            checkpointing_minutes=self.checkpointing_minutes,
        )


def parse_args(input_args: list[str] | None = None) -> Arguments:
    """Read the command line into `Arguments`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    number_or_none = {"max_train_steps": int, "max_train_minutes": float}
    for field in fields(Arguments):
        name = f"--{field.name}"
        if field.name == "resume_from_checkpoint":
            parser.add_argument(name, action="store_true")
        elif field.name in ("channels", "num_blocks"):
            parser.add_argument(name, type=int, nargs="+", default=field.default)
        elif field.name in ("train_data_dir", "output_dir"):
            parser.add_argument(name, type=Path, required=True)
        elif field.name == "validation_dir":
            parser.add_argument(name, type=Path)
        else:
            parser.add_argument(name, type=number_or_none.get(field.name, type(field.default)), default=field.default)
    parsed = vars(parser.parse_args(input_args))
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in parsed.items()}
    try:
        return Arguments(**values)
    except ValueError as error:
        parser.error(str(error))


def build_scheduler() -> ResShiftScheduler:
    """Return the pixel-space schedule: T = 4, noise up to a std of 0.25, that of the residual of natural photos."""
    return ResShiftScheduler(
        num_train_timesteps=4,
        min_noise_level=0.0316,
        etas_end=1.0,
        kappa=0.25,
        power=0.3,
        prediction_type="residual",
        data_var=0.25,
        respacing="trailing",
    )


def build_pipeline(unet: PixelUNet, scheduler: ResShiftScheduler) -> ResShiftPipeline:
    """Return the pipeline that runs these in pixel space."""
    return ResShiftPipeline(unet, None, scheduler, padding_multiple=unet.size_multiple, upsampling="pil")


def degrade(hr: Tensor, scale: int) -> Tensor:
    """Reduce HR crops (B, 3, H, W) in [-1, 1] by antialiased bicubic and round to 8 bits, as an image file would."""
    size = (hr.shape[-2] // scale, hr.shape[-1] // scale)
    lr = bicubic(hr, size, "pil").clamp(-1, 1)
    return torch.round((lr + 1) * 127.5) / 127.5 - 1


def diffusion_loss(
    unet: torch.nn.Module, scheduler: ResShiftScheduler, hr: Tensor, lr: Tensor, t: Tensor, noise: Tensor
) -> Tensor:
    """Return the L1 error of the predicted x_0: the scalar loss of one batch."""
    y = bicubic(lr, (hr.shape[-2], hr.shape[-1]), "pil")
    config, tables = scheduler.config, scheduler.train_tables
    x_t = resshift.q_sample(hr, y, t, noise, tables)
    model_input = resshift.scale_input(x_t, t, tables, config.input_scaling, config.data_var)
    output = unet(model_input, t, lr)
    return F.l1_loss(resshift.predict_x0(output.float(), x_t, y, t, tables, config.prediction_type), hr)


@torch.no_grad()
def validation_psnr(unet: PixelUNet, scheduler: ResShiftScheduler, photos: list[Tensor]) -> dict[str, float]:
    """Return the mean RGB PSNR of one-step results on the centres of HR photos."""
    pipe = build_pipeline(unet, ResShiftScheduler.from_config(scheduler.config))
    pipe.set_progress_bar_config(disable=True)
    total = 0.0
    for photo in photos:
        top, left = ((side - 256) // 2 for side in photo.shape[1:])
        hr = photo[None, :, top : top + 256, left : left + 256].float() / 255
        lr = ((degrade(hr * 2 - 1, 4) + 1) / 2).to(pipe.device)
        sr = pipe(lr, num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="pt").images
        total += float(-10 * torch.log10(F.mse_loss(sr.cpu(), hr)))
    return {"psnr_rgb": total / len(photos)}


def main(args: Arguments) -> None:
    """Train and write the pipeline folder."""
    photos = load_photos(args.train_data_dir, min_side=args.resolution)
    held_out = load_photos(args.validation_dir, min_side=256) if args.validation_dir else []
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    device = accelerator.device
    torch.manual_seed(args.seed)

    unet = PixelUNet(channels=args.channels, num_blocks=args.num_blocks).to(memory_format=torch.channels_last)
    scheduler = build_scheduler()
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    unet, optimizer = accelerator.prepare(unet.train(), optimizer)
    parameters = [p for p in unet.parameters() if p.requires_grad]
    ema = EMAModel(parameters, decay=args.ema_decay)
    ema.to(device)

    def step(index: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(
            args.seed + 1_000_003 * (index * accelerator.num_processes + accelerator.process_index)
        )
        hr = random_crops(photos, args.train_batch_size, args.resolution, generator).to(device)
        t = torch.randint(len(scheduler), (len(hr),), generator=generator)
        forced = torch.rand(len(hr), generator=generator) < args.last_step_share
        t = torch.where(forced, len(scheduler) - 1, t).to(device)
        noise = torch.randn(hr.shape, generator=generator).to(device)
        with accelerator.autocast():
            loss = diffusion_loss(unet, scheduler, hr, degrade(hr, 4), t, noise)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.detach()}

    fit(
        step,
        accelerator=accelerator,
        optimizer=optimizer,
        learning_rate=args.learning_rate,
        schedule=args.schedule,
        output_dir=args.output_dir,
        ema=ema,
        parameters=parameters,
        resume=args.resume_from_checkpoint,
        validate=(lambda: validation_psnr(accelerator.unwrap_model(unet), scheduler, held_out)) if held_out else None,
    )
    if accelerator.is_main_process:
        ema.copy_to(parameters)
        final = accelerator.unwrap_model(unet).to(DTYPES[args.dtype])
        build_pipeline(final, scheduler).save_pretrained(args.output_dir)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        main(parse_args())
    except ValueError as error:
        sys.exit(f"error: {error}")
