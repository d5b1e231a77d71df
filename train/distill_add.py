"""What `train/distill_resshift.py --method add` does in one step: an update of the student, then one of its critic.

Adversarial diffusion distillation (ADD, 2311.17042) as AddSR (2404.01717) does it for Stable Diffusion, carried over to
residual shifting; the losses: `resdiff.losses.addsr`.
- The student runs its own chain down to a random step of its own, half of the time the first; the gradient is that step's.
- From the second step on it sees its own prediction in the low-resolution image (`psr_weight`).
- Its prediction is noised to several steps of the teacher, which is shown what the photo itself reduces to, as AddSR's is
  shown the photo. What it makes of it is the target, by the share of it in x_t, 1 - eta_t: the less noise the more.
- The later the step, the more the distillation weighs against the critic: mu nu^(s - 1). AddSR's code gives the first
  step the largest weight; the text of its authors, and this, the smallest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from resdiff.data.training_set import Batch
from resdiff.diffusion import resshift
from resdiff.losses.addsr import GAN_WEIGHT, distillation_loss, step_weight
from resdiff.losses.diffusion import mse_per_sample
from resdiff.losses.rsd import frozen
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.resize import bicubic
from resdiff.train.adversarial_loss import draw_step
from resdiff.train.arguments import option
from resdiff.train.critic import Critic, CriticArguments, Scene
from resdiff.train.denoise import Denoise, draw_noise, draw_timesteps, sample_generators
from resdiff.train.progress import Progress
from resdiff.train.update import Update

FIRST_STEP_SHARE = 0.5  # of the draws of the student's step


@dataclass(frozen=True, kw_only=True)
class AddArguments(CriticArguments):
    """Distillation, and a condition that the student refines."""

    teacher_draws: int = option(4, "add: steps at which the teacher looks at what the student made")
    psr_weight: float = option(0.0, "add: share of the student's prediction in what its next step sees as the LR image")

    def check_add(self) -> None:
        """Raise ValueError for values that cannot be meant."""
        if self.teacher_draws < 1:
            raise ValueError(f"--teacher_draws {self.teacher_draws} must be at least 1")
        if not 0 <= self.psr_weight <= 1:
            raise ValueError(f"--psr_weight {self.psr_weight} must lie in [0, 1]")


@dataclass(frozen=True)
class Made:
    """What the student made of a batch at one of its steps."""

    z_gt: Tensor  # of the photos, (B, C, h, w)
    x0: Tensor
    scene: Scene


class AddLosses:
    """The losses of student and critic. Noise is drawn per sample, from its global index."""

    def __init__(
        self,
        args: AddArguments,
        pipe: ResShiftPipeline,  # the student's, at its steps
        unet: nn.Module,  # its network as accelerate prepared it
        teacher: nn.Module,
        critic: Critic,
        seed: int,
        in_image_space: bool = False,
    ):
        self.args, self.pipe, self.unet, self.teacher, self.critic, self.seed = args, pipe, unet, teacher, critic, seed
        self.adversarial_weight = GAN_WEIGHT if args.adversarial_weight is None else args.adversarial_weight
        self.measured = pipe.decode if in_image_space else lambda x: x
        self.timesteps = pipe.scheduler.timesteps.tolist()  # of the first step, the second, ...
        self.tables = pipe.scheduler.tables  # validation changes the scheduler's

    def draw_step(self, optimizer_step: int) -> int:
        """Draw the student's step of an optimizer step, 0 the first, the same in all processes."""
        steps = len(self.timesteps)
        return steps - 1 - draw_step(self.seed, optimizer_step, steps, FIRST_STEP_SHARE)

    def make(self, batch: Batch, step: int, unet: nn.Module) -> Made:
        """Run the chain without a gradient before `step`; return its prediction there, by `unet`, with one."""
        assert batch.lr is not None, "`Prepare` makes them"
        pipe, scheduler = self.pipe, self.pipe.scheduler
        hr, lq = batch.hr * 2 - 1, batch.lr * 2 - 1
        seen = lq

        def predict(denoise: Denoise, x_t: Tensor, t: int) -> Tensor:
            return denoise(x_t, torch.full((len(lq),), t, device=lq.device), seen)

        generators = sample_generators(batch.index, self.seed, "chain")
        with torch.no_grad():
            z_gt, z_y = pipe.encode(torch.cat([hr, pipe.upsample(lq)])).chunk(2)
            x_t = resshift.prior_sample(z_y, draw_noise(generators, z_y), self.tables)
            looks = None  # at what is seen; once, unless it is refined
            for i, t in enumerate(self.timesteps[:step]):
                looks = looks or Denoise(pipe.unet, scheduler, seen, z_y)
                x0 = predict(looks, x_t, t)
                index = len(self.timesteps) - 1 - i
                x_t = resshift.posterior_step(x0, x_t, index, draw_noise(generators, z_y), self.tables)
                if self.args.psr_weight:
                    seen, looks = pipe.refined(lq, x0), None
        x0 = predict(Denoise(pipe.unet, scheduler, seen, z_y, unet), x_t, self.timesteps[step])
        return Made(z_gt=z_gt, x0=x0, scene=self._scene(batch, hr))

    def of_student(self, made: Made, step: int) -> dict[str, Tensor]:
        """Return the scalars "loss", its parts, and "mse", the distance to the photo, which is not minimised.

        Call it, and backward, within `frozen(critic.heads)`.
        """
        parts = {"distillation": self._distillation(made, step)}
        parts["loss"] = parts["distillation"]
        if self.adversarial_weight:
            parts["adversarial"] = self.critic.of_student(made.x0, made.scene)
            parts["loss"] = parts["loss"] + self.adversarial_weight * parts["adversarial"]
        return parts | {"mse": mse_per_sample(made.x0.detach(), made.z_gt).mean()}

    def of_critic(self, made: Made) -> dict[str, Tensor]:
        """Return the scalars "loss" and its parts of the critic, for a prediction without a gradient."""
        return self.critic.of_critic(made.x0, made.z_gt, made.scene)

    @torch.no_grad()
    def _scene(self, batch: Batch, hr: Tensor) -> Scene:
        pipe = self.pipe
        sides = (hr.shape[-2] // pipe.native_scale, hr.shape[-1] // pipe.native_scale)
        lq = hr if pipe.native_scale == 1 else bicubic(hr, sides, "pil")
        z_y = pipe.encode(pipe.upsample(lq))
        return Scene(batch.index, lq, z_y, Denoise(self.teacher, pipe.scheduler, lq, z_y).of_lq)

    def _distillation(self, made: Made, step: int) -> Tensor:
        scene, scheduler, x0 = made.scene, self.pipe.scheduler, made.x0
        tables = scheduler.train_tables
        generators = sample_generators(scene.index, self.seed, "teacher")
        with torch.no_grad():
            teacher = Denoise(self.teacher, scheduler, scene.lq, scene.z_y, of_lq=scene.of_lq)
            targets, weights = [], []
            for _ in range(self.args.teacher_draws):
                t = draw_timesteps(generators, range(len(tables)), x0.device)
                x_t = resshift.q_sample(x0.detach(), scene.z_y, t, draw_noise(generators, x0), tables)
                targets.append(self.measured(teacher(x_t, t, scene.lq)))
                weights.append(1 - tables.etas[t.cpu()])
        of_step = step_weight(torch.full((len(x0),), step + 1))
        return distillation_loss(self.measured(x0), torch.stack(targets), torch.stack(weights), of_step).mean()


@dataclass(frozen=True, kw_only=True)
class AddStep:
    """One step of both players; while the critic warms up it alone learns."""

    losses: AddLosses
    update_student: Update[Batch]
    update_critic: Update[Made]

    def __call__(self, batches: Sequence[Batch], progress: Progress) -> dict[str, float]:
        """Train the student on the batches, then the critic on what it made of them.

        Raises BadLoss, on all processes at once, for a loss that is not finite.
        """
        losses, logs = self.losses, {}
        step = losses.draw_step(progress.step)
        made: list[Made] = []

        def of_student(batch: Batch) -> dict[str, Tensor]:
            now = losses.make(batch, step, losses.unet)
            made.append(replace(now, x0=now.x0.detach()))
            return losses.of_student(now, step)

        if progress.step >= losses.args.critic_warmup_steps:
            with frozen(losses.critic.heads):
                logs = self.update_student(of_student, batches, progress)
        else:
            with torch.no_grad(), self.update_critic.accelerator.autocast():
                made = [losses.make(batch, step, losses.pipe.unet) for batch in batches]
        of_critic = self.update_critic(losses.of_critic, made, progress)
        return logs | {"critic": of_critic["loss"]} | {name: x for name, x in of_critic.items() if name == "r1"}
