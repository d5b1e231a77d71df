"""One step of adversarial distillation: the student's chain, its targets, and who learns from what."""

import pytest
import torch

from resdiff.data.training_set import Batch
from resdiff.diffusion import resshift
from resdiff.losses.rsd import frozen
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.resize import bicubic
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.critic import Critic, EncoderFeatures, build_heads
from resdiff.train.denoise import Denoise, draw_noise, draw_timesteps, sample_generators
from resdiff.train.distill_add import AddArguments, AddLosses
from resdiff.train.teacher import become_student

from .conftest import TINY
from .tiny_network import network


def losses(steps: int = 3, **options) -> AddLosses:
    """The losses of a student, a teacher and a critic of random weights."""
    scheduler = ResShiftScheduler(**TINY["scheduler"])
    args = AddArguments(**options)
    pipe = ResShiftPipeline(network(0), None, scheduler, padding_multiple=1, upsampling="pil")
    become_student(pipe, steps)
    pipe.register_to_config(psr_weight=args.psr_weight)
    teacher = network(1).requires_grad_(False)
    features = EncoderFeatures(teacher, pipe.scheduler)
    heads = build_heads(features)
    return AddLosses(args, pipe, pipe.unet, teacher, Critic(features, heads, heads, seed=0), seed=0)


def batch(index=(5, 6), seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    hr, lr = torch.rand(2, 3, 16, 16, generator=generator), torch.rand(2, 3, 4, 4, generator=generator)
    return Batch(index=list(index), hr=hr, lr=lr, draws=[], captions=[], tags=[])


@torch.no_grad()
@pytest.mark.parametrize("psr_weight", [0.0, 0.4])
def test_the_student_learns_on_the_chain_that_it_samples(psr_weight) -> None:
    add, one = losses(psr_weight=psr_weight), batch()
    pipe, lq = add.pipe, one.lr * 2 - 1
    z_y, generators = pipe.upsample(lq), sample_generators(one.index, 0, "chain")
    x_t, seen = pipe.scheduler.prior_sample(z_y, draw_noise(generators, z_y)), lq
    for step, t in enumerate(pipe.scheduler.timesteps.tolist()):
        output = pipe.unet(pipe.scheduler.scale_model_input(x_t, t), torch.full((2,), t), seen)
        after = pipe.scheduler.step(output, t, x_t, y=z_y, noise=draw_noise(generators, z_y))
        torch.testing.assert_close(add.make(one, step, pipe.unet).x0, after.pred_original_sample)
        x_t, seen = after.prev_sample, pipe.refined(lq, after.pred_original_sample) if psr_weight else lq


def test_the_chain_knows_nothing_of_the_photo_and_draws_by_the_samples_index() -> None:
    add, one, other = losses(), batch(), batch(seed=1)
    with torch.no_grad():
        made = add.make(one, 1, add.unet)
        same_lr = Batch(**vars(one) | {"hr": other.hr})
        assert torch.equal(add.make(same_lr, 1, add.unet).x0, made.x0)
        swapped = Batch(**vars(one) | {"index": [6, 5], "lr": one.lr.flip(0)})
        torch.testing.assert_close(add.make(swapped, 1, add.unet).x0, made.x0.flip(0))


def test_only_the_last_step_has_a_gradient_and_the_whole_student_gets_it() -> None:
    add = losses()
    calls = []
    add.pipe.unet.denoiser.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    made = add.make(batch(), 2, add.unet)
    assert calls == [False, False, True]
    with frozen(add.critic.heads):
        add.of_student(made, 2)["loss"].backward()
    assert all(parameter.grad is not None for parameter in add.unet.parameters())
    assert all(parameter.grad is None for parameter in add.critic.heads.parameters())
    assert all(parameter.grad is None for parameter in add.teacher.parameters())


@torch.no_grad()
def test_the_target_is_what_the_teacher_makes_of_the_prediction_beside_the_reduced_photo() -> None:
    add, one = losses(teacher_draws=2, adversarial_weight=0.0), batch()
    hr = one.hr * 2 - 1
    made, tables = add.make(one, 0, add.unet), add.pipe.scheduler.train_tables
    lq = bicubic(hr, (4, 4), "pil")
    z_y = add.pipe.upsample(lq)
    teacher, generators = Denoise(add.teacher, add.pipe.scheduler, lq, z_y), sample_generators([5, 6], 0, "teacher")
    errors = []
    for _ in range(2):
        t = draw_timesteps(generators, range(len(tables)), hr.device)
        x_t = resshift.q_sample(made.x0, z_y, t, draw_noise(generators, hr), tables)
        error = ((teacher(x_t, t, lq) - made.x0) / 2).square().flatten(1).mean(dim=1)
        errors.append(error * (1 - tables.etas[t]).float())
    expected = torch.stack(errors).mean()
    for step, weight in enumerate((0.5, 1.05, 2.205)):  # grows from step to step
        parts = add.of_student(made, step)
        torch.testing.assert_close(parts["distillation"], weight * expected)
        assert parts["loss"] == parts["distillation"] and "adversarial" not in parts
    torch.testing.assert_close(parts["mse"], (made.x0 - hr).square().mean())


def test_half_of_the_steps_are_the_first_and_the_others_alike() -> None:
    add = losses(steps=3)
    counts = torch.tensor([add.draw_step(i) for i in range(2000)]).bincount(minlength=3) / 2000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.25, 0.25]), atol=0.03, rtol=0)
    assert {losses(steps=1).draw_step(i) for i in range(5)} == {0}
