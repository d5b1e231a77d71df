"""The text encoder: what is not open says exactly nothing, what is open acts in its order and stays bounded."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.prompt_encoder import BOUND, WHISPER, PromptEncoder


def random_encoder() -> PromptEncoder:
    """An encoder with random weights in which tokens 2 to 5 are open."""
    torch.manual_seed(0)
    encoder = PromptEncoder(vocab_size=50, dim=6, width=8).eval()
    with torch.no_grad():
        encoder.table.weight[2:6] = 4 * torch.randn(4, 6)
    return encoder


def said(encoder: PromptEncoder, *ids: int) -> Tensor:
    with torch.no_grad():
        return encoder(torch.tensor([ids], dtype=torch.int64))[0]


def test_an_untrained_encoder_says_nothing() -> None:
    encoder = PromptEncoder()
    assert encoder.open_tokens().shape == (49408,) and not encoder.open_tokens().any()
    assert torch.equal(encoder(tokenize(["very sharp fur", ""])), torch.zeros(2, 4))
    assert encoder(tokenize([""])).shape == (1, 4) and encoder(tokenize([])).shape == (0, 4)


@pytest.mark.parametrize("training", [False, True])
def test_closed_tokens_change_no_bit_wherever_they_stand(training: bool) -> None:
    encoder = random_encoder().train(training)
    expected = said(encoder, 2, 3, 4)
    assert expected.any()
    for prompt in ((9, 2, 3, 4), (2, 9, 8, 3, 4), (2, 3, 4, 7, 7, 7, 30), (0, 2, 0, 3, 4, 0, 0)):
        assert torch.equal(said(encoder, *prompt), expected), prompt
    assert torch.equal(said(encoder, 9, 8, 7, 49), torch.zeros(4))


def test_the_order_of_open_tokens_matters() -> None:
    encoder = random_encoder()
    assert (said(encoder, 2, 3) - said(encoder, 3, 2)).abs().max() > 1e-2


def test_a_batch_is_its_prompts_one_by_one() -> None:
    encoder = random_encoder()
    ids = torch.tensor([[2, 3, 4, 5], [3, 0, 0, 0], [9, 9, 5, 0], [0, 0, 0, 0]])
    alone = torch.stack([said(encoder, *row) for row in ids.tolist()])
    assert torch.allclose(encoder(ids), alone, atol=1e-6)
    assert not alone[3].any() and alone[:3].any(dim=1).all()


def test_however_long_a_prompt_what_it_says_is_bounded() -> None:
    values = said(random_encoder(), *[2, 3, 4, 5] * 200)
    assert values.isfinite().all() and values.abs().max() <= BOUND


def test_what_is_hardly_said_is_exactly_nothing() -> None:
    encoder = random_encoder()
    loud = said(encoder, 2)
    assert loud.abs().max() > WHISPER
    with torch.no_grad():
        encoder.table.weight *= 0.01
    assert torch.equal(said(encoder, 2), torch.zeros(4)) and not torch.signbit(said(encoder, 2)).any()


def test_only_tokens_that_occur_are_learned() -> None:
    encoder = random_encoder().train()
    encoder(torch.tensor([[2, 9, 0]])).sum().backward()
    gradient = encoder.table.weight.grad
    assert gradient is not None
    assert (gradient != 0).any(dim=1).nonzero()[:, 0].tolist() == [2, 9]  # a closed token can open; padding cannot


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_storage_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    encoder = random_encoder()
    expected = said(encoder, 2, 3, 4)
    encoder.to(dtype).save_pretrained(tmp_path)
    loaded = PromptEncoder.from_pretrained(tmp_path, dtype=dtype)
    values = said(loaded, 2, 3, 4)
    assert values.dtype == torch.float32
    assert torch.allclose(values, expected, atol=0.05)
    assert torch.equal(said(loaded, 9, 2, 3, 4), values) and torch.equal(said(loaded, 9), torch.zeros(4))


def test_a_training_in_half_precision_hears_the_same() -> None:
    encoder = random_encoder()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = said(encoder, 2, 3, 4)
    assert torch.equal(mixed, said(encoder, 2, 3, 4))


def test_measurements_are_put_into_standard_deviations_by_the_config(tmp_path: Path) -> None:
    spread = {"vocab_size": 5, "mean": (1.0, 0.0, 0.5, 0.0), "std": (2.0, 1.0, 0.5, 0.1)}
    measured, traits = torch.tensor([[3.0, float("nan"), 0.0, 0.1]]), torch.tensor([[1.0, -1.0]])
    rows = ((2.0, 0), (0, 0), (0, 1), (0, 0))
    for slopes, expected in (
        ({}, [1, -1, 1]),
        ({"slope": rows}, [0, 1, 1]),
        ({"log_std_slope": rows}, [math.exp(-2), -math.e, 1]),
    ):
        PromptEncoder(**spread, **slopes).save_pretrained(tmp_path)
        found = PromptEncoder.from_pretrained(tmp_path).usual(traits).standardize(measured)[0]
        assert found[[0, 2, 3]].tolist() == pytest.approx(expected) and found[1].isnan()


def test_wrong_arguments_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"give \(B, L\)"):
        random_encoder()(torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="must be as many"):
        PromptEncoder(vocab_size=5, mean=(0.0,))
    with pytest.raises(ValueError, match="must have a row for each"):
        PromptEncoder(vocab_size=5, slope=((1.0, 0.0),))
    with pytest.raises(ValueError, match="std positive"):
        PromptEncoder(vocab_size=5, std=(1.0, 1.0, 0.0, 1.0))
