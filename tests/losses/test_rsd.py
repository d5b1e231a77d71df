"""Residual-shifting distillation's losses on small images: the numbers, and where the gradients go."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from resdiff.diffusion import resshift
from resdiff.losses.diffusion import mse_per_sample
from resdiff.losses.rsd import fake_loss, frozen, multi_step_input, student_loss

TABLES = resshift.resshift_tables(resshift.sqrt_eta_schedule(4, min_noise_level=0.2, kappa=1.0), 1.0)
ETAS = TABLES.etas.float()
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 1.5])


def column(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, 1, 1)


class Net(nn.Module):
    """A network that is no affine map."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        x = torch.cat([x, lq], dim=1).to(self.conv.weight.dtype)
        return torch.tanh(self.conv(x)) * column(1 + t)


X0, Z_Y, NOISE, LQ = torch.randn(4, 3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
T = torch.tensor([0, 2, 3])
IMAGES = {"lq": LQ, "z_y": Z_Y, "t": T, "noise": NOISE, "tables": TABLES}
X_T = (1 - column(ETAS[T])) * X0 + column(ETAS[T]) * Z_Y + column(ETAS[T].sqrt()) * NOISE


def test_losses_are_mean_squared_errors_at_x_t() -> None:
    teacher, fake = Net(0), Net(1)
    x = X_T / (1 + column(ETAS[T])).sqrt()
    of_teacher, of_fake = mse_per_sample(teacher(x, T, LQ), X0), mse_per_sample(fake(x, T, LQ), X0)
    torch.testing.assert_close(fake_loss(fake, X0, **IMAGES), of_fake)
    torch.testing.assert_close(student_loss(teacher, fake, X0, **IMAGES), of_teacher - of_fake)
    torch.testing.assert_close(student_loss(teacher, fake, X0, **IMAGES, detached=True), of_teacher - of_fake)


def test_a_fake_like_the_teacher_leaves_no_loss_and_no_gradient() -> None:
    x0, teacher = X0.clone().requires_grad_(), Net(0)
    loss = student_loss(teacher, copy.deepcopy(teacher), x0, **IMAGES)
    (gradient,) = torch.autograd.grad(loss.sum(), x0)
    assert not loss.any()
    assert float(gradient.abs().max()) < 1e-6


def test_detached_the_gradient_is_the_difference_of_the_two_networks() -> None:
    x0, teacher, fake = X0.clone().requires_grad_(), Net(0), Net(1)
    loss = student_loss(teacher, fake, x0, **IMAGES, weights=WEIGHTS, detached=True)
    (gradient,) = torch.autograd.grad(loss.sum(), x0)
    x = X_T / (1 + column(ETAS[T])).sqrt()
    expected = 2 * column(WEIGHTS[T]) * (fake(x, T, LQ) - teacher(x, T, LQ)) / 16
    torch.testing.assert_close(gradient, expected)


def test_normalising_divides_by_the_distance_to_the_teacher_and_sends_no_gradient_through_it() -> None:
    x0, teacher, fake = X0.clone().requires_grad_(), Net(0), Net(1)
    size = (X0 - teacher(X_T / (1 + column(ETAS[T])).sqrt(), T, LQ)).detach().abs().mean(dim=(1, 2, 3))
    plain, normalised = (student_loss(teacher, fake, x0, **IMAGES, normalised=choice) for choice in (False, True))
    torch.testing.assert_close(normalised, plain / size)
    (expected,), (gradient,) = (torch.autograd.grad(loss.sum(), x0) for loss in (plain, normalised))
    torch.testing.assert_close(gradient, expected / column(size))


def test_normalising_survives_a_student_that_is_the_teacher() -> None:
    x0 = X0.clone().requires_grad_()
    loss = student_loss(lambda *_: X0, lambda *_: X0, x0, **IMAGES, normalised=True)
    (gradient,) = torch.autograd.grad(loss.sum(), x0)
    assert not loss.any()
    assert not gradient.any()


@pytest.mark.parametrize("normalised", [False, True])
def test_samples_do_not_see_each_other(normalised: bool) -> None:
    x0, teacher, fake = X0.clone().requires_grad_(), Net(0), Net(1)
    together = student_loss(teacher, fake, x0, **IMAGES, weights=WEIGHTS, normalised=normalised)
    fakes = fake_loss(fake, x0, **IMAGES, weights=WEIGHTS)
    for i in range(3):
        one = {name: value[i : i + 1] if isinstance(value, Tensor) else value for name, value in IMAGES.items()}
        alone = student_loss(teacher, fake, X0[i : i + 1], **one, weights=WEIGHTS, normalised=normalised)
        torch.testing.assert_close(together[i : i + 1], alone)
        torch.testing.assert_close(fakes[i : i + 1], fake_loss(fake, X0[i : i + 1], **one, weights=WEIGHTS))
    (gradient,) = torch.autograd.grad(together[0], x0)
    assert gradient[0].any()
    assert not gradient[1:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_are_float32_of_networks_and_students_in_half_precision(dtype: torch.dtype) -> None:
    teacher, fake, x0 = Net(0), Net(1), (300 * X0).to(dtype).requires_grad_()  # the squares do not fit into float16
    rounded = x0.detach().float()
    expected = fake_loss(fake, rounded, **IMAGES), student_loss(teacher, fake, rounded, **IMAGES)
    teacher, fake = teacher.to(dtype), fake.to(dtype)
    losses = fake_loss(fake, x0, **IMAGES), student_loss(teacher, fake, x0, **IMAGES)
    for loss, exact, scale in zip(losses, expected, (1, 0.1), strict=True):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss / expected[0], exact / expected[0], atol=0.01 * scale, rtol=0)
    losses[1].mean().backward()
    assert x0.grad is not None and x0.grad.isfinite().all() and x0.grad.any()


# --- who learns, and what the networks are shown -----------------------------------------------------------------


def test_the_fake_learns_from_the_student_and_not_the_other_way_round() -> None:
    x0, fake = X0.clone().requires_grad_(), Net(1)
    fake_loss(fake, x0, **IMAGES).mean().backward()
    assert x0.grad is None
    assert all(parameter.grad is not None for parameter in fake.parameters())


def test_frozen_networks_pass_gradients_on_and_gather_none() -> None:
    x0, teacher, fake = X0.clone().requires_grad_(), Net(0), Net(1)
    teacher.conv.bias.requires_grad_(False)
    expected = torch.autograd.grad(student_loss(teacher, fake, x0, **IMAGES).sum(), x0)[0]
    with frozen(teacher, fake):
        student_loss(teacher, fake, x0, **IMAGES).sum().backward()
    torch.testing.assert_close(x0.grad, expected, rtol=0, atol=0)
    assert all(parameter.grad is None for network in (teacher, fake) for parameter in network.parameters())
    assert all(parameter.requires_grad for parameter in (teacher.conv.weight, *fake.parameters()))
    assert not teacher.conv.bias.requires_grad


def test_networks_thaw_after_an_error() -> None:
    fake = Net(0)
    with pytest.raises(RuntimeError), frozen(fake):
        raise RuntimeError
    assert all(parameter.requires_grad for parameter in fake.parameters())


@pytest.mark.parametrize(
    ("options", "scale"),
    [
        ({}, (1 + column(ETAS[T])).sqrt()),
        ({"data_var": 0.25}, (0.25 + column(ETAS[T])).sqrt()),
        ({"scaling": "pixel"}, 1 + 3 * column(ETAS[T]).sqrt()),
        ({"scaling": "none"}, torch.ones(3, 1, 1, 1)),
    ],
    ids=["latent", "data_var", "pixel", "none"],
)
def test_networks_see_the_input_scaled_as_the_teacher_was_trained(options: dict, scale: Tensor) -> None:
    seen: list[Tensor] = []

    def network(x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        assert t is T
        assert lq is LQ
        seen.append(x)
        return x

    fake_loss(network, X0, **IMAGES, **options)
    student_loss(network, network, X0, **IMAGES, **options)
    assert len(seen) == 3
    for x in seen:
        torch.testing.assert_close(x, X_T / scale)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "fake": lambda **options: fake_loss(Net(1), X0, **IMAGES, **options),
    "student": lambda **options: student_loss(Net(0), Net(1), X0, **IMAGES, **options),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_weights_belong_to_timesteps(loss: Callable[..., Tensor]) -> None:
    torch.testing.assert_close(loss(weights=WEIGHTS), loss() * torch.tensor([0.5, 1.0, 1.5]))
    for wrong in (torch.ones(3), torch.ones(4, 1)):
        with pytest.raises(ValueError, match="give one value for each of 4 timesteps"):
            loss(weights=wrong)


def test_the_student_starts_from_the_prior_at_the_last_step_and_from_hr_before() -> None:
    x = multi_step_input(X0, Z_Y, NOISE, T, TABLES)
    torch.testing.assert_close(x[:2], X_T[:2])
    torch.testing.assert_close(x[2:], resshift.prior_sample(Z_Y, NOISE, TABLES)[2:])
    assert torch.equal(x[2], multi_step_input(X0 + 1, Z_Y, NOISE, T, TABLES)[2])
