"""The loss of SinSR for students of several steps."""

import pytest
import torch
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.losses.distillation import distillation_losses
from resdiff.train.distill_sinsr import chain_losses, passed_states

TABLES = resshift.resshift_tables(resshift.sqrt_eta_schedule(15), 2.0)
LQ, Z_Y, Z_GT, NOISE = torch.randn(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
HR = Z_GT.repeat_interleave(2, -1)
DATA = {"z_y": Z_Y, "z_gt": Z_GT, "noise": NOISE}


def teacher(x_t: Tensor, t: int) -> Tensor:
    return torch.tanh(x_t) * (1 - t / 30)


def student(x_t: Tensor, t: int) -> Tensor:
    return torch.sin(x_t) * (1 + t / 20)


def to_x_T(x: Tensor) -> Tensor:
    return 2 * torch.cos(x)


def widened(z: Tensor) -> Tensor:
    """A decoder."""
    return z.repeat_interleave(2, -1) ** 3


@pytest.mark.parametrize("images", [{}, {"decode": widened, "hr": HR}])
def test_for_one_step_it_is_the_published_loss(images) -> None:
    def both_ways(x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        return student(x, 14) if int(t[0]) else to_x_T(x)

    def chain(x_T: Tensor) -> Tensor:
        return resshift.deterministic_sample(teacher, x_T, Z_Y, TABLES)

    options = {"inverse_weight": 0.5, "gt_weight": 2.0} | images
    published = distillation_losses(both_ways, chain, TABLES, lq=LQ, scaling="none", **DATA, **options).terms
    found = chain_losses(student, to_x_T, teacher, [14], TABLES, **DATA, **options)
    assert found.keys() == published.keys()
    for name in found:
        torch.testing.assert_close(found[name], published[name])


@pytest.mark.parametrize("timesteps", [[6, 14], [3, 7, 11, 14]])
def test_each_step_leads_to_where_the_teacher_is_at_the_next(timesteps) -> None:
    steps = resshift.resshift_tables(TABLES.sqrt_etas[timesteps], 2.0)
    x_T = resshift.prior_sample(Z_Y, NOISE, TABLES)
    states = passed_states(teacher, x_T, Z_Y, timesteps, TABLES)
    asked = []

    def ideal(x_t: Tensor, t: int) -> Tensor:
        i = timesteps.index(t)
        asked.append(t)
        torch.testing.assert_close(x_t, states[i + 1])  # starts where the teacher passes
        k, m, j = resshift.deterministic_coefficients(i, x_t, steps)
        return (states[i] - m * x_t - j * Z_Y) / k

    terms = chain_losses(ideal, to_x_T, teacher, timesteps, TABLES, gt_weight=0.0, **DATA)
    assert asked == timesteps and torch.equal(states[-1], x_T)
    assert float(terms["mse"].max()) < 1e-10
    x_t = x_T
    for i in reversed(range(len(timesteps))):  # the chain of such a student ends where the teacher's does
        x_t = resshift.deterministic_step(ideal(x_t, timesteps[i]), x_t, Z_Y, i, steps)
    torch.testing.assert_close(x_t, states[0])
    torch.testing.assert_close(states[0], resshift.deterministic_sample(teacher, x_T, Z_Y, TABLES))


def test_gradients_go_to_the_student_alone() -> None:
    gains = {name: torch.tensor(1.0, requires_grad=True) for name in ("student", "inverse", "teacher")}
    terms = chain_losses(
        lambda x_t, t: gains["student"] * student(x_t, t),
        lambda x: gains["inverse"] * to_x_T(x),
        lambda x_t, t: gains["teacher"] * teacher(x_t, t),
        [6, 14],
        TABLES,
        **DATA,
    )
    torch.autograd.backward(terms["loss"].sum())
    assert gains["teacher"].grad is None
    assert all(float(gains[name].grad.abs()) > 0 for name in ("student", "inverse"))


def test_the_noise_of_the_true_image_has_no_gradient() -> None:
    gain = torch.tensor(1.0, requires_grad=True)
    terms = chain_losses(student, lambda x: gain * to_x_T(x), teacher, [6, 14], TABLES, **DATA)
    assert terms["mse_xT"].requires_grad and not terms["mse_gt"].requires_grad
