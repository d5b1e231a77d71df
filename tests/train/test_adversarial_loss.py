"""The chain that adversarial training runs, and the losses of both players."""

import pytest
import torch

from resdiff.data.training_set import Batch, sample_generator
from resdiff.models.discriminator import PatchDiscriminator
from resdiff.models.pixel_unet import PixelUNet
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.adversarial_loss import (
    NOTHING,
    AdversarialArguments,
    Chain,
    GeneratorLoss,
    Made,
    Said,
    discriminator_loss,
    draw_step,
)

LAST = 3


@pytest.fixture
def pipe() -> ResShiftPipeline:
    torch.manual_seed(0)
    unet = PixelUNet(channels=(8,), num_blocks=(1,), prompt_dim=4)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = ResShiftScheduler(
        num_train_timesteps=4, min_noise_level=0.0316, etas_end=1.0, kappa=0.25, prediction_type="residual",
        data_var=0.25, respacing="trailing",
    )  # fmt: skip
    return ResShiftPipeline(unet, None, scheduler, padding_multiple=1, upsampling="pil")


def batch(first: int = 0) -> Batch:
    g = torch.Generator().manual_seed(first)
    hr, lr = torch.rand(2, 3, 32, 32, generator=g), torch.rand(2, 3, 8, 8, generator=g)
    return Batch(index=[first, first + 1], hr=hr, lr=lr, draws=[None] * 2, captions=[""] * 2, tags=[()] * 2)


def made(step: int = 1, prompt: torch.Tensor | None = None) -> Made:
    g = torch.Generator().manual_seed(0)
    hr, y, mean, x0 = (torch.rand(2, 3, 32, 32, generator=g) * 2 - 1 for _ in range(4))
    return Made(hr=hr, y=y, mean=mean, x0=x0.requires_grad_(), said=Said(prompt), step=step)


def test_the_step_depends_on_the_optimizer_step_alone_and_its_share_is_kept() -> None:
    drawn = [draw_step(1, i, 4, 0.25) for i in range(400)]
    assert drawn == [draw_step(1, i, 4, 0.25) for i in range(400)] and set(drawn) == {0, 1, 2, 3}
    assert 70 <= drawn.count(LAST) <= 130
    assert {draw_step(1, i, 4, 1.0) for i in range(20)} == {LAST} and draw_step(1, 0, 1, 0.0) == 0
    assert LAST not in {draw_step(1, i, 4, 0.0) for i in range(100)}


