"""The critic of `train/distill_resshift.py --method add`, and of rsd if asked for: small heads on features of a network.

AddSR (2404.01717) looks through DINO, and needs its weights. The frozen teacher's own encoder needs none, and sees
latents as they are: as in latent adversarial distillation (LADD, 2403.12015) it looks at images that are noised as it was
trained on. What the heads are conditioned on are the same features of the enlarged low-resolution image, pooled.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.checkpoints.dino import load_dino
from resdiff.data.diffaugment import diff_augment, draw, random_crop
from resdiff.diffusion import resshift
from resdiff.losses.addsr import GAN_WEIGHT, feature_gradient_penalty
from resdiff.losses.adversarial import hinge_discriminator, hinge_generator
from resdiff.metrics.weights import MetricWeights, find_weights
from resdiff.models.dino_features import DinoFeatures
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.projected_discriminator import Heads
from resdiff.models.swin_unet import SwinUNet
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.arguments import option
from resdiff.train.denoise import draw_noise, draw_timesteps, sample_generators

DINO = MetricWeights(
    file="dino_deitsmall16_pretrain.pth",
    url="https://dl.fbaipublicfiles.com/dino/dino_deitsmall16_pretrain/dino_deitsmall16_pretrain.pth",
    sha256="",
    licence="Apache-2.0",
)
PROJECTION_DIM = 64  # of heads and condition, as AddSR's
View = Callable[[Tensor], list[Tensor]]  # latents (B, ...) -> features (B, D, N)


@dataclass(frozen=True, kw_only=True)
class CriticArguments:
    """What the critic counts for, through what it looks, and how it learns."""

    adversarial_weight: float | None = option(None, f"add [{GAN_WEIGHT}], rsd [0]: of the critic's judgement")
    critic: Literal["teacher", "dino"] = option("teacher", "add: whose frozen features the critic judges")
    critic_weights: Path | None = option(None, f"{DINO.file} [caches, else downloaded]")
    critic_learning_rate: float | None = option(None, "add, rsd: of the critic [the student's]")
    critic_warmup_steps: int = option(0, "add: steps in which the critic alone learns")
    r1_weight: float = option(0.0, "add, rsd: of the gradient penalty on what the critic sees of photos")

    def check_critic(self) -> None:
        """Raise ValueError for values that cannot be meant."""
        if self.adversarial_weight is not None and not 0 <= self.adversarial_weight < math.inf:
            raise ValueError(f"--adversarial_weight {self.adversarial_weight} must not be negative")
        if self.critic_learning_rate is not None and not 0 < self.critic_learning_rate < math.inf:
            raise ValueError(f"--critic_learning_rate {self.critic_learning_rate} must be positive")
        if self.critic_warmup_steps < 0:
            raise ValueError(f"--critic_warmup_steps {self.critic_warmup_steps} must not be negative")
        if not 0 <= self.r1_weight < math.inf:
            raise ValueError(f"--r1_weight {self.r1_weight} must not be negative")
        if self.critic_weights is not None and self.critic != "dino":
            raise ValueError("--critic_weights is for --critic dino; the teacher's features need none")

    def find_critic(self) -> Path | None:
        """Return the file that the critic needs. Raises ValueError in one line where it is nowhere."""
        return find_weights(DINO, self.critic_weights) if self.critic == "dino" else None


@dataclass(frozen=True)
class Scene:
    """What there is to know of the photos that are judged, or imitated."""

    index: Sequence[int]  # of the samples, from which is drawn what is drawn
    lq: Tensor  # what the photos reduce to, (B, 3, h, w) in [-1, 1]
    z_y: Tensor  # encoded and upsampled (B, C, H, W)
    of_lq: Mapping[str, Tensor]  # what the network that is looked through makes of it alone


class EncoderFeatures:
    """What the encoder of a residual-shifting network sees of latents, noised to one of its steps."""

    def __init__(
        self,
        unet: PixelUNet | SwinUNet,
        scheduler: ResShiftScheduler,
        timesteps: Sequence[int] = (0,),  # one is drawn for each sample; at the last step noise hides least
        first: int = 0,  # of the encoder's features; -1: what lies deepest alone
    ) -> None:
        self.unet, self.scheduler, self.timesteps, self.first = unet, scheduler, timesteps, first
        self.dims = unet.encoder_dims[first:]

    def watch(self, scene: Scene, generators: Sequence[torch.Generator]) -> View:
        """Return the view of latents (B, C, H, W) of a scene; all are noised alike."""
        z_y, tables, config = scene.z_y, self.scheduler.train_tables, self.scheduler.config
        t, noise = draw_timesteps(generators, self.timesteps, z_y.device), draw_noise(generators, z_y)

        def view(latents: Tensor) -> list[Tensor]:
            x_t = resshift.q_sample(latents, z_y, t, noise, tables)
            model_input = resshift.scale_input(x_t, t, tables, config.input_scaling, config.data_var)
            seen = self.unet.encode(model_input, t, scene.lq, **scene.of_lq)
            return [x.float().flatten(2) for x in seen[self.first :]]

        return view


class DinoView:
    """What DINO sees of the images of latents, augmented as in AddSR: shifted, with a hole, and cropped half of the time."""

    def __init__(self, features: DinoFeatures, decode: Callable[[Tensor], Tensor]) -> None:
        self.features, self.decode = features, decode
        self.dims = features.dims

    def watch(self, scene: Scene, generators: Sequence[torch.Generator]) -> View:
        """Return the view of latents (B, C, h, w) of a scene; all are augmented alike."""
        size = self.features.vit.image_size
        states = [generator.get_state() for generator in generators]

        def augmented(image: Tensor, state: Tensor) -> Tensor:
            generator = torch.Generator()
            generator.set_state(state)
            image = diff_augment(image, draw(image.shape, generator))
            return F.interpolate(random_crop(image, size, generator=generator), (size, size), mode="area")

        def view(latents: Tensor) -> list[Tensor]:
            images = self.decode(latents).clamp(-1, 1)
            return self.features(torch.cat([augmented(x[None], s) for x, s in zip(images, states, strict=True)]))

        return view


def open_features(
    args: CriticArguments, teacher: PixelUNet | SwinUNet, pipe: ResShiftPipeline
) -> EncoderFeatures | DinoView:
    """Return what the critic looks through. Raises ValueError in one line for weights that are missing or others'."""
    weights = args.find_critic()
    if weights is None:
        return EncoderFeatures(teacher, pipe.scheduler)
    return DinoView(DinoFeatures(load_dino(weights)).to(teacher.device), pipe.decode)


