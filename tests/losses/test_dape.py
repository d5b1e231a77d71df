"""DAPE's losses are the published formulas, and finite where these are not."""

import math

import pytest
import torch

from resdiff.losses.dape import dape_feature_loss, dape_logits_loss


def test_embeddings_are_compared_by_their_mean_squared_difference() -> None:
    student, teacher = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [6.0, 4.0]]])
    assert dape_feature_loss(student, teacher).item() == (4 + 9) / 4
    assert dape_feature_loss(student, student).item() == 0


def test_tags_are_compared_by_the_cross_entropy_of_the_teachers_probabilities() -> None:
    student, teacher = torch.tensor([[0.3, -1.2], [2.0, 0.0]]), torch.tensor([[1.0, 0.5], [-0.5, 3.0]])
    p, q = teacher.sigmoid(), student.sigmoid()
    expected = -(p * q.log() + (1 - p) * (1 - q).log()).mean()
    assert dape_logits_loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-6)
    assert dape_logits_loss(teacher, student).item() != pytest.approx(expected.item(), rel=1e-2)


def test_a_student_who_agrees_is_left_alone() -> None:
    logits = torch.tensor([[0.3, -1.2, 40.0, -40.0]], requires_grad=True)
    dape_logits_loss(logits, logits.detach()).backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-7


def test_certain_tags_give_finite_losses_in_half_precision_too() -> None:
    student = torch.tensor([[-200.0, 200.0, 0.0]])
    teacher = torch.tensor([[200.0, 200.0, 0.0]])
    expected = (200.0 + 0.0 + math.log(2)) / 3
    assert dape_logits_loss(student, teacher).item() == pytest.approx(expected)
    loss = dape_logits_loss(student.half(), teacher.half())
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected)
    far = torch.full((1, 2, 2), 300.0).half()
    assert dape_feature_loss(far, -far).item() == 360_000  # beyond float16


def test_no_gradient_goes_to_the_teacher() -> None:
    student, teacher = (torch.zeros(1, 3, requires_grad=True) for _ in range(2))
    (dape_logits_loss(student, teacher + 1) + dape_feature_loss(student + 1, teacher)).backward()
    assert student.grad is not None and student.grad.abs().min() > 0
    assert teacher.grad is None