@torch.no_grad()
def test_noise_belongs_to_the_sample_not_to_its_batch(pipe) -> None:
    chain, samples = Chain(pipe, pipe.unet, lambda b, mean: NOTHING, seed=1), batch()
    second = Batch(index=[1], hr=samples.hr[1:], lr=samples.lr[1:], draws=[None], captions=[""], tags=[()])
    torch.testing.assert_close(chain(second, 1).x0, chain(samples, 1).x0[1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_chain_is_the_pipeline_s_own(pipe) -> None:
    # at step 0 the prediction is the sampler's result for the same noise
    prompt = torch.full((2, 4), 0.5)
    result = Chain(pipe, pipe.unet, lambda b, mean: Said(prompt), seed=1)(batch(), 0)
    generators = [sample_generator(1, i, stream="chain") for i in (0, 1)]
    lq = batch().lr * 2 - 1
    y = pipe.upsample(lq)
    pipe.scheduler.set_timesteps(4)

    def noise() -> torch.Tensor:
        return torch.stack([torch.randn(3, 32, 32, generator=g) for g in generators])

    x_t = pipe.scheduler.prior_sample(y, noise())
    for t in pipe.scheduler.timesteps:
        output = pipe.unet(pipe.scheduler.scale_model_input(x_t, t), t.expand(2), lq, prompt=prompt)
        step = pipe.scheduler.step(output, t, x_t, y=y, noise=noise())
        x_t = step.prev_sample
    torch.testing.assert_close(result.x0, step.pred_original_sample, atol=1e-5, rtol=0)


def test_only_the_prediction_at_the_drawn_step_carries_a_gradient(pipe) -> None:
    pipe.unet.requires_grad_(False)
    pipe.unet.denoiser.requires_grad_(True)
    result = Chain(pipe, pipe.unet, lambda b, mean: NOTHING, seed=1)(batch(), 1)
    assert result.x0.requires_grad and not result.mean.requires_grad and not result.y.requires_grad
    result.x0.square().mean().backward()
    assert pipe.unet.denoiser.conv_in.weight.grad.abs().max() > 0 and pipe.unet.predictor.conv_in.weight.grad is None


def gradient(loss: GeneratorLoss, example: Made) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss(example)["loss"], example.x0)
    return found


def test_the_discriminator_pulls_in_proportion_to_the_pixel_loss() -> None:
    torch.manual_seed(0)
    judge = PatchDiscriminator(channels=(8, 8, 8, 8))
    plain, pulled = (
        GeneratorLoss(AdversarialArguments(adversarial_weight=weight, feature_weight=0.0), judge, None, LAST)
        for weight in (0.0, 0.3)
    )
    l1 = gradient(plain, made())
    pull = gradient(pulled, made()) - l1
    torch.testing.assert_close(pull.flatten(1).norm(dim=1), 0.3 * l1.flatten(1).norm(dim=1))


def test_the_last_step_stays_the_mean() -> None:
    judge = PatchDiscriminator(channels=(8, 8, 8, 8))
    loss = GeneratorLoss(AdversarialArguments(), judge, None, LAST)
    example = made(step=LAST)
    torch.testing.assert_close(gradient(loss, example), (example.x0 - example.hr).sign().detach() / example.x0.numel())


def test_the_reported_loss_is_l1_whatever_pulls_beside_it() -> None:
    loss = GeneratorLoss(AdversarialArguments(), PatchDiscriminator(channels=(8, 8, 8, 8)), None, LAST)
    terms, example = loss(made()), made()
    assert float(terms["loss"]) == pytest.approx(float((example.x0.detach() - example.hr).abs().mean()))
    assert {"adversarial", "features"} <= terms.keys()


def test_an_attribute_pulls_too() -> None:
    judge = PatchDiscriminator(channels=(8, 8, 8, 8))
    args = AdversarialArguments(adversarial_weight=0.0, feature_weight=0.0, attribute_weight=0.2)
    loss = GeneratorLoss(args, judge, lambda example, image: image.square().mean(), LAST)
    pull = gradient(loss, made()) - gradient(GeneratorLoss(args, judge, None, LAST), made())
    l1, x0 = gradient(GeneratorLoss(args, judge, None, LAST), made()).flatten(1), made().x0.detach().flatten(1)
    direction = x0 / x0.norm(dim=1, keepdim=True)  # of the gradient of each sample's square
    torch.testing.assert_close(pull.flatten(1), 0.2 * l1.norm(dim=1, keepdim=True) * direction, atol=1e-7, rtol=1e-3)


def test_the_discriminator_learns_to_tell_photos_from_made_images() -> None:
    torch.manual_seed(0)
    judge, example = PatchDiscriminator(channels=(8, 8, 8, 8), prompt_dim=4), made(prompt=torch.ones(2, 4))
    optimizer = torch.optim.Adam(judge.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = discriminator_loss(judge, example)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[0] > 1.5 and losses[-1] < 0.5
    assert example.x0.grad is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_weight": -1.0}, "adversarial_weight -1.0 must not be negative"),
        ({"attribute_share": -0.1}, "attribute_share -0.1 must not be negative"),
        ({"attribute_level": 1.5}, "attribute_level 1.5 must lie in"),
        ({"discriminator_learning_rate": 0.0}, "discriminator_learning_rate 0.0 must be positive"),
        ({"discriminator_warmup_steps": -1}, "discriminator_warmup_steps -1 must not be negative"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        AdversarialArguments(**options).check_loss()
