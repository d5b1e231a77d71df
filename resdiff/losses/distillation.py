"""SinSR's distillation: a network that does in one step what its teacher does in T (Wang et al. 2023, 2311.14760).

wyf0912/SinSR models/gaussian_diffusion.py `training_losses_distill`, with the options that the published configuration
uses, and its loss in image space. Three terms, all per sample: the student's one step ends where the teacher's T
deterministic steps end (Eq. 9); the same network, told t = 0, leads back from there to the noise (Eq. 10); and from the
true image to noise and back it is consistent (Eq. 11). Networks predict x_0.

Both directions use the input scale of the last step, as in the reference: the timestep alone tells them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resdiff.diffusion.resshift import InputScaling, ResShiftTables, loss_weights, prior_sample, scale_input
from resdiff.losses.diffusion import mse_per_sample

Network = Callable[[Tensor, Tensor, Tensor], Tensor]  # (scaled latent (B, C, h, w), timesteps int64 (B,), lq) -> latent


@dataclass(frozen=True)
class Distillation:
    """Losses per sample (B,) and the latents (B, C, h, w) they were computed from."""

    terms: dict[str, Tensor]  # "mse", "mse_xT", "mse_gt" (in image space "mse_gt_rgb") and their sum "loss"
    x_T: Tensor  # noise the student starts at
    x0_teacher: Tensor  # where the teacher arrives, no gradient
    x0_student: Tensor  # where the student arrives


def distillation_losses(
    student: Network,
    teacher: Callable[[Tensor], Tensor],  # x_T -> x_0: the whole deterministic chain
    tables: ResShiftTables,
    *,
    lq: Tensor,  # the student's condition
    z_y: Tensor,  # encoded, upsampled LR image (B, C, h, w)
    z_gt: Tensor,  # encoded HR image, like z_y
    noise: Tensor,  # standard normal, like z_y
    inverse_weight: float = 1.0,  # of "mse_xT" (`learn_xT`); 0 leaves the term out, as in the paper's ablation
    gt_weight: float = 1.0,  # of the consistency term (`finetune_use_gt`); 0 leaves it out
    t: Tensor | None = None,  # int64 (B,), the step that stands for "to x_0"; None: the last, as published
    scaling: InputScaling = "latent",  # of the student's input, as the teacher was trained with
    weighted: bool = False,  # "mse" enters the sum with step t's weight in the variational bound (`weighted_mse`)
    decode: Callable[[Tensor], Tensor] | None = None,  # with `hr`: "mse" and the consistency are measured on images
    hr: Tensor | None = None,  # HR image (B, 3, H, W) in [-1, 1]
) -> Distillation:
    """Return SinSR's training losses, section 3 of the paper: loss = mse + inverse_weight mse_xT + gt_weight mse_gt.

    `decode` must let gradients through (a quantiser: straight through). Raises ValueError when only one of `decode` and
    `hr` is given.
    """
    if (decode is None) != (hr is None):
        missing = "decode" if decode is None else "hr"
        raise ValueError(f"{missing} is None; the loss in image space needs both decode and hr")
    last = torch.full((len(z_y),), len(tables) - 1, dtype=torch.int64, device=z_y.device)
    start = last if t is None else t

    def to_x0(x: Tensor) -> Tensor:
        return student(scale_input(x, start, tables, scaling), start, lq)

    def to_x_T(x: Tensor) -> Tensor:
        return student(scale_input(x, start, tables, scaling), torch.zeros_like(start), lq)

    x_T = prior_sample(z_y, noise, tables)
    with torch.no_grad():
        x0_teacher = teacher(x_T)
    x0_student = to_x0(x_T)
    if decode is None:
        mse = mse_per_sample(x0_student, x0_teacher)
    else:
        with torch.no_grad():
            teacher_image = decode(x0_teacher)
        mse = mse_per_sample(decode(x0_student), teacher_image)
    terms = {"mse": mse}
    loss = loss_weights(tables, "xstart").to(mse)[start] * mse if weighted else mse

    if inverse_weight:
        terms["mse_xT"] = mse_per_sample(to_x_T(x0_teacher), x_T)
        loss = loss + inverse_weight * terms["mse_xT"]

    if gt_weight:
        with torch.no_grad():
            x_T_of_gt = to_x_T(z_gt)
        x0_of_gt = to_x0(x_T_of_gt)
        if decode is None or hr is None:
            name, mse_gt = "mse_gt", mse_per_sample(x0_of_gt, z_gt)
        else:
            name, mse_gt = "mse_gt_rgb", mse_per_sample(decode(x0_of_gt), hr)
        terms[name] = mse_gt
        loss = loss + gt_weight * mse_gt

    return Distillation(terms | {"loss": loss}, x_T, x0_teacher, x0_student)
