"""Adversarial losses against numbers worked out by hand."""

import pytest
import torch

from resdiff.losses.adversarial import feature_matching, hinge_discriminator, hinge_generator, scaled_gradient


def test_the_hinge_loss_ends_at_the_margin() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])
    assert hinge_discriminator(real, fake) == pytest.approx((0 + 0.5) / 2 + (0 + 1.25) / 2)
    assert hinge_generator(fake) == pytest.approx(2.75 / 2)


def test_features_are_compared_relative_to_the_size_of_the_real_ones() -> None:
    real = [torch.full((1, 2, 2, 2), 2.0), torch.full((1, 1, 1, 1), 10.0)]
    fake = [torch.full((1, 2, 2, 2), 3.0), torch.full((1, 1, 1, 1), 9.0)]
    assert feature_matching(fake, real) == pytest.approx((0.5 + 0.1) / 2)
    assert feature_matching([1000 * f for f in fake], [1000 * r for r in real]) == pytest.approx(0.3)


def test_no_gradient_reaches_the_real_features() -> None:
    real, fake = torch.ones(1, 1, 1, 1, requires_grad=True), torch.zeros(1, 1, 1, 1, requires_grad=True)
    feature_matching([fake], [real]).backward()
    assert real.grad is None and fake.grad is not None


def test_a_scaled_gradient_keeps_its_direction_and_has_the_norm_asked_for() -> None:
    image = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.tensor([1.0, 100.0, 0.0]).reshape(3, 1, 1, 1)
    gradient = scaled_gradient((weights * image.square()).sum(), image, 0.5)
    norms = gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([0.5, 0.5, 0.0]))
    torch.testing.assert_close(gradient[0] / gradient[0].norm(), image[0].detach() / image[0].detach().norm())
    assert not gradient.requires_grad
