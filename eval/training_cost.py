"""What training costs: the measurements that `eval/bench_training.py` puts side by side.

Training runs what train/resshift.py itself assembles: its networks, data, degradation, loss, update and EMA; only
checkpoints, trackers and validation are left out. The FLOPs of one image are counted, not estimated.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from resdiff.data.training_set import Batch
from resdiff.eval.harness.cost import reset_peak, resident_mib
from resdiff.models.vq import VQAutoencoder
from resdiff.train.ema import Ema
from resdiff.train.progress import Progress
from resdiff.train.recipe import build_unet, construct
from resdiff.train.resshift import DEFAULT_RECIPE, Arguments, assemble, parse_args
from resdiff.train.session import Session, SessionArguments

V1, SMALL = "realsr_v1", "resdiff_small"
SMALL_TEACHER = "resdiff_small_teacher"  # the bundled model's network with fifteen steps
PHOTOS, PHOTO_SIZE = 64, (375, 500)  # random photos: how many, height and width (the usual size in ImageNet), px
PLACE = {"memory": "in memory", "disk": "in files"}
SMALL_STEPS = 10  # steps of the bundled recipe for one of the v1 recipe
TINY_PIXELS = {
    "unet": {"_class_name": "PixelUNet", "channels": [8, 12], "num_blocks": [1, 1], "embed_dim": 16},
    "resolution": (32,),
}
TINY: dict[str, dict[str, Any]] = {  # what --smoke makes of the recipes
    V1: {
        "unet": {
            "_class_name": "SwinUNet", "image_size": 16, "model_channels": 32, "num_res_blocks": [1],
            "channel_mult": [1], "attention_resolutions": [16], "num_head_channels": 16, "swin_embed_dim": 32,
            "window_size": 4, "mlp_ratio": 2, "lq_size": 16,
        },
        "vae": {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "n_embed": 4},
        "resolution": (64,),
    },
    SMALL: TINY_PIXELS,
    SMALL_TEACHER: TINY_PIXELS,
}  # fmt: skip
Settable = TypeVar("Settable", bound=SessionArguments)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line decides for all cases."""

    train_data_dir: Path | None  # None: random photos
    batch: int  # of the v1 recipe; the bundled one keeps its own
    degradation_batch: int
    steps: int  # that count, of the v1 recipe
    warmup: int  # steps that do not count
    repeats: int  # of what is compared
    smoke: bool  # networks that show nothing but that the script runs


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe and how it is run."""

    recipe: str  # name in train/recipes, without its ending
    precision: Literal["auto", "no"] = "auto"
    photos_in: Literal["memory", "disk"] = "memory"
    compile: bool = False

    @property
    def label(self) -> str:
        """How the case is called in the tables."""
        return f"{self.recipe}, photos {PLACE[self.photos_in]}{', compiled' if self.compile else ''}"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the steps of a case took, in one repetition or several."""

    case: Case
    device: str
    precision: str  # no, bf16 or fp16: what "auto" came to
    threads: int  # of the CPU
    batch: int
    steps: int  # of each repetition
    seconds: list[float]  # of each repetition: all its steps, waiting included
    waited: list[float]  # of these, for data
    peak_mib: float  # of the GPU's allocator, or of the process above its size after import

    @property
    def step_seconds(self) -> float:
        """Time of a step in the median repetition; stalls in some of its steps count."""
        return statistics.median(self.seconds) / self.steps

    @property
    def images_per_second(self) -> float:
        """Images of a step over its time."""
        return self.batch / self.step_seconds

    @property
    def data_wait(self) -> float:
        """Share of the time of all repetitions that was spent waiting for data."""
        return sum(self.waited) / sum(self.seconds)


# ---- The counted cost of one image


@dataclass(frozen=True, kw_only=True)
class Cost:
    """FLOPs of one image, counted (a multiply-add is two); the degradation is not among them."""

    encoder: int  # HR and enlarged LR, forward
    unet: int  # forward and backward

    @property
    def tflop(self) -> float:
        """Both, in TFLOP."""
        return (self.encoder + self.unet) / 1e12


