"""Published checkpoints of the ResShift family: what the files are called, where they are, how they are meant to run.

A checkpoint's shapes tell the architecture, not the noise schedule, the task or the licence: this table does. Sources:
README, configs/ and inference scripts of zsyOAOA/ResShift (2307.12348 and, for the 4-step models, 2403.07319) and
wyf0912/SinSR (2311.14760). Importing this file does not import torch.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from resdiff.checkpoints.by_name import named

Condition = Literal["resshift", "sinsr"]

RELEASES = "https://github.com/zsyOAOA/ResShift/releases/download"
SINSR_RELEASE = "https://github.com/wyf0912/SinSR/releases/download/v1.0"
BUNDLED = "resdiff-small"  # the model that ships with the package
BUNDLED_LICENCE = "Apache-2.0"
S_LAB = "NTU S-Lab License 1.0, non-commercial"
SUFFIXES = (".pth", ".safetensors", ".ckpt", ".pt")


@dataclass(frozen=True, kw_only=True)
class KnownAutoencoder:
    """A published first stage."""

    file: str
    factor: int  # image side over latent side
    latent_channels: int
    ch: int = 128  # width of the first level; the following are as in `resdiff.models.vq.VQAutoencoder`
    ch_mult: tuple[int, ...] = (1, 2, 4)
    num_res_blocks: tuple[int, ...] = (2, 2, 2)
    n_embed: int = 8192  # codes

    @property
    def url(self) -> str:
        """Where the file is published."""
        return f"{RELEASES}/v2.0/{self.file}"


@dataclass(frozen=True, kw_only=True)
class KnownSchedule:
    """Keyword arguments of `ResShiftScheduler`; the defaults are the 15-step models'."""

    num_train_timesteps: int = 15
    min_noise_level: float = 0.04
    etas_end: float = 0.99
    kappa: float = 2.0
    power: float = 0.3
    cap_start: bool = False
    deterministic: bool = False


VQ_F4 = KnownAutoencoder(file="autoencoder_vq_f4.pth", factor=4, latent_channels=3)
VQ_F4_FACE = KnownAutoencoder(file="celeba256_vq_f4_dim3_face.pth", factor=4, latent_channels=3)
VQ_F8_FACE = KnownAutoencoder(
    file="ffhq512_vq_f8_dim8_face.pth",
    factor=8,
    latent_channels=8,
    ch=64,
    ch_mult=(1, 2, 4, 8),
    num_res_blocks=(1, 2, 3, 4),
    n_embed=4096,
)
AUTOENCODERS = (VQ_F4, VQ_F4_FACE, VQ_F8_FACE)

