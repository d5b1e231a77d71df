"""Published weights of SeeSR (2311.16518) and AddSR (2404.01717): what they are called, where they are, what they need.

The two are adapters of Stable Diffusion 2 base with the same shapes, so a name has to tell them apart. Google Drive
cannot be downloaded from automatically: those files are put in place by hand. Sources: README and test scripts of
cswry/SeeSR and NJU-PCALab/AddSR. Importing this file does not import torch.
"""

from dataclasses import dataclass

from resdiff.checkpoints.by_name import named
from resdiff.checkpoints.known_bases import SD2_BASE, SD_TURBO, KnownBase

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
    return named(name, SEESR_MODELS, "model of the SeeSR family")


def seesr_by_folder(name: str) -> KnownSeeSR | None:
    """Return the model published in a folder of this name, which may have more to it; None if that is not one model.

    SeeSR-Turbo has no weights of its own: its folder is SeeSR's.
    """
    found = [model for model in (SEESR_MODELS["seesr"], SEESR_MODELS["addsr"]) if model.folder in name.lower()]
    return found[0] if len(found) == 1 else None
