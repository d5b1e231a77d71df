"""SinSR's distillation terms: each compares what the paper says, and gradients go only where they should."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.losses.diffusion import mse_per_sample
from resdiff.losses.distillation import Distillation, distillation_losses

TABLES = resshift.resshift_tables(resshift.sqrt_eta_schedule(15), 2.0)
INPUT_STD = 2.2181970  # sqrt(kappa^2 eta_T + 1)
LQ, Z_Y, Z_GT, NOISE = torch.randn(4, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
X_T = Z_Y + 1.98 * NOISE
HR = Z_GT.repeat_interleave(2, -1).repeat_interleave(2, -2)


def upsample(z: Tensor) -> Tensor:
    """A decoder: nearest x2, plus one."""
    return z.repeat_interleave(2, -1).repeat_interleave(2, -2) + 1


class Student(torch.nn.Module):
    """Two linear maps, one for each direction; remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.forward_gain = torch.nn.Parameter(torch.tensor(0.7))
        self.inverse_gain = torch.nn.Parameter(torch.tensor(1.3))
        self.calls: list[tuple[Tensor, int, bool]] = []

    def forward(self, x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        assert t.dtype == torch.int64
        assert t.shape == (len(x),)
        assert lq is LQ
        self.calls.append((x.detach(), int(t[0]), torch.is_grad_enabled()))
        return (self.inverse_gain if int(t[0]) == 0 else self.forward_gain) * x


def losses(student: Callable[..., Tensor], teacher: Callable[[Tensor], Tensor] = lambda x: 0.5 * x, **options: object):
    return distillation_losses(student, teacher, TABLES, lq=LQ, z_y=Z_Y, z_gt=Z_GT, noise=NOISE, **options)


def test_terms_are_those_of_the_paper() -> None:
    result = losses(Student(), gt_weight=0.25)
    to_x0, to_x_T = 0.7 / INPUT_STD, 1.3 / INPUT_STD
    expected = {
        "mse": mse_per_sample(to_x0 * X_T, 0.5 * X_T),
        "mse_xT": mse_per_sample(to_x_T * 0.5 * X_T, X_T),
        "mse_gt": mse_per_sample(to_x0 * to_x_T * Z_GT, Z_GT),
    }
    expected["loss"] = expected["mse"] + expected["mse_xT"] + 0.25 * expected["mse_gt"]
    assert result.terms.keys() == expected.keys()
    for name, term in expected.items():
        assert term.shape == (2,)
        assert torch.allclose(result.terms[name], term, rtol=1e-5)


def test_latents_are_those_that_were_compared() -> None:
    result = losses(Student())
    assert isinstance(result, Distillation)
    assert torch.allclose(result.x_T, X_T, atol=1e-6)
    assert torch.allclose(result.x0_teacher, 0.5 * X_T, atol=1e-6)
    assert torch.allclose(result.x0_student, 0.7 / INPUT_STD * X_T, atol=1e-6)


def test_the_network_is_asked_at_the_last_step_or_at_zero_with_one_input_scale() -> None:
    student = Student()
    losses(student)
    assert [(t, grad) for _, t, grad in student.calls] == [(14, True), (0, True), (0, False), (14, True)]
    scaled = [x for x, _, _ in student.calls]
    assert torch.allclose(scaled[0], X_T / INPUT_STD, atol=1e-6)
    assert torch.allclose(scaled[1], 0.5 * X_T / INPUT_STD, atol=1e-6)
    assert torch.allclose(scaled[2], Z_GT / INPUT_STD, atol=1e-6)


def test_teacher_and_the_noise_of_the_true_image_have_no_gradient() -> None:
    student, weight = Student(), torch.tensor(0.5, requires_grad=True)
    result = losses(student, lambda x: weight * x)
    assert not result.x0_teacher.requires_grad
    (gradient,) = torch.autograd.grad(result.terms["mse_gt"].sum(), student.inverse_gain, allow_unused=True)
    assert gradient is None
    torch.autograd.backward(losses(student, lambda x: weight * x).terms["loss"].mean())
    assert weight.grad is None
    assert student.forward_gain.grad is not None
    assert student.inverse_gain.grad is not None


def test_a_student_that_inverts_the_teacher_has_no_loss() -> None:
    def student(x: Tensor, t: Tensor, lq: Tensor) -> Tensor:
        return INPUT_STD * x * (2.0 if int(t[0]) == 0 else 0.5)

    for term in losses(student).terms.values():
        assert float(term.max()) < 1e-10


def test_image_space_measures_decoded_images() -> None:
    result = losses(Student(), decode=upsample, hr=HR)
    to_x0, to_x_T = 0.7 / INPUT_STD, 1.3 / INPUT_STD
    assert result.terms.keys() == {"loss", "mse", "mse_xT", "mse_gt_rgb"}
    assert torch.allclose(result.terms["mse"], losses(Student()).terms["mse"], rtol=1e-5)  # the decoder's 1 cancels
    consistency = mse_per_sample(upsample(to_x0 * to_x_T * Z_GT), HR)
    assert torch.allclose(result.terms["mse_gt_rgb"], consistency, rtol=1e-5)
    assert torch.allclose(
        result.terms["loss"], result.terms["mse"] + result.terms["mse_xT"] + result.terms["mse_gt_rgb"]
    )


def test_a_term_of_weight_zero_is_left_out_and_not_computed() -> None:
    student = Student()
    result = losses(student, inverse_weight=0.0, gt_weight=0.0)
    assert result.terms.keys() == {"loss", "mse"}
    assert torch.equal(result.terms["loss"], result.terms["mse"])
    assert len(student.calls) == 1


@pytest.mark.parametrize(("scaling", "scale"), [("latent", INPUT_STD), ("pixel", 1 + 3 * 1.98), ("none", 1.0)])
def test_both_directions_scale_the_input_as_the_teacher_was_trained(scaling: str, scale: float) -> None:
    student = Student()
    losses(student, scaling=scaling)
    for (seen, _, _), x in zip(student.calls, (X_T, 0.5 * X_T, Z_GT), strict=False):
        assert torch.allclose(seen, x / scale, atol=1e-6)


def test_weighting_by_the_bound_touches_the_sum_only() -> None:
    plain, weighted = losses(Student()), losses(Student(), weighted=True)
    for name in ("mse", "mse_xT", "mse_gt"):
        assert torch.equal(plain.terms[name], weighted.terms[name])
    change = weighted.terms["loss"] - plain.terms["loss"]
    assert torch.allclose(change, (0.02387 - 1) * plain.terms["mse"], rtol=1e-3)


def test_another_step_can_stand_for_the_way_to_x0() -> None:
    student = Student()
    losses(student, t=torch.tensor([8, 8]))
    assert [t for _, t, _ in student.calls] == [8, 0, 0, 8]
    assert torch.allclose(student.calls[0][0], X_T / 1.474325, atol=1e-5)  # the scale goes with it, the noise stays


@pytest.mark.parametrize("options", [{"decode": upsample}, {"hr": HR}])
def test_image_space_needs_decoder_and_image(options: dict) -> None:
    with pytest.raises(ValueError, match="needs both decode and hr"):
        losses(Student(), **options)
