"""Half precision that is not finite is computed again in float32."""

import logging
from contextlib import contextmanager

import pytest
import torch

from resdiff.pipelines.precision import Rescue, in_float32
from resdiff.tiling import Smooth


def photo(height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@contextmanager
def in_half(pipe):
    """A shared pipeline in bfloat16."""
    kept = [(tensor, tensor.data) for network in pipe.networks for tensor in network.parameters()]
    for tensor, data in kept:
        tensor.data = data.bfloat16()
    yield pipe
    for tensor, data in kept:
        tensor.data = data


@pytest.fixture
def half(pipe):
    """The shared pipelines in bfloat16, for one test."""
    with in_half(pipe):
        yield pipe


@pytest.fixture
def half_residual(residual):
    """Those of residual shifting."""
    with in_half(residual):
        yield residual


def overflow_in_half(pipe, monkeypatch) -> None:
    """Make the decoded image Inf, as an overflow would, unless the networks are in float32."""
    decode = pipe.decode

    def decoded(latents: torch.Tensor, guidance, lq=None) -> torch.Tensor:
        image = decode(latents, guidance, lq)
        return image if pipe.unet.dtype == torch.float32 else image / 0

    monkeypatch.setattr(pipe, "decode", decoded)


def test_an_overflow_is_computed_again_and_the_weights_are_what_they_were(half, monkeypatch, caplog) -> None:
    before = {id(p): (p.data_ptr(), p.dtype) for p in half.unet.parameters()}
    overflow_in_half(half, monkeypatch)
    with caplog.at_level(logging.WARNING):
        images = half(photo(), generator=torch.Generator().manual_seed(0), output_type="pt").images
    assert torch.isfinite(images).all() and images.std() > 0.01  # neither NaN nor black
    assert [r.getMessage() for r in caplog.records] == ["a result is not finite in torch.bfloat16; going on in float32"]
    assert before == {id(p): (p.data_ptr(), p.dtype) for p in half.unet.parameters()}


def test_after_the_first_overflow_a_call_stays_in_float32(half_residual, monkeypatch, caplog) -> None:
    half = half_residual
    overflow_in_half(half, monkeypatch)
    dtypes, decode = [], half.decode
    monkeypatch.setattr(half, "decode", lambda *given: dtypes.append(half.unet.dtype) or decode(*given))
    half(photo(60, 30), tile=Smooth(32, overlap=16), output_type="pt")
    assert dtypes == [torch.bfloat16] + [torch.float32] * 3 and len(caplog.records) == 1
    half(photo(), output_type="pt")
    assert dtypes[-2:] == [torch.bfloat16, torch.float32]  # the next call tries again


def test_what_is_not_finite_in_float32_either_is_an_error(half, monkeypatch) -> None:
    decode = half.decode
    monkeypatch.setattr(half, "decode", lambda *given: decode(*given) * float("nan"))
    with pytest.raises(RuntimeError, match=r"the result is not finite, in float32 neither; check the weights"):
        half(photo())
    assert half.unet.dtype == torch.bfloat16


def test_latents_are_looked_at_too(pixel, monkeypatch) -> None:
    monkeypatch.setattr(pixel, "restore", lambda lq, *_, **__: lq * float("inf"))
    with pytest.raises(RuntimeError, match=r"the result is not finite; check the weights"):
        pixel(photo(), output_type="latent")


def test_weights_come_back_after_an_error() -> None:
    network = torch.nn.Linear(2, 2).bfloat16()
    kept = network.weight.data_ptr()
    with pytest.raises(KeyError), in_float32([network]):
        assert network.weight.dtype == torch.float32
        raise KeyError
    assert network.weight.dtype == torch.bfloat16 and network.weight.data_ptr() == kept


def test_networks_that_others_move_are_left_alone() -> None:
    network = torch.nn.Linear(2, 2).bfloat16()
    network.dtype = torch.bfloat16
    network._hf_hook = object()
    with pytest.raises(RuntimeError, match=r"not finite in torch\.bfloat16; open the model with dtype=torch\.float32"):
        Rescue([network])(lambda: torch.tensor(torch.nan))
