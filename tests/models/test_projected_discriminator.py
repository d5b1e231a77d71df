"""The critic on frozen features: what its heads are, and what training it changes."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from resdiff.models.projected_discriminator import EqualizedLinear, ProjectedDiscriminator

CONFORMANCE = Path(os.environ.get("RESDIFF_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
MANIFEST = CONFORMANCE / "addsr" / "manifest_discriminator.json"
DIMS = (8, 12)


class Features(nn.Module):
    """Random projections of the pixels; the second layer has dropout, which is noticed when it is not switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, dim, 4, stride=4) for dim in DIMS)
        self.dropout = nn.Dropout()

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.dropout(conv(image).flatten(2)) for conv in self.maps]


@pytest.fixture
def critic() -> ProjectedDiscriminator:
    torch.manual_seed(0)
    return ProjectedDiscriminator(Features(), DIMS, condition_dim=5, projection_dim=6).eval()


def inputs() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 16, 12, generator=g) * 2 - 1, torch.randn(2, 5, generator=g)


def test_it_returns_a_logit_of_every_token_of_every_feature(critic: ProjectedDiscriminator) -> None:
    image, condition = inputs()
    logits = critic.heads(critic.features(image), condition)
    assert [x.shape for x in logits] == [(2, 12), (2, 12)]
    assert torch.equal(critic(image, condition), torch.cat(logits, dim=1))
    torch.testing.assert_close(critic(image[:1], condition[:1]), critic(image, condition)[:1])


def test_the_logits_are_linear_in_the_condition(critic: ProjectedDiscriminator) -> None:
    image, condition = inputs()
    assert not critic(image, torch.zeros_like(condition)).any()
    torch.testing.assert_close(critic(image, -2 * condition), -2 * critic(image, condition))


def test_the_tokens_are_a_ring(critic: ProjectedDiscriminator) -> None:
    image, condition = inputs()
    features = critic.features(image)
    rolled = critic.heads([x.roll(5, dims=-1) for x in features], condition)
    for ours, theirs in zip(critic.heads(features, condition), rolled, strict=True):
        torch.testing.assert_close(ours.roll(5, dims=-1), theirs)


def test_only_heads_learn_and_features_stay_in_evaluation_mode(critic: ProjectedDiscriminator) -> None:
    image, condition = inputs()
    image.requires_grad_()
    critic.train()
    assert critic.heads.training
    assert not any(m.training for m in critic.features.modules())
    critic(image, condition).square().sum().backward()
    assert image.grad.abs().max() > 0  # the generator learns through it
    assert all(p.grad is None for p in critic.features.parameters())
    assert all(p.grad is not None for p in critic.heads.parameters())


def test_calls_in_training_bring_the_largest_singular_value_to_1(critic: ProjectedDiscriminator) -> None:
    before = {name: x.clone() for name, x in critic.state_dict().items()}
    critic(*inputs())
    assert all(torch.equal(x, before[name]) for name, x in critic.state_dict().items())
    critic.train()
    for _ in range(300):
        critic(*inputs())
    for name, conv in critic.heads.named_modules():
        if isinstance(conv, nn.Conv1d):
            assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3), name


def test_two_calls_in_training_can_be_differentiated_together(critic: ProjectedDiscriminator) -> None:
    image, condition = inputs()
    critic.train()
    (critic(image, condition).sum() - critic(-image, condition).sum()).backward()


def test_the_linear_layer_keeps_the_variance_at_any_width() -> None:
    torch.manual_seed(0)
    out = EqualizedLinear(400, 200)(torch.randn(300, 400))
    assert out.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.skipif(not MANIFEST.is_file(), reason=f"no {MANIFEST}")
def test_the_heads_of_full_size_are_those_of_addsr() -> None:
    shapes = json.loads(MANIFEST.read_text())["params"]
    with torch.device("meta"):
        critic = ProjectedDiscriminator(nn.Identity(), [384] * 5)
    heads = {name: shape for name, shape in shapes.items() if name.startswith("heads.")}
    assert {name: list(x.shape) for name, x in critic.state_dict().items()} == heads