STEPS_15 = KnownSchedule()
STEPS_4 = KnownSchedule(num_train_timesteps=4, min_noise_level=0.2)
# The cap of the v1.0 code and of SinSR does not bite at this noise level; it is kept as published.
SINSR = KnownSchedule(cap_start=True, deterministic=True)


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A published network and the settings it is run with."""

    name: str
    description: str  # one line
    files: tuple[str, ...]  # the published name first, then other names the same file goes by
    release: str  # URL of the folder of files[0]
    schedule: KnownSchedule
    num_inference_steps: int
    autoencoder: KnownAutoencoder = VQ_F4
    scale: int = 4  # output side over input side
    condition: Condition = "resshift"  # how the network takes the LR image
    cond_mask: bool = False  # takes an inpainting mask
    tile_size: int = 512  # published side of a tile, in LR pixels; larger images are cut
    licence: str = S_LAB

    @property
    def url(self) -> str:
        """Where the file is published."""
        return f"{self.release}/{self.files[0]}"

    @property
    def lq_factor(self) -> int:
        """LR side over latent side, as the network takes it."""
        return self.autoencoder.factor // self.scale


_MODELS = (
    KnownModel(
        name="resshift-realsrx4-v1",
        description="real-world x4, 15 steps, NeurIPS 2023 (300k iterations)",
        files=("resshift_realsrx4_s15_v1.pth", "resshift_realsrx4_s15.pth"),
        release=f"{RELEASES}/v2.0",
        schedule=STEPS_15,
        num_inference_steps=15,
    ),
    KnownModel(
        name="resshift-bicsrx4-opencv-s15",
        description="bicubic x4 (OpenCV, not antialiased), 15 steps",
        files=("resshift_bicsrx4_opencv_s15.pth",),
        release=f"{RELEASES}/v1.0",
        schedule=KnownSchedule(kappa=1.0),
        num_inference_steps=15,
    ),
    KnownModel(
        name="resshift-bicsrx4-matlab-s15",
        description="bicubic x4 (MATLAB, antialiased), 15 steps",
        files=("resshift_bicsrx4_matlab_s15.pth",),
        release=f"{RELEASES}/v1.0",
        schedule=STEPS_15,
        num_inference_steps=15,
    ),
    KnownModel(
        name="sinsr-v1",
        description="real-world x4 in one step, distilled from ResShift v1",
        files=("SinSR_v1.pth",),
        release=SINSR_RELEASE,
        schedule=SINSR,
        num_inference_steps=1,
        condition="sinsr",
    ),
    KnownModel(
        name="sinsr-v2",
        description="real-world x4 in one step, stopped early: the model of SinSR's RealSR table",
        files=("SinSR_v2.pth",),
        release=SINSR_RELEASE,
        schedule=SINSR,
        num_inference_steps=1,
        condition="sinsr",
    ),
    KnownModel(
        name="resshift-realsrx4-v2",
        description="real-world x4, 15 steps, trained longer than v1 (500k iterations)",
        files=("resshift_realsrx4_s15_v2.pth",),
        release=f"{RELEASES}/v2.0",
        schedule=STEPS_15,
        num_inference_steps=15,
    ),
    KnownModel(
        name="resshift-realsrx4-v3",
        description="real-world x4, 4 steps, journal version",
        files=("resshift_realsrx4_s4_v3.pth",),
        release=f"{RELEASES}/v2.0",
        schedule=STEPS_4,
        num_inference_steps=4,
    ),
    KnownModel(
        name="resshift-bicsrx4",
        description="bicubic x4 (MATLAB, antialiased), 4 steps",
        files=("resshift_bicsrx4_s4.pth",),
        release=f"{RELEASES}/v2.0",
        schedule=STEPS_4,
        num_inference_steps=4,
    ),
    KnownModel(
        name="resshift-inpaint-imagenet",
        description="inpainting of natural images, 4 steps",
        files=("resshift_inpainting_imagenet_s4.pth", "resshift_inpaint_imagenet_s4.pth"),
        release=f"{RELEASES}/v2.0",
        schedule=STEPS_4,
        num_inference_steps=4,
        scale=1,
        cond_mask=True,
        tile_size=1024,
    ),
    KnownModel(
        name="resshift-inpaint-face",
        description="inpainting of faces, 4 steps",
        files=("resshift_inpainting_face_s4.pth", "resshift_inpaint_face_s4.pth"),
        release=f"{RELEASES}/v2.0",
        schedule=STEPS_4,
        num_inference_steps=4,
        autoencoder=VQ_F4_FACE,
        scale=1,
        cond_mask=True,
        tile_size=1024,
    ),
    KnownModel(
        name="resshift-faceir",
        description="restoration of aligned 512x512 faces, 4 steps",
        files=("resshift_faceir_s4.pth",),
        release=f"{RELEASES}/v2.0",
        schedule=STEPS_4,
        num_inference_steps=4,
        autoencoder=VQ_F8_FACE,
        scale=1,
        tile_size=1024,
    ),
)

KNOWN: dict[str, KnownModel] = {model.name: model for model in _MODELS}  # in the order of publication


def bundled_folder() -> Path:
    """Return the folder of the model that ships with the package."""
    return Path(str(files("resdiff"))) / "weights" / BUNDLED


def known_by_name(name: str) -> KnownModel:
    """Return the model called `name`; raises ValueError that lists the names, the closest first."""
    return named(name, KNOWN, "model")


def known_by_file(path: str | Path) -> KnownModel | None:
    """Return the model published under this file name; case and checkpoint suffix do not matter."""
    name = stem(Path(path).name).lower()
    return next((model for model in _MODELS if name in (stem(file).lower() for file in model.files)), None)


def autoencoder_by_file(path: str | Path) -> KnownAutoencoder | None:
    """Return the autoencoder published under this file name; case and checkpoint suffix do not matter."""
    name = stem(Path(path).name).lower()
    return next((autoencoder for autoencoder in AUTOENCODERS if stem(autoencoder.file).lower() == name), None)


def stem(name: str) -> str:
    """Return a file name without its checkpoint suffix; other dots are part of the name."""
    suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
    return name.removesuffix(name[len(name) - len(suffix) :])
