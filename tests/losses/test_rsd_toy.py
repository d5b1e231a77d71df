"""Residual-shifting distillation: the student's gradient is the true one, and the game ends at the teacher.

The toy: one number x_0 ~ N(MEAN, STD^2), its posterior mean as the teacher, a student that makes a + b eps. All is at
most quadratic in eps and the re-noising n, so three Gauss-Hermite nodes of each give expectations without sampling.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from resdiff.diffusion import resshift
from resdiff.losses.diffusion import mse_per_sample
from resdiff.losses.rsd import fake_loss, frozen, student_loss

TABLES = resshift.resshift_tables(resshift.sqrt_eta_schedule(4, min_noise_level=0.2, kappa=1.0), 1.0)
ETAS = TABLES.etas
Y, MEAN, STD = -0.5, 0.3, 0.8
STEPS = torch.arange(4)
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 1.5])

NODES, NODE_WEIGHTS = torch.tensor([-math.sqrt(3), 0.0, math.sqrt(3)]), torch.tensor([1 / 6, 2 / 3, 1 / 6])


def column(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, 1, 1)


def gain(std: float) -> Tensor:
    """d E[x_0 | x_t] / d x_t where x_0 has this standard deviation; float64 (T,)."""
    return std**2 * (1 - ETAS) / ((1 - ETAS) ** 2 * std**2 + TABLES.kappa**2 * ETAS)


class Posterior(nn.Module):
    """E[x_0 | x_t, y] where x_0 ~ N(mean, std^2): an affine map of x_t for each step."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.gain = nn.Parameter(gain(std).float())
        self.bias = nn.Parameter((mean - gain(std) * ((1 - ETAS) * mean + ETAS * Y)).float())

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        return column(self.bias[t]) + column(self.gain[t]) * x


def grid() -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Return eps, the losses' arguments and the probability of each point of the grid over eps, n and t."""
    i, j, t = (index.flatten() for index in torch.meshgrid(torch.arange(3), torch.arange(3), STEPS, indexing="ij"))
    y = torch.full((len(t), 1, 1, 1), Y)
    toy = {"lq": y, "z_y": y, "t": t, "noise": column(NODES[j])}
    return column(NODES[i]), toy, NODE_WEIGHTS[i] * NODE_WEIGHTS[j] / len(STEPS)


EPS, TOY, PROBABILITY = grid()
OPTIONS = {"tables": TABLES, "scaling": "none"}


def distance(a: float, b: float, weights: Tensor) -> float:
    """E w_t (f*(x_t) - f_G(x_t))^2 for the student a + b eps, over its own x_t; in float64."""
    variance = (1 - ETAS) ** 2 * b**2 + TABLES.kappa**2 * ETAS
    of_mean = (MEAN - a) * (1 - gain(STD) * (1 - ETAS))
    return float((weights * (of_mean**2 + (gain(STD) - gain(b)) ** 2 * variance)).mean())


def student_gradient(a: float, b: float, eps: Tensor, toy: dict, probability: Tensor, **options: object) -> Tensor:
    """The gradient by (a, b) of the expected loss, against the best fake for this student."""
    parameters = torch.tensor([a, b], requires_grad=True)
    x0 = parameters[0] + parameters[1] * eps
    loss = student_loss(Posterior(MEAN, STD), Posterior(a, b), x0, **toy, **OPTIONS, **options)
    return torch.autograd.grad((probability * loss).sum(), parameters)[0]


@pytest.mark.parametrize(("a", "b"), [(0.9, 0.4), (-0.2, 1.3)])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_the_gradient_is_that_of_the_distance_to_the_teacher_unless_detached(
    a: float, b: float, weights: Tensor | None
) -> None:
    w, h = torch.ones(4) if weights is None else weights, 1e-4
    by_a = (distance(a + h, b, w) - distance(a - h, b, w)) / (2 * h)
    by_b = (distance(a, b + h, w) - distance(a, b - h, w)) / (2 * h)
    expected = torch.tensor([by_a, by_b])
    gradient = student_gradient(a, b, EPS, TOY, PROBABILITY, weights=weights)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=0)
    detached = student_gradient(a, b, EPS, TOY, PROBABILITY, weights=weights, detached=True)
    assert ((detached / expected - 1).abs() > 0.05).all()


def test_noise_that_the_student_was_given_must_not_be_used_again() -> None:
    i, t = (index.flatten() for index in torch.meshgrid(torch.arange(3), STEPS, indexing="ij"))
    eps, y = column(NODES[i]), torch.full((len(t), 1, 1, 1), Y)
    shared = {"lq": y, "z_y": y, "t": t, "noise": eps}
    right = student_gradient(0.9, 0.4, EPS, TOY, PROBABILITY)
    wrong = student_gradient(0.9, 0.4, eps, shared, NODE_WEIGHTS[i] / len(STEPS))
    assert float(wrong[0]) == pytest.approx(float(right[0]), rel=1e-4)
    assert abs(float(wrong[1] / right[1]) - 1) > 0.5


@pytest.mark.parametrize("detached", [False, True])
def test_the_game_ends_at_the_teacher(detached: bool) -> None:
    teacher = Posterior(MEAN, STD)
    fake, student = copy.deepcopy(teacher), torch.tensor([0.9, 0.2], requires_grad=True)
    fake_optimizer, optimizer = torch.optim.SGD(fake.parameters(), lr=2.0), torch.optim.SGD([student], lr=1.0)
    for _ in range(80):
        x0 = student[0] + student[1] * EPS
        for _ in range(5):
            fake_optimizer.zero_grad()
            (PROBABILITY * fake_loss(fake, x0, **TOY, **OPTIONS)).sum().backward()
            fake_optimizer.step()
        optimizer.zero_grad()
        with frozen(teacher, fake):
            loss = student_loss(teacher, fake, x0, **TOY, **OPTIONS, detached=detached)
            (PROBABILITY * loss).sum().backward()
        optimizer.step()
    mean, std = student.tolist()
    assert mean == pytest.approx(MEAN, rel=0.01)
    assert std**2 == pytest.approx(STD**2, rel=0.01)
    torch.testing.assert_close(fake.gain, teacher.gain, rtol=0.01, atol=0)


def test_orthogonality_holds_on_samples_and_no_other_fake_gives_more() -> None:
    count, (a, b) = 300_000, (0.9, 0.4)
    eps, noise = column(torch.randn(2, count, generator=torch.Generator().manual_seed(0)).flatten()).chunk(2)
    x0, y = a + b * eps, torch.full((count, 1, 1, 1), Y)
    teacher, best = Posterior(MEAN, STD), Posterior(a, b)
    for step in range(4):
        t = torch.full((count,), step)
        toy = {"lq": y, "z_y": y, "t": t, "noise": noise}
        x_t = resshift.q_sample(x0, y, t, noise, TABLES)
        with torch.no_grad():
            gained = student_loss(teacher, best, x0, **toy, **OPTIONS)
            expected = mse_per_sample(teacher(x_t, t, y), best(x_t, t, y))
            other = student_loss(teacher, Posterior(a, 1.5 * b), x0, **toy, **OPTIONS)
        error = float((gained - expected).std()) / count**0.5
        assert error < 0.01 * float(expected.mean())
        assert abs(float((gained - expected).mean())) < 4 * error
        if step < 3:  # at the last, next to nothing of x_0 is left in x_t
            assert float(other.mean()) < float(gained.mean()) - 4 * error
