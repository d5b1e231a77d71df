"""What one step of `train/distill_resshift.py --method sinsr` minimises.

Published (SinSR, 2311.14760) is a student of one step: `resdiff.losses.distillation`. Students of more steps are ours:
the same three terms, with the student's deterministic chain in place of its one step. Each of its steps starts where the
teacher's deterministic chain passes, and shall lead to where the teacher is at the student's next step; the two are
compared as the x_0 that such a step needs, as in progressive distillation (2202.00512). The inverse stays one evaluation
at t = 0, which is none of the student's steps, and the consistency runs the whole chain back.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from resdiff.data.training_set import Batch
from resdiff.diffusion import resshift
from resdiff.diffusion.resshift import ResShiftTables
from resdiff.losses.diffusion import mse_per_sample
from resdiff.losses.distillation import distillation_losses
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.train.arguments import option
from resdiff.train.denoise import Denoise, draw_noise, sample_generators


@dataclass(frozen=True, kw_only=True)
class SinsrArguments:
    """Terms of SinSR's loss."""

    inverse_weight: float = option(1.0, "sinsr: of the way from x_0 back to the noise")
    gt_weight: float = option(1.0, "sinsr: of the consistency of the photo, to noise and back")

    def check_sinsr(self) -> None:
        """Raise ValueError for values that cannot be meant."""
        for name in ("inverse_weight", "gt_weight"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"--{name} {value} must not be negative")


class SinsrLoss:
    """The loss of one micro-batch. Noise is drawn per sample, from its global index."""

    def __init__(
        self,
        args: SinsrArguments,
        pipe: ResShiftPipeline,  # the student's, at its steps
        unet: nn.Module,  # its network as accelerate prepared it
        teacher: nn.Module,
        seed: int,
        in_image_space: bool = False,  # measure through the decoder
    ):
        self.args, self.pipe, self.unet, self.teacher, self.seed = args, pipe, unet, teacher, seed
        self.in_image_space = in_image_space
        self.timesteps = sorted(pipe.scheduler.timesteps.tolist())

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the scalars "loss" and its parts of a batch with LR images, both in [0, 1]."""
        assert batch.lr is not None, "`Prepare` makes them"
        args, pipe, scheduler = self.args, self.pipe, self.pipe.scheduler
        hr, lq = batch.hr * 2 - 1, batch.lr * 2 - 1
        with torch.no_grad():
            z_gt, z_y = pipe.encode(torch.cat([hr, pipe.upsample(lq)])).chunk(2)
            by_teacher = Denoise(self.teacher, scheduler, lq, z_y)
        by_student = Denoise(pipe.unet, scheduler, lq, z_y, self.unet)
        noise = draw_noise(sample_generators(batch.index, self.seed, "diffusion"), z_y)

        def at(t: int) -> Tensor:
            return torch.full((len(lq),), t, device=lq.device)

        def teacher(x_t: Tensor, t: int) -> Tensor:
            x0 = by_teacher(x_t, at(t), lq)
            return x0.clamp(-1, 1) if scheduler.config.clip_sample else x0

        # both directions use the last step's input scale
        tables = scheduler.train_tables
        last = at(len(tables) - 1)
        student = partial(by_student, scaled_as=last)
        images = {"decode": pipe.decode, "hr": hr} if self.in_image_space else {}
        weights = {"inverse_weight": args.inverse_weight, "gt_weight": args.gt_weight}
        common = {"z_y": z_y, "z_gt": z_gt, "noise": noise} | weights | images
        if len(self.timesteps) == 1:
            chain = partial(resshift.deterministic_sample, teacher, y=z_y, tables=tables)
            terms = distillation_losses(student, chain, tables, lq=lq, scaling="none", **common).terms
        else:
            terms = chain_losses(
                lambda x_t, t: by_student(x_t, at(t), lq),
                lambda x: student(x, at(0), lq),
                teacher,
                self.timesteps,
                tables,
                **common,
            )
        return {name: term.mean() for name, term in terms.items()}


def chain_losses(
    student: Callable[[Tensor, int], Tensor],  # (x_t, t) -> x_0, at its timesteps
    to_x_T: Callable[[Tensor], Tensor],  # x_0 -> x_T: the student, told t = 0
    teacher: Callable[[Tensor, int], Tensor],  # (x_t, t) -> x_0
    timesteps: Sequence[int],  # the student's, ascending; the last is that of `tables`
    tables: ResShiftTables,  # the teacher's schedule
    *,
    z_y: Tensor,
    z_gt: Tensor,
    noise: Tensor,
    inverse_weight: float = 1.0,
    gt_weight: float = 1.0,
    decode: Callable[[Tensor], Tensor] | None = None,  # with `hr`: measured on images
    hr: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return the terms per sample (B,), as `distillation_losses` does, which it is for a single timestep.

    Its arguments are explained there; "mse" is the mean over the student's steps.
    """
    steps = resshift.resshift_tables(tables.sqrt_etas[list(timesteps)], tables.kappa)
    measured = (lambda x: x) if decode is None else decode
    x_T = resshift.prior_sample(z_y, noise, tables)
    with torch.no_grad():
        states = passed_states(teacher, x_T, z_y, timesteps, tables)

    mse = torch.zeros(len(z_y), device=z_y.device)
    for i, t in enumerate(timesteps):
        arrived, x_t = states[i], states[i + 1]
        with torch.no_grad():
            k, m, j = resshift.deterministic_coefficients(i, x_t, steps)
            target = measured((arrived - m * x_t - j * z_y) / k)
        mse = mse + mse_per_sample(measured(student(x_t, t)), target) / len(timesteps)
    terms, loss = {"mse": mse}, mse

    if inverse_weight:
        terms["mse_xT"] = mse_per_sample(to_x_T(states[0]), x_T)
        loss = loss + inverse_weight * terms["mse_xT"]

    if gt_weight:
        with torch.no_grad():
            x_t = to_x_T(z_gt)
        for i in reversed(range(len(timesteps))):
            x_t = resshift.deterministic_step(student(x_t, timesteps[i]), x_t, z_y, i, steps)
        name, truth = ("mse_gt", z_gt) if hr is None else ("mse_gt_rgb", hr)
        terms[name] = mse_per_sample(measured(x_t), truth)
        loss = loss + gt_weight * terms[name]
    return terms | {"loss": loss}


def passed_states(
    teacher: Callable[[Tensor, int], Tensor], x_T: Tensor, y: Tensor, timesteps: Sequence[int], tables: ResShiftTables
) -> list[Tensor]:
    """Run the teacher's deterministic chain; return x_0, where it ends, and x_t at each of `timesteps`, ascending."""
    x_t, passed = x_T, {}
    for t in reversed(range(len(tables))):
        passed[t] = x_t
        x_t = resshift.deterministic_step(teacher(x_t, t), x_t, y, t, tables)
    return [x_t, *(passed[t] for t in timesteps)]
