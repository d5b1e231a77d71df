"""Published weights of StableSR (2305.07015): what they are called, where they are, how they are meant to run.

All have the same names and shapes; what a network predicts, what it was trained on and the licence only the name tells.
Sources: README, configs/ and scripts/ of IceClear/StableSR; for the adapters by themselves pkuliyi2015/sd-webui-stablesr.
Importing this file does not import torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resdiff.checkpoints.by_name import named
from resdiff.checkpoints.known import stem
from resdiff.checkpoints.known_bases import SD21, SD21_BASE, SD_TURBO, KnownBase

STABLESR = "https://huggingface.co/Iceclear/StableSR"
S_LAB = "S-Lab License 1.0, non-commercial"
FACE = "face"  # in the names of files for faces


@dataclass(frozen=True, kw_only=True)
class KnownWeights:
    """A published file."""

    files: tuple[str, ...]  # the published name first, then other names the same content goes by
    is_downloadable: bool = True  # False: the address is not known

    @property
    def file(self) -> str:
        """The name under which it is fetched."""
        return self.files[0]

    @property
    def url(self) -> str:
        """Where the file is published, or the page on which to look for it."""
        return f"{STABLESR}/resolve/main/{self.file}" if self.is_downloadable else STABLESR


CFW = KnownWeights(files=("vqgan_cfw_00011.ckpt", "vqgan_finetune_00011.ckpt"))
FACE_CFW = KnownWeights(files=("face_vqgan_cfw_00011.ckpt",), is_downloadable=False)


@dataclass(frozen=True, kw_only=True)
class KnownStableSR:
    """A published model: an adapter of Stable Diffusion, most often with the Stable Diffusion in the same file."""

    name: str
    description: str  # one line
    marks: tuple[str, ...]  # parts of a file's name that tell it
    weights: KnownWeights  # with Stable Diffusion
    adapters: tuple[str, ...] = ()  # files of the adapter alone
    cfw: KnownWeights | None = CFW  # None: none was trained for it
    base: KnownBase = SD21_BASE
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    num_inference_steps: int = 200
    guidance_scale: float = 1.0
    fidelity: float = 0.5
    process_size: int = 512  # px
    color_fix: Literal["adain", "wavelet"] = "adain"
    for_faces: bool = False
    licence: str = S_LAB
    url: str = STABLESR
    family: str = "StableSRPipeline"  # the class that runs it
    scale: int = 4  # output side over input side

    @property
    def files(self) -> tuple[str, ...]:
        """Names of files that hold the adapter."""
        return (*self.weights.files, *self.adapters)


_MODELS = (
    KnownStableSR(
        name="stablesr",
        description="real-world x4 by Stable Diffusion 2.1's prior, IJCV 2024, 200 steps",
        marks=("000117",),
        weights=KnownWeights(files=("stablesr_000117.ckpt",)),
        adapters=("stablesr_webui_sd-v2-1-512-ema-000117.ckpt",),
    ),
    KnownStableSR(
        name="stablesr-turbo",
        description="StableSR on SD-Turbo, 4 steps",
        marks=("turbo",),
        weights=KnownWeights(files=("stablesr_turbo.ckpt",)),
        base=SD_TURBO,
        num_inference_steps=4,
        color_fix="wavelet",
    ),
    KnownStableSR(
        name="stablesr-768v",
        description="StableSR for results of 768 px and more, predicts v, 200 steps",
        marks=("768",),
        weights=KnownWeights(files=("stablesr_768v_000139.ckpt",)),
        adapters=("webui_768v_139.ckpt",),
        cfw=None,
        base=SD21,
        prediction_type="v_prediction",
        fidelity=0.0,
        process_size=768,
    ),
    KnownStableSR(
        name="stablesr-face",
        description="StableSR for faces, 200 steps; whether it predicts v, as its yaml says, is not verified",
        marks=(FACE,),
        weights=KnownWeights(files=("face_stablesr_000050.ckpt",), is_downloadable=False),
        cfw=FACE_CFW,
        # v2-finetune_face_T_512.yaml says v, and goes on from stablesr_000117.ckpt, which predicts epsilon
        prediction_type="v_prediction",
        for_faces=True,
    ),
)

STABLESR_MODELS: dict[str, KnownStableSR] = {model.name: model for model in _MODELS}


def stablesr_by_name(name: str) -> KnownStableSR:
    """Return the model called `name`; raises ValueError that lists the names, the closest first."""
    return named(name, STABLESR_MODELS, "model of the StableSR family")


def stablesr_by_file(path: str | Path) -> KnownStableSR | None:
    """Return the model that the name of an adapter's file tells, which may have more to it; None if that is not one."""
    name = stem(Path(path).name).lower()
    found = [model for model in _MODELS if any(mark in name for mark in model.marks)]
    return found[0] if len(found) == 1 else None


def cfw_is_for_faces(path: str | Path) -> bool | None:
    """Whether a file of CFW is the one for faces, by its name; None: the name does not tell."""
    name = stem(Path(path).name).lower()
    if FACE in name:
        return True
    return False if name in (stem(file) for file in CFW.files) else None
