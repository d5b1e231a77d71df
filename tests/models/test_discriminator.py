"""The judge of adversarial training."""

import torch

from resdiff.models.discriminator import PatchDiscriminator


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 64, 48, generator=g) * 2 - 1, torch.rand(2, 3, 64, 48, generator=g) * 2 - 1


def test_it_returns_a_logit_per_patch_and_the_features_of_every_layer() -> None:
    torch.manual_seed(0)
    logits, features = PatchDiscriminator(channels=(8, 8, 16, 16))(*inputs())
    assert logits.shape == (2, 1, 8, 6)
    assert [tuple(f.shape[1:]) for f in features] == [(8, 16, 12), (8, 16, 12), (16, 8, 6), (16, 8, 6)]


def test_it_sees_the_residual_the_enlargement_and_the_prompt() -> None:
    torch.manual_seed(0)
    judge, (image, y) = PatchDiscriminator(channels=(8, 8, 16, 16), prompt_dim=4), inputs()
    logits, _ = judge(image, y)
    assert torch.equal(judge(image, y, torch.zeros(2, 4))[0], logits)
    for other in (
        judge(image.flip(-1), y),
        judge(image + y.flip(-1) - y, y.flip(-1)),
        judge(image, y, torch.ones(2, 4)),
    ):
        assert not torch.allclose(other[0], logits)


def test_its_width_does_not_depend_on_the_image() -> None:
    judge = PatchDiscriminator(channels=(8, 8, 16, 16))
    image, y = inputs()
    torch.testing.assert_close(judge(image[:1], y[:1])[0], judge(image, y)[0][:1])
