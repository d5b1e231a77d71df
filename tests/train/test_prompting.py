"""What is said of photos in training, and how far results are from it."""

import pytest
import torch

from resdiff.data.attributes import attributes, traits
from resdiff.data.training_set import Batch
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.prompt_encoder import PromptEncoder, Usual
from resdiff.train.adversarial_loss import NOTHING, Made, Said
from resdiff.train.prompting import Prompting, PromptingArguments, deaf_to_checkerboards, deaf_to_grids

CPU = torch.device("cpu")


@pytest.fixture
def encoder() -> PromptEncoder:
    """An encoder with random embeddings for every token: each prompt says something."""
    torch.manual_seed(0)
    encoder = PromptEncoder(mean=(0.5, 0.0, 0.0, 0.5), std=(0.5, 0.5, 0.1, 0.5))
    torch.nn.init.normal_(encoder.table.weight)
    return encoder


USUAL, SPREAD = (0.6, 0.3, 0.1, 0.8), (0.5, 0.3, 0.1, 0.7)


def batch(count: int = 6) -> tuple[Batch, torch.Tensor]:
    """Noisy photos, and smoother predictions of them in [-1, 1]."""
    g = torch.Generator().manual_seed(0)
    hr = torch.rand(count, 3, 64, 64, generator=g)
    mean = torch.nn.functional.avg_pool2d(hr, 5, 1, 2) * 2 - 1
    batch = Batch(index=[*range(count)], hr=hr, lr=None, draws=[None] * count, captions=[""] * count, tags=[()] * count)
    return batch, mean


def made(step: int, prompt: torch.Tensor | None) -> Made:
    samples, mean = batch(2)
    usual = Usual(torch.tensor([USUAL, USUAL]), torch.tensor([SPREAD, SPREAD]))
    said = Said(torch.zeros(2, 4) if prompt is None else prompt, attributes(samples.hr, (mean + 1) / 2), usual)
    return Made(hr=samples.hr * 2 - 1, y=mean, mean=mean, x0=mean, said=said, step=step)


def test_a_sample_is_always_told_the_same_and_the_share_is_kept(encoder) -> None:
    samples, mean = batch(60)
    told = Prompting(encoder, PromptingArguments(prompt_share=0.5), 1, CPU).say(samples, mean).prompt
    again = Prompting(encoder, PromptingArguments(prompt_share=0.5), 1, CPU).say(samples, mean).prompt
    other = Prompting(encoder, PromptingArguments(prompt_share=0.5), 2, CPU).say(samples, mean).prompt
    assert told.shape == (60, 4) and torch.equal(told, again) and not torch.equal(told, other)
    assert 18 <= int(told.any(dim=1).sum()) <= 42
    silent = Prompting(encoder, PromptingArguments(prompt_share=0.0), 1, CPU).say(samples, mean).prompt
    assert not silent.any()


def test_what_is_said_is_what_was_measured(encoder, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr("resdiff.train.prompting.draw_prompt", lambda row, generator: seen.append(row) or "sharp")
    samples, mean = batch(2)
    told = Prompting(encoder, PromptingArguments(prompt_share=1.0), 1, CPU).say(samples, mean).prompt
    predicted = (mean + 1) / 2
    expected = encoder.usual(traits(predicted)).standardize(attributes(samples.hr, predicted))
    torch.testing.assert_close(torch.stack([torch.as_tensor(row) for row in seen]), expected, equal_nan=True)
    assert torch.equal(told, encoder(tokenize(["sharp", "sharp"])))


def test_the_target_lies_between_what_is_usual_and_the_photo(encoder) -> None:
    example, usual = made(step=1, prompt=None), torch.tensor(USUAL)
    prompting = Prompting(encoder, PromptingArguments(), 1, CPU)
    assert float(prompting.distance(1.0, 1.0, last=3, scale=4)(example, example.hr)) == pytest.approx(0, abs=1e-4)
    samples, mean = batch(2)
    photo = attributes(samples.hr, (mean + 1) / 2)
    known = torch.isfinite(photo)
    for level, share in ((0.0, 1.0), (0.5, 0.25), (1.0, 0.0)):
        target = level * usual + share * (photo - usual)
        expected = ((photo - target).abs() / torch.tensor(SPREAD))[known].mean()
        found = prompting.distance(level, share, last=3, scale=4)(example, example.hr)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_at_the_last_step_images_without_a_prompt_are_left_alone(encoder) -> None:
    distance = Prompting(encoder, PromptingArguments(), 1, CPU).distance(level=0.4, share=1.0, last=3, scale=4)
    prompt = torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]])
    example = made(step=3, prompt=prompt)
    image = example.mean.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distance(example, image), image)
    assert not gradient[0].any() and gradient[1].any()