def build_heads(features: EncoderFeatures | DinoView) -> Heads:
    """Return the critic's heads for these features, with random weights."""
    return Heads(features.dims, sum(features.dims), PROJECTION_DIM)


class Critic:
    """Hinge losses of the heads on the features; R1 on those of photos if asked for."""

    def __init__(
        self,
        features: EncoderFeatures | DinoView,
        heads: Heads,
        prepared: nn.Module,  # the heads as accelerate prepared them
        seed: int,
        r1_weight: float = 0.0,
    ):
        self.features, self.heads, self.prepared, self.seed, self.r1_weight = features, heads, prepared, seed, r1_weight

    def of_student(self, made: Tensor, scene: Scene) -> Tensor:
        """Return the student's loss, a scalar: call it, and backward, within `frozen(heads)`."""
        view, condition = self._look(scene)
        return hinge_generator(torch.cat(self.heads(view(made), condition), dim=1).float())

    def of_critic(self, made: Tensor, real: Tensor, scene: Scene) -> dict[str, Tensor]:
        """Return the scalars "loss" and its parts for latents of photos and what was made for them."""
        view, condition = self._look(scene)
        with torch.no_grad():
            both = [torch.cat(pair) for pair in zip(view(real), view(made), strict=True)]
        if self.r1_weight:
            both = [x.requires_grad_() for x in both]
        logits = self.prepared(both, torch.cat([condition, condition]))
        of_photos, of_student = torch.cat(logits, dim=1).float().chunk(2)
        hinge = hinge_discriminator(of_photos, of_student)
        if not self.r1_weight:
            return {"loss": hinge}
        penalty = feature_gradient_penalty([x[: len(made)] for x in logits], both)
        return {"loss": hinge + self.r1_weight * penalty, "r1": penalty}

    def _look(self, scene: Scene) -> tuple[View, Tensor]:
        """Return the view of a scene, and the condition: what it shows of the enlarged low-resolution images."""
        view = self.features.watch(scene, sample_generators(scene.index, self.seed, "critic"))
        with torch.no_grad():
            condition = torch.cat([x.mean(dim=2) for x in view(scene.z_y)], dim=1)
        return view, F.layer_norm(condition, condition.shape[1:])