def counted_cost(args: Arguments) -> Cost:
    """Count a training step of a latent recipe on one image, on the meta device: nothing is computed."""
    with torch.device("meta"):
        vae, unet = construct(VQAutoencoder, args.vae or {}, "vae"), build_unet(args.unet)
        height, width = args.crop
        images = torch.empty(2, 3, height, width)
        with torch.no_grad(), FlopCounterMode(display=False) as encoding:
            latents = vae.encode(images)
        x, t, lq = latents[:1], torch.zeros(1), images[:1, :, : height // args.scale, : width // args.scale]
        with FlopCounterMode(display=False) as training:
            unet(x, t, lq).sum().backward()
    return Cost(encoder=encoding.get_total_flops(), unet=training.get_total_flops())


# ---- Training, as train/resshift.py does it


def write_photos(folder: Path) -> None:
    """Write random photos: noise at several scales, so that they compress about as photos do."""
    folder.mkdir()
    random = np.random.default_rng(0)
    height, width = PHOTO_SIZE
    for i in range(PHOTOS):
        photo = np.zeros((height, width, 3), np.float32)
        for coarse in (4, 16, 64):
            noise = random.integers(0, 256, (height // coarse + 1, width // coarse + 1, 3), dtype=np.uint8)
            photo += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)) / 3
        Image.fromarray(photo.astype(np.uint8)).save(folder / f"{i:03}.jpg", quality=90)


def command(case: Case, settings: Settings, folder: Path) -> list[str]:
    """Return the flags with which a training script is told of a case; photos may be in `folder`."""
    given = {
        "recipe": DEFAULT_RECIPE.parent / f"{case.recipe}.yaml",
        "train_data_dir": settings.train_data_dir or folder / "photos",
        "output_dir": folder / "run",  # nothing is written there
        "mixed_precision": case.precision,
        "photos_in": case.photos_in,
        "max_train_steps": 1_000_000,
        "report_to": "none",
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def in_one_batch(args: Settable, batch: int) -> Settable:
    """Return the settings with a batch that is not accumulated; a pair pool keeps the recipe's number of batches."""
    return replace(
        args,
        train_batch_size=batch,
        global_batch_size=None,
        gradient_accumulation_steps=None,
        pair_pool=args.pair_pool // args.train_batch_size * batch,
    )


def training_arguments(case: Case, settings: Settings, folder: Path) -> Arguments:
    """Return the training script's settings for a case; `make_files` makes what they name in `folder`."""
    args = parse_args(command(case, settings, folder))
    args = in_one_batch(args, settings.batch if case.recipe == V1 else args.train_batch_size)
    args = replace(args, compile=case.compile, **(TINY[case.recipe] if settings.smoke else {}))
    return args if args.vae is None else replace(args, pretrained_vae=folder / "vae")


def make_files(args: Arguments, settings: Settings) -> None:
    """Write random photos, unless there are others, and a random autoencoder, if the recipe has one."""
    if settings.train_data_dir is None:
        write_photos(args.train_data_dir)
    if args.pretrained_vae is not None:
        random_autoencoder(args).save_pretrained(args.pretrained_vae)


def random_autoencoder(args: Arguments) -> VQAutoencoder:
    """Return the recipe's autoencoder with random weights."""
    torch.manual_seed(0)
    return construct(VQAutoencoder, args.vae or {}, "vae")


class Assembled(Protocol):
    """What a training script puts together."""

    @property
    def session(self) -> Session: ...

    @property
    def ema(self) -> Ema: ...

    def step(self, micro_batches: Sequence[Batch], progress: Progress) -> dict[str, float]: ...


def measure_training(case: Case, settings: Settings) -> Training:
    """Train for a few steps, as `resdiff.train.loop.fit` does; for a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(case, settings, Path(folder))
        make_files(args, settings)
        steps = settings.steps * (SMALL_STEPS if case.recipe == SMALL else 1)
        return timed(case, lambda: assemble(args), steps, settings.warmup)


def timed(case: Case, assemble: Callable[[], Assembled], steps: int, warmup: int) -> Training:
    """Put a run together and do its first steps, `warmup` of which do not count."""
    before = resident_mib("VmRSS")
    reset_peak(torch.device("cpu"))
    run = assemble()
    batches, progress = run.session.batches(first=0), Progress()
    seconds, waited = [], []
    for _ in range(warmup + steps):
        # A step waits for its loss, so that a GPU is never more than the optimizer and EMA behind
        started = time.perf_counter()
        micro_batches = next(batches)
        waited.append(time.perf_counter() - started)
        run.step(micro_batches, progress)
        run.ema.step()
        progress.step += 1
        seconds.append(time.perf_counter() - started)
    device = run.session.accelerator.device.type
    return Training(
        case=case,
        device=device,
        precision=run.session.accelerator.mixed_precision,
        threads=torch.get_num_threads(),
        batch=run.session.samples_per_step,
        steps=steps,
        seconds=[sum(seconds[warmup:])],
        waited=[sum(waited[warmup:])],
        peak_mib=torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else resident_mib("VmHWM") - before,
    )


def together(runs: Sequence[Training]) -> Training:
    """Return repetitions of one case as one."""
    seconds, waited = ([x for run in runs for x in getattr(run, name)] for name in ("seconds", "waited"))
    return replace(runs[0], seconds=seconds, waited=waited, peak_mib=max(run.peak_mib for run in runs))
