"""The game of student and fake: who learns from what, and in which order."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from resdiff.data.training_set import Batch
from resdiff.losses.rsd import frozen
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.critic import Critic, EncoderFeatures, build_heads
from resdiff.train.distill_rsd import RsdArguments, RsdLosses, RsdStep
from resdiff.train.progress import Progress
from resdiff.train.teacher import become_student

from .conftest import TINY
from .tiny_network import network


def losses(steps: int = 2, **options) -> RsdLosses:
    """The losses of a student, a teacher and a fake of different weights."""
    scheduler = ResShiftScheduler(**TINY["scheduler"])
    pipe = ResShiftPipeline(network(0), None, scheduler, padding_multiple=1, upsampling="pil")
    become_student(pipe, steps)
    teacher, fake = network(1).requires_grad_(False), network(2)
    return RsdLosses(RsdArguments(**options), pipe, pipe.unet, teacher, fake, fake, 0, torch.device("cpu"))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    hr, lr = torch.rand(2, 3, 16, 16, generator=generator), torch.rand(2, 3, 4, 4, generator=generator)
    return Batch(index=[5, 6], hr=hr, lr=lr, draws=[], captions=[], tags=[])


def trained(net: torch.nn.Module) -> set[str]:
    """Names of what got a gradient; behind layers that start at zero it is zero itself."""
    return {name for name, p in net.named_parameters() if p.grad is not None}


def all_of(net: torch.nn.Module) -> set[str]:
    return {name for name, _ in net.named_parameters()}


def test_the_fake_learns_from_the_student_which_does_not(batch) -> None:
    game = losses()
    game.of_fake(game.make(batch))["loss"].backward()
    assert trained(game.fake) == all_of(game.fake) and not trained(game.pipe.unet)


@pytest.mark.parametrize("detached", [False, True])
def test_the_student_learns_whole_and_the_fake_does_not(batch, detached) -> None:
    game = losses(detached=detached)
    with frozen(game.fake):
        game.of_student(batch)["loss"].backward()
    assert trained(game.pipe.unet) == all_of(game.pipe.unet) and not trained(game.fake)
    assert float(game.pipe.unet.predictor.conv_out.weight.grad.abs().max()) > 0
    assert all(parameter.requires_grad for parameter in game.fake.parameters())


def test_each_player_draws_for_itself_and_by_the_samples_index(batch) -> None:
    game = losses()
    made = {stream: game._make(batch, stream, game.pipe.unet) for stream in ("fake", "student")}
    assert not torch.equal(made["fake"].noise, made["student"].noise)
    again = game._make(Batch(**vars(batch) | {"index": [6, 7]}), "student", game.pipe.unet)
    assert torch.equal(again.noise[0], made["student"].noise[1]) and again.t[0] == made["student"].t[1]


def test_the_student_starts_at_its_own_steps_and_is_compared_at_any(batch) -> None:
    game, seen = losses(steps=2), set()
    game.pipe.unet.register_forward_pre_hook(lambda net, args: seen.update(args[1].tolist()))
    compared = set()
    for i in range(40):
        made = game._make(Batch(**vars(batch) | {"index": [2 * i, 2 * i + 1]}), "fake", game.pipe.unet)
        compared |= set(made.t.tolist())
    assert seen == {1, 3} and compared == {0, 1, 2, 3}


def test_lpips_is_added_with_its_weight(batch, monkeypatch) -> None:
    class Distance(torch.nn.Module):
        def __init__(self, weights: object) -> None:
            super().__init__()

        def forward(self, image: Tensor, target: Tensor) -> Tensor:
            return (image - target).square().mean(dim=(1, 2, 3))

    monkeypatch.setattr("resdiff.train.distill_rsd.Lpips", Distance)
    terms = losses(lpips_weight=2.0).of_student(batch)
    assert float(terms["lpips"].detach()) > 0
    torch.testing.assert_close(terms["loss"], terms["game"] + 2 * terms["lpips"])


def test_a_step_trains_the_fake_on_each_part_of_its_batches_and_the_student_on_the_last() -> None:
    calls = []

    def update(name):
        def run(loss, batches, progress):
            calls.append((name, list(batches)))
            return {"loss": 1.0, "lr": 0.1}

        return run

    players = SimpleNamespace(args=RsdArguments(fake_updates=3, fake_warmup_steps=1), fake=network(0), critic=None)
    players.of_fake, players.of_student = None, None
    step = RsdStep(losses=players, update_fake=update("fake"), update_student=update("student"))
    assert step([1, 2, 3, 4, 5, 6], Progress(step=0)) == {"fake": 1.0}
    of_fake = [("fake", [1, 2]), ("fake", [3, 4]), ("fake", [5, 6])]
    assert calls == of_fake
    assert step([1, 2, 3, 4, 5, 6], Progress(step=1)) == {"fake": 1.0, "loss": 1.0, "lr": 0.1}
    assert calls[3:] == [*of_fake, ("student", [5, 6])]


def test_a_critic_judges_what_is_noised_again_and_the_fake_does_not_learn_from_it(batch) -> None:
    game = losses(adversarial_weight=3e-3)
    scheduler = game.pipe.scheduler
    features = EncoderFeatures(game.fake, scheduler, range(len(scheduler)), first=-1)
    heads = build_heads(features)
    plain = game.of_student(batch)
    game.critic = Critic(features, heads, heads, seed=0)
    assert features.dims == (8,) and "adversarial" not in plain
    with frozen(game.fake, heads):
        parts = game.of_student(batch)
        parts["loss"].backward()
    torch.testing.assert_close(parts["loss"], plain["loss"] + 3e-3 * parts["adversarial"])
    assert trained(game.pipe.unet) == all_of(game.pipe.unet) and not trained(game.fake) and not trained(heads)
    game.of_critic(game.make(batch))["loss"].backward()
    assert trained(heads) == all_of(heads) and not trained(game.fake)
