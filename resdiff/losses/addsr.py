"""AddSR's losses: a teacher's predictions on images, weighted by time, beside a critic's judgement (2404.01717).

NJU-PCALab/AddSR train_addsr.py. Nothing here knows of latents or schedules: images are decoded, weights are tensors, and
so the same losses serve students of other processes. The hinge losses are those of `resdiff.losses.adversarial`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

TIMESTEPS = (999, 749, 499)  # of steps 1, 2 and 3 of AddSR's weights
MU, NU = 0.5, 2.1  # weight of step 1, and its growth from step to step
GAN_WEIGHT = 0.02


def step_weight(step: Tensor, mu: float = MU, nu: float = NU) -> Tensor:
    """Return the time-adaptive weight of the distillation, mu nu^(s - 1), of steps s = 1, 2, ...: float64."""
    return mu * nu ** (step.double() - 1)


def time_adaptive_weight(
    t: Tensor,  # int64, any shape
    timesteps: Sequence[int] = TIMESTEPS,  # of steps 1, 2, ...
    mu: float = MU,
    nu: float = NU,
) -> Tensor:
    """Return the weight of a student's timestep; every timestep that is not listed counts as one step more: float64.

    With AddSR's: 0.5, 1.05 and 2.205, else 4.6305. Its training gives the timestep before the refinement, and 1000 where
    there is none: in its code the first step weighs most.
    """
    listed = t[..., None] == torch.tensor(timesteps, device=t.device)
    after = torch.cat([listed, torch.ones_like(listed[..., :1])], dim=-1)
    return step_weight(after.int().argmax(dim=-1) + 1, mu, nu)


def distillation_loss(
    student: Tensor,  # (B, 3, H, W) in [-1, 1], decoded
    teacher: Tensor,  # (K, B, 3, H, W) in [-1, 1]: what it makes of the student's prediction at K noise levels
    noise_weights: Tensor,  # (K, B); AddSR: sqrt(alpha_bar) of those levels, the less noise the more
    sample_weights: Tensor,  # (B,); AddSR: `time_adaptive_weight`
) -> Tensor:
    """Return the loss of each sample, (B,): squared error of images in [0, 1], mean over pixels and draws, weighted.

    No gradient goes to the teacher; float32 whatever the images are. Raises ValueError for weights of another shape.
    """
    if noise_weights.shape != teacher.shape[:2] or sample_weights.shape != student.shape[:1]:
        raise ValueError(
            f"weights are {tuple(noise_weights.shape)} and {tuple(sample_weights.shape)}, "
            f"they must be (K, B) = {tuple(teacher.shape[:2])} and (B,) = {tuple(student.shape[:1])}"
        )
    errors = ((teacher.detach().float() - student.float()) / 2).square().flatten(2).mean(dim=2)  # (K, B)
    return (errors * noise_weights.to(errors)).mean(dim=0) * sample_weights.to(errors)


def feature_gradient_penalty(logits: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """Return R1 (1801.04406) of each head on its feature, the mean over heads and batch: a scalar, to be weighted.

    The squared norm of d sum(logits) / d feature. logits: (B, N) each, computed from the features, (B, C, N) each, which
    require gradients. AddSR has it and gives it weight 0.
    """
    gradients = torch.autograd.grad([x.sum() for x in logits], features, create_graph=True)
    return torch.stack([g.square().flatten(1).sum(dim=1).mean() for g in gradients]).mean()
