"""AddSR's losses: the weights of its code, errors of images, gradients only where they should go."""

import pytest
import torch

from resdiff.losses.addsr import distillation_loss, feature_gradient_penalty, step_weight, time_adaptive_weight


def test_weights_are_those_of_addsr_and_any_other_timestep_is_one_step_more() -> None:
    weights = time_adaptive_weight(torch.tensor([[999, 749, 499], [249, 1000, 0]]))
    expected = torch.tensor([[0.5, 1.05, 2.205], [4.6305, 4.6305, 4.6305]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-12, atol=0)


def test_weights_carry_over_to_other_schedules() -> None:
    t = torch.tensor([14, 7, 3, 0])
    weights = time_adaptive_weight(t, timesteps=(14, 7, 3), mu=1.0, nu=3.0)
    assert weights.tolist() == [1, 3, 9, 27]
    assert torch.equal(weights, step_weight(torch.tensor([1, 2, 3, 4]), mu=1.0, nu=3.0))


def test_distillation_is_the_weighted_error_of_images_between_0_and_1() -> None:
    student = torch.tensor([0.0, -1.0]).reshape(2, 1, 1, 1).expand(2, 3, 4, 4)
    teacher = torch.stack([torch.full_like(student, 0.5), torch.full_like(student, 1.0)])
    noise_weights = torch.tensor([[1.0, 0.5], [0.25, 2.0]])
    loss = distillation_loss(student, teacher, noise_weights, torch.tensor([0.5, 2.0], dtype=torch.float64))
    first = 0.5 * (1.0 * 0.25**2 + 0.25 * 0.5**2) / 2
    second = 2.0 * (0.5 * 0.75**2 + 2.0 * 1.0**2) / 2
    torch.testing.assert_close(loss, torch.tensor([first, second]))


def test_distillation_is_float32_and_teaches_the_student_only() -> None:
    student = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    teacher = torch.ones(1, 2, 3, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = distillation_loss(student, teacher, torch.ones(1, 2), torch.ones(2))
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, torch.full_like(student, -0.5 / 48))


@pytest.mark.parametrize(("noise", "sample"), [((2, 3), (3,)), ((3, 2), (1,)), ((2,), (2,))])
def test_weights_of_another_shape_are_refused(noise: tuple[int, ...], sample: tuple[int, ...]) -> None:
    images = torch.zeros(3, 2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"they must be \(K, B\) = \(3, 2\) and \(B,\) = \(2,\)"):
        distillation_loss(images[0], images, torch.ones(noise), torch.ones(sample))


def test_the_penalty_is_the_squared_gradient_of_each_head() -> None:
    gains = torch.tensor(3.0, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    features = [torch.randn(2, 4, n, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in (5, 6)]
    logits = [gain * x.sum(dim=1) for gain, x in zip(gains, features, strict=True)]
    penalty = feature_gradient_penalty(logits, features)
    torch.testing.assert_close(penalty, torch.tensor((9.0 * 4 * 5 + 0.25 * 4 * 6) / 2))
    penalty.backward()  # the heads learn from it
    torch.testing.assert_close(gains[0].grad, torch.tensor(3.0 * 4 * 5))
