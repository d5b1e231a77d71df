"""What a frozen transformer sees of an image, as a discriminator wants it."""

import pytest
import torch

from resdiff.models.dino_features import DinoFeatures
from resdiff.models.vision_transformer import VisionTransformer

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture
def features() -> DinoFeatures:
    torch.manual_seed(0)
    return DinoFeatures(VisionTransformer(image_size=16, patch_size=8, embed_dim=12, depth=3, num_heads=2), (0, 2))


def images(side: int) -> torch.Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@torch.no_grad()
def test_each_is_the_tokens_of_the_patches_plus_that_of_the_class(features: DinoFeatures) -> None:
    x = images(16)
    embedded, first, _, third = features.vit.hidden_states((x / 2 + 0.5 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1))
    seen = features(x)
    assert features.dims == (12, 12, 12)
    for feature, tokens in zip(seen, (first, third, embedded), strict=True):
        assert feature.shape == (2, 12, 4)
        for patch in range(4):
            torch.testing.assert_close(feature[:, :, patch], tokens[:, 1 + patch] + tokens[:, 0])


@torch.no_grad()
def test_larger_images_are_seen_as_the_mean_of_their_pixels(features: DinoFeatures) -> None:
    x = images(16)
    for ours, large in zip(features(x), features(x.repeat_interleave(3, -1).repeat_interleave(3, -2)), strict=True):
        torch.testing.assert_close(ours, large)


def test_gradients_reach_the_image_and_no_weight(features: DinoFeatures) -> None:
    x = images(20).requires_grad_()
    features(x)[1].sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is None and not p.requires_grad for p in features.parameters())