def test_without_an_encoder_nothing_is_said_nor_asked_for() -> None:
    prompting = Prompting(None, PromptingArguments(), 1, CPU)
    assert prompting.say(*batch(2)) == NOTHING and prompting.distance(0.4, 0.5, last=3, scale=4) is None
    with pytest.raises(ValueError, match="--prompt_share 2 must lie in"):
        PromptingArguments(prompt_share=2).check_prompts()


def stripes(period: int) -> torch.Tensor:
    """Return columns of +1 and -1, (80, 80)."""
    return (1 - 2 * (torch.arange(80) // (period // 2) % 2).float()).expand(80, 80)


@pytest.mark.parametrize(
    ("pattern", "stays"),
    [
        (stripes(2), False),
        (stripes(2) * stripes(2).T, False),
        (stripes(4) * stripes(4).T, False),
        (stripes(8), True),
        (torch.ones(80, 80), True),
    ],
    ids=["lines", "checkerboard", "grid of the shuffle", "wider lines", "brightness"],
)
def test_images_stay_and_gradients_lose_what_repeats_from_cell_to_cell(pattern: torch.Tensor, stays: bool) -> None:
    image = torch.rand(2, 3, 80, 80, requires_grad=True)
    seen = deaf_to_grids(image, 4)
    assert torch.equal(seen, image)
    (gradient,) = torch.autograd.grad(seen, image, pattern.expand_as(image))
    inner = slice(36, 44)  # two cells, whose neighbours have all their neighbours
    expected = stays * pattern[inner, inner].expand(2, 3, 8, 8)
    torch.testing.assert_close(gradient[..., inner, inner], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("pattern", "stays"),
    [
        (stripes(2), 0),
        (stripes(2) * stripes(2).T, 0),
        (torch.cat([stripes(2)[:, :20], -stripes(2)[:, :60]], 1), 0),
        (stripes(4), 3 / 4),
        (stripes(4) * stripes(4).T, 9 / 16),
        (torch.ones(80, 80), 1),
    ],
    ids=["lines", "checkerboard", "lines that change their phase", "wider lines", "wider checkerboard", "brightness"],
)
def test_images_stay_and_gradients_lose_what_alternates(pattern: torch.Tensor, stays: float) -> None:
    image = torch.rand(2, 3, 80, 80, requires_grad=True)
    seen = deaf_to_checkerboards(image)
    assert torch.equal(seen, image)
    (gradient,) = torch.autograd.grad(seen, image, pattern.expand_as(image))
    inner = slice(24, 32)  # off the borders and the change of phase
    expected = stays * pattern[inner, inner].expand(2, 3, 8, 8)
    torch.testing.assert_close(gradient[..., inner, inner], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_other_scales_have_grids_of_their_own(scale: int) -> None:
    image = torch.rand(1, 3, 60, 60, requires_grad=True)
    period_six = (1 - 2 * (torch.arange(60) // 3 % 2).float()).expand(60, 60)
    pattern = period_six if scale == 1 else (torch.arange(60) % scale == 0).float().expand(60, 60)
    (gradient,) = torch.autograd.grad(deaf_to_grids(image, scale), image, pattern.expand_as(image))
    inner = gradient[..., 24:36, 24:36]
    expected = pattern[24:36, 24:36] if scale == 1 else torch.full((12, 12), 1 / scale)
    torch.testing.assert_close(inner, expected.expand_as(inner), rtol=0, atol=1e-5)
