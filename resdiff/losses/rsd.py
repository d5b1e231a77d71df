"""Residual-shifting distillation: a ResShift model trained on the one-step student's images would be the teacher.

Residual Shifting Distillation (2503.13358), from its mathematics. The teacher f* predicts x_0 from x_t and is a
conditional mean only if it was trained with the squared error. Trained the same way on the student's samples x0, a
"fake" network f_phi tends to f_G(x_t) = E[x0 | x_t, y], and because a conditional mean is orthogonal to its error,

    E ||f*(x_t) - f_G(x_t)||^2 = E ||f*(x_t) - x0||^2 - min_phi E ||f_phi(x_t) - x0||^2.

The two play min_G max_phi of E w_t (||f*(x_t) - x0||^2 - ||f_phi(x_t) - x0||^2): the fake minimises `fake_loss`, the
student `student_loss`. The fake starts as a copy of the teacher, where the student's gradient is zero: let it learn
first. In every function ||.||^2 is the mean over a sample's elements, and everything but the networks is computed in
float32, for the student's loss is a small difference of two errors.

`x0` is what the student made, z_y the encoded, upsampled LR image of the same shape (B, C, h, w) and t int64 (B,)
steps of `tables`, the teacher's schedule. `noise`, standard normal and like x0, must be drawn apart from all noise that
the student was given; shared, the gradient of the student's variance is wrong. Networks say x_0: one that was trained
for the residual is given as z_y minus its output.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from resdiff.diffusion.resshift import InputScaling, ResShiftTables, q_sample, scale_input
from resdiff.losses.diffusion import mse_per_sample
from resdiff.losses.distillation import Network

SMALLEST_DISTANCE = 1e-6  # between student and teacher in the `normalised` loss: where they meet it is 0, not NaN


def fake_loss(
    fake: Network,
    x0: Tensor,
    *,
    lq: Tensor,  # the networks' condition
    z_y: Tensor,
    t: Tensor,
    noise: Tensor,
    tables: ResShiftTables,
    scaling: InputScaling = "latent",  # of the networks' input, as the teacher was trained with
    data_var: float = 1.0,  # of "latent" scaling
    weights: Tensor | None = None,  # w_t, float (T,); None: all 1
) -> Tensor:
    """Return the fake's loss w_t ||f_phi(x_t) - x0||^2 of each sample, (B,): ResShift's training on student samples.

    No gradient goes to the student. Raises ValueError unless `weights` has one value for each step of `tables`.
    """
    x0 = x0.detach().float()
    x_t = q_sample(x0, z_y, t, noise, tables)
    prediction = fake(scale_input(x_t, t, tables, scaling, data_var), t, lq)
    return _weight(weights, t, x0, tables) * mse_per_sample(prediction, x0)


def student_loss(
    teacher: Network,
    fake: Network,
    x0: Tensor,
    *,
    lq: Tensor,
    z_y: Tensor,
    t: Tensor,
    noise: Tensor,
    tables: ResShiftTables,
    scaling: InputScaling = "latent",
    data_var: float = 1.0,
    weights: Tensor | None = None,  # as the fake's: the identity above holds for weights that depend on t alone
    detached: bool = False,  # True: no gradient through x_t, which leaves 2 w_t (f_phi - f*) on x0, score distillation
    normalised: bool = False,  # True: each sample's loss is divided by its mean |x0 - f*|, a constant, as in DMD
) -> Tensor:
    """Return the student's loss w_t (||f*(x_t) - x0||^2 - ||f_phi(x_t) - x0||^2) of each sample, (B,).

    The gradient goes to the student through x0 and through x_t, and so through both networks: call this, and backward,
    within `frozen(teacher, fake)`, or their parameters gather gradients too. Raises ValueError unless `weights` has one
    value for each step of `tables`.
    """
    x0 = x0.float()
    x_t = q_sample(x0, z_y, t, noise, tables)
    with torch.no_grad() if detached else nullcontext():
        model_input = scale_input(x_t, t, tables, scaling, data_var)
        x0_teacher = teacher(model_input, t, lq)
        x0_fake = fake(model_input, t, lq)
    loss = _weight(weights, t, x0, tables) * (mse_per_sample(x0_teacher, x0) - mse_per_sample(x0_fake, x0))
    if not normalised:
        return loss
    distance = (x0 - x0_teacher).detach().abs().flatten(1).mean(dim=1)
    return loss / distance.clamp(min=SMALLEST_DISTANCE)


def multi_step_input(z_gt: Tensor, z_y: Tensor, noise: Tensor, t: Tensor, tables: ResShiftTables) -> Tensor:
    """Draw the student's input in multi-step training, not yet scaled: (B, C, h, w), like the encoded HR image z_gt.

    x_t from q(x_t | HR, y), Eq. (2) of ResShift; at the last step x_T from the prior of Eq. (4), which knows nothing of
    HR, for that is all the student is given when it is used. `tables` are those of the steps the student starts from: a
    respaced schedule and its indices, or the whole one if its last step is among them.
    """
    last = (t == len(tables) - 1).reshape(-1, *[1] * (z_gt.ndim - 1))
    return q_sample(torch.where(last, z_y, z_gt), z_y, t, noise, tables)  # between y and itself it is the prior


@contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Within it the networks pass gradients on but their parameters gather none.

    Call backward within it too: gradient checkpointing runs the networks once more, and they must be the same. Give the
    bare modules: a DistributedDataParallel around one would wait for gradients that do not come.
    """
    trained = [p for network in networks for p in network.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _weight(weights: Tensor | None, t: Tensor, x: Tensor, tables: ResShiftTables) -> Tensor | float:
    """Return w_t of each sample, (B,), on x's device."""
    if weights is None:
        return 1.0
    if weights.shape != (len(tables),):
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}; give one value for each of {len(tables)} timesteps"
        )
    return weights.to(x)[t]
