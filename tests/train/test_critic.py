"""The critic of adversarial distillation: what it looks through, and what both players learn from it."""

import pytest
import torch
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.losses.rsd import frozen
from resdiff.models.dino_features import DinoFeatures
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.vision_transformer import VisionTransformer
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.critic import Critic, CriticArguments, DinoView, EncoderFeatures, Scene, build_heads
from resdiff.train.denoise import draw_noise, draw_timesteps, sample_generators

from .conftest import TINY


def network(seed: int = 0) -> PixelUNet:
    torch.manual_seed(seed)
    unet = PixelUNet(channels=(8, 12), num_blocks=(1, 1)).requires_grad_(False)
    for parameter in unet.parameters():  # zero-initialised layers would hide half of the network
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


@pytest.fixture
def scene() -> Scene:
    generator = torch.Generator().manual_seed(0)
    lq, z_y = (torch.rand(2, 3, side, side, generator=generator) * 2 - 1 for side in (4, 16))
    return Scene([5, 6], lq, z_y, {"prediction": network().predict(lq)})


@pytest.fixture
def through_teacher() -> EncoderFeatures:
    return EncoderFeatures(network(), ResShiftScheduler(**TINY["scheduler"]))


@pytest.fixture
def through_dino() -> DinoView:
    torch.manual_seed(0)
    vit = VisionTransformer(image_size=16, patch_size=8, embed_dim=12, depth=3, num_heads=2)
    return DinoView(DinoFeatures(vit, (0, 2)), lambda latents: latents)


def images(seed: int) -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def drawn(indices=(5, 6)) -> list[torch.Generator]:
    return sample_generators(indices, 0, "critic")


def test_the_teacher_looks_at_latents_as_at_its_last_step(through_teacher, scene) -> None:
    x, scheduler, generators = images(1), through_teacher.scheduler, drawn()
    seen = through_teacher.watch(scene, drawn())(x)
    t = draw_timesteps(generators, (0,), x.device)
    x_t = resshift.q_sample(x, scene.z_y, 0, draw_noise(generators, x), scheduler.train_tables)
    expected = network().encode(scheduler.scale_model_input(x_t, 0), t, scene.lq)
    assert tuple(feature.shape[1] for feature in seen) == through_teacher.dims
    for ours, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(ours, theirs.flatten(2))


def test_any_step_and_the_deepest_features_alone(through_teacher, scene) -> None:
    unet, scheduler = through_teacher.unet, through_teacher.scheduler
    deepest = EncoderFeatures(unet, scheduler, timesteps=(2,), first=-1)
    x, generators = images(1), drawn()
    t = draw_timesteps(generators, (2,), x.device)
    x_t = resshift.q_sample(x, scene.z_y, 2, draw_noise(generators, x), scheduler.train_tables)
    *_, expected = unet.encode(scheduler.scale_model_input(x_t, 2), t, scene.lq)
    (seen,) = deepest.watch(scene, drawn())(x)
    assert deepest.dims == (12,)
    torch.testing.assert_close(seen, expected.flatten(2))


def test_dino_sees_all_images_of_a_scene_augmented_alike_and_each_sample_in_its_own_way(through_dino, scene) -> None:
    x = images(1)
    view = through_dino.watch(scene, drawn())
    assert all(torch.equal(a, b) for a, b in zip(view(x), view(x), strict=True))
    swapped = through_dino.watch(scene, drawn((6, 5)))(x.flip(0))
    for a, b in zip(view(x), swapped, strict=True):
        torch.testing.assert_close(a, b.flip(0))
    same = through_dino.watch(scene, drawn())(x[:1].expand(2, -1, -1, -1))
    assert not torch.allclose(same[0][0], same[0][1])


@pytest.mark.parametrize("name", ["through_teacher", "through_dino"])
def test_the_student_learns_through_the_critic_which_does_not(name, scene, request) -> None:
    features = request.getfixturevalue(name)
    heads = build_heads(features)
    critic, made = Critic(features, heads, heads, seed=0), images(1).requires_grad_()
    with frozen(heads):
        critic.of_student(made, scene).backward()
    assert float(made.grad.abs().max()) > 0
    assert all(parameter.grad is None and parameter.requires_grad for parameter in heads.parameters())
    critic.of_critic(made.detach(), images(2), scene)["loss"].backward()
    assert all(parameter.grad is not None for parameter in heads.parameters())


def test_the_critic_learns_to_tell_photos_from_what_was_made(through_teacher, scene) -> None:
    heads = build_heads(through_teacher)
    critic, optimizer = Critic(through_teacher, heads, heads, seed=0), torch.optim.Adam(heads.parameters(), 1e-2)
    real, made = images(1), 0.2 * images(1)
    losses = []
    for _ in range(60):
        loss = critic.of_critic(made, real, scene)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 1.7 and losses[-1] < 0.5
    with torch.no_grad():
        assert critic.of_student(real, scene) < 0 < critic.of_student(made, scene)


def test_the_penalty_is_on_what_is_seen_of_photos_alone(through_teacher, scene) -> None:
    heads = build_heads(through_teacher).eval()
    plain, penalised = (Critic(through_teacher, heads, heads, seed=0, r1_weight=w) for w in (0.0, 3.0))
    real, made = images(1), images(2)
    without, parts = (critic.of_critic(made, real, scene) for critic in (plain, penalised))
    assert set(without) == {"loss"}
    torch.testing.assert_close(parts["loss"], without["loss"] + 3 * parts["r1"])
    other = penalised.of_critic(images(3), real, scene)
    torch.testing.assert_close(other["r1"], parts["r1"])
    assert float(penalised.of_critic(made, images(3), scene)["r1"]) != pytest.approx(float(parts["r1"]), rel=1e-4)
    parts["r1"].backward()
    assert float(heads[0].main[0][0].weight_orig.grad.abs().max()) > 0


def test_missing_weights_are_said_in_one_line(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"dino_deitsmall16_pretrain\.pth") as caught:
        CriticArguments(critic="dino", critic_weights=tmp_path / "x.pth").find_critic()
    assert "\n" not in str(caught.value)
    assert CriticArguments().find_critic() is None
