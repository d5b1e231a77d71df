"""What `train/distill_resshift.py --method rsd` does in one step: updates of a fake network, then one of the student.

Residual Shifting Distillation (2503.13358); the losses and why they are what they are: `resdiff.losses.rsd`. The student
learns at all of its steps and can be used with fewer: trained with 4 and used with 1 is what is published. It gets no
noise map of its own (published with a zero-initialised input for one), so that it stays the teacher's network: x_T is
what makes it a sampler. The adversarial head (`adversarial_weight`, published 3e-3) looks through the fake's deepest
features at re-noised images, and learns after each update of the fake, which does not learn from it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from resdiff.data.training_set import Batch
from resdiff.losses.diffusion import mse_per_sample
from resdiff.losses.perceptual import Lpips
from resdiff.losses.rsd import fake_loss, frozen, multi_step_input, student_loss
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.train.arguments import option
from resdiff.train.critic import Critic, CriticArguments, Scene
from resdiff.train.denoise import Denoise, draw_noise, draw_timesteps, sample_generators
from resdiff.train.progress import Progress
from resdiff.train.update import Update


@dataclass(frozen=True, kw_only=True)
class RsdArguments(CriticArguments):
    """The game of student and fake."""

    fake_updates: int = option(5, "rsd: of the fake network in a step, each on micro-batches of its own")
    fake_learning_rate: float | None = option(None, "rsd: of the fake network [the student's]")
    fake_warmup_steps: int = option(
        50, "rsd: steps in which the fake alone learns; at first the student's gradient is 0"
    )
    detached: bool = option(False, "rsd: no gradient through x_t, as in score distillation")
    lpips_weight: float = option(0.0, "rsd: of LPIPS (VGG) between the student's image and the photo")
    lpips_weights: Path | None = option(None, "torchvision's vgg16-397923af.pth [caches, else downloaded]")

    def check_rsd(self) -> None:
        """Raise ValueError for values that cannot be meant."""
        if self.fake_updates < 1:
            raise ValueError(f"--fake_updates {self.fake_updates} must be at least 1")
        if self.fake_learning_rate is not None and not 0 < self.fake_learning_rate < math.inf:
            raise ValueError(f"--fake_learning_rate {self.fake_learning_rate} must be positive")
        if self.fake_warmup_steps < 0:
            raise ValueError(f"--fake_warmup_steps {self.fake_warmup_steps} must not be negative")
        if not 0 <= self.lpips_weight < math.inf:
            raise ValueError(f"--lpips_weight {self.lpips_weight} must not be negative")


@dataclass(frozen=True)
class Made:
    """What the student made of a batch, and where the networks are to be compared on it."""

    index: Sequence[int]  # of the samples
    hr: Tensor  # (B, 3, H, W) in [-1, 1]
    lq: Tensor
    z_gt: Tensor  # encoded (B, C, h, w)
    z_y: Tensor
    x0: Tensor
    t: Tensor  # int64 (B,), any of the teacher's steps
    noise: Tensor


class RsdLosses:
    """The losses of both players on one micro-batch.

    Noise and timesteps are drawn per sample, from its global index; the two players' draws share nothing.
    """

    def __init__(
        self,
        args: RsdArguments,
        pipe: ResShiftPipeline,  # the student's, at its steps
        unet: nn.Module,  # its network as accelerate prepared it
        teacher: nn.Module,
        fake: nn.Module,
        prepared_fake: nn.Module,
        seed: int,
        device: torch.device,
        critic: Critic | None = None,  # through the fake
    ):
        self.args, self.pipe, self.unet, self.seed = args, pipe, unet, seed
        self.teacher, self.fake, self.prepared_fake = teacher, fake, prepared_fake
        self.critic = critic
        self.timesteps = pipe.scheduler.timesteps.tolist()
        self.lpips = Lpips(args.lpips_weights).to(device) if args.lpips_weight else None

    @torch.no_grad()
    def make(self, batch: Batch) -> Made:
        """Return what the student makes of a batch for the fake, and the adversarial head, to learn from."""
        return self._make(batch, "fake", self.pipe.unet)

    def of_fake(self, made: Made) -> dict[str, Tensor]:
        """Return the scalar "loss" of the fake on what the student made."""
        fake = self._denoise(self.fake, made, self.prepared_fake)
        return {"loss": fake_loss(fake, made.x0, **self._compared(made)).mean()}

    def of_student(self, batch: Batch) -> dict[str, Tensor]:
        """Return the scalars "loss", its parts, and "mse", the distance to the photo, which is not minimised.

        Call it, and backward, within `frozen(fake)`, and the critic's heads.
        """
        made = self._make(batch, "student", self.unet)
        with torch.no_grad():  # looks at the LR images alone
            teacher, fake = self._denoise(self.teacher, made), self._denoise(self.fake, made)
        game = student_loss(teacher, fake, made.x0, detached=self.args.detached, **self._compared(made)).mean()
        parts = {"loss": game, "game": game, "mse": mse_per_sample(made.x0.detach(), made.z_gt).mean()}
        if self.lpips is not None:
            parts["lpips"] = self.lpips(self.pipe.decode(made.x0).clamp(-1, 1), made.hr).mean()
            parts["loss"] = game + self.args.lpips_weight * parts["lpips"]
        if self.critic is not None:
            parts["adversarial"] = self.critic.of_student(made.x0, self._scene(made))
            parts["loss"] = parts["loss"] + (self.args.adversarial_weight or 0) * parts["adversarial"]
        return parts

    def of_critic(self, made: Made) -> dict[str, Tensor]:
        """Return the scalars "loss" and its parts of the adversarial head, on the images that the fake learns from."""
        assert self.critic is not None, "there is none without --adversarial_weight"
        return self.critic.of_critic(made.x0, made.z_gt, self._scene(made))

    @torch.no_grad()
    def _scene(self, made: Made) -> Scene:
        return Scene(made.index, made.lq, made.z_y, self._denoise(self.fake, made).of_lq)

    def _make(self, batch: Batch, stream: str, unet: nn.Module) -> Made:
        assert batch.lr is not None, "`Prepare` makes them"
        pipe, tables = self.pipe, self.pipe.scheduler.train_tables
        hr, lq = batch.hr * 2 - 1, batch.lr * 2 - 1
        with torch.no_grad():
            z_gt, z_y = pipe.encode(torch.cat([hr, pipe.upsample(lq)])).chunk(2)
        generators = sample_generators(batch.index, self.seed, stream)
        start = draw_timesteps(generators, self.timesteps, lq.device)
        t = draw_timesteps(generators, range(len(tables)), lq.device)
        x_t = multi_step_input(z_gt, z_y, draw_noise(generators, z_y), start, tables)
        x0 = Denoise(pipe.unet, pipe.scheduler, lq, z_y, unet)(x_t, start, lq)
        return Made(index=batch.index, hr=hr, lq=lq, z_gt=z_gt, z_y=z_y, x0=x0, t=t, noise=draw_noise(generators, z_y))

    def _denoise(self, network: nn.Module, made: Made, prepared: nn.Module | None = None) -> Denoise:
        return Denoise(network, self.pipe.scheduler, made.lq, made.z_y, prepared)

    def _compared(self, made: Made) -> dict:
        tables = self.pipe.scheduler.train_tables
        return {
            "lq": made.lq, "z_y": made.z_y, "t": made.t, "noise": made.noise, "tables": tables, "scaling": "none",
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RsdStep:
    """One step of the game."""

    losses: RsdLosses
    update_fake: Update[Batch]
    update_student: Update[Batch]
    update_critic: Update[Made] | None = None  # with an adversarial head

    def __call__(self, batches: Sequence[Batch], progress: Progress) -> dict[str, float]:
        """Train the fake on each `fake_updates`-th part of the batches in turn, then the student on the last.

        Raises BadLoss, on all processes at once, for a loss that is not finite.
        """
        losses, args, logs = self.losses, self.losses.args, {}
        made: list[Made] = []

        def of_fake(batch: Batch) -> dict[str, Tensor]:
            made.append(losses.make(batch))
            return losses.of_fake(made[-1])

        size = len(batches) // args.fake_updates
        parts = [batches[i : i + size] for i in range(0, len(batches), size)]
        for part in parts:
            made.clear()
            logs["fake"] = self.update_fake(of_fake, part, progress)["loss"]
            if self.update_critic is not None:
                logs["critic"] = self.update_critic(losses.of_critic, made, progress)["loss"]
        if progress.step >= args.fake_warmup_steps:
            with frozen(losses.fake, *([losses.critic.heads] if losses.critic else [])):
                logs |= self.update_student(losses.of_student, parts[-1], progress)
        return logs
