"""Half precision that overflows, and attention by choice."""

import copy
import logging
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # a module beside this file, not a package

from tiny_calls import run, seeded

from resdiff.attention import attention, set_attention_backend, usable_backend
from resdiff.pipelines.autoencoding import decode


def test_an_autoencoder_that_overflows_in_float16_decodes_again_in_float32(mine, caplog) -> None:
    latents = torch.randn(1, 4, 4, 4, generator=seeded())
    vae = copy.deepcopy(mine.vae)
    vae.decoder.conv_norm_out.weight.data *= 3e4  # finite in float16; its products are not
    vae.decoder.conv_out.weight.data *= 30 / 3e4
    expected = decode(vae, latents)
    vae.half()
    kept = {name: p.data_ptr() for name, p in vae.named_parameters()}
    with caplog.at_level(logging.WARNING):
        image = decode(vae, latents)
    assert [r.getMessage() for r in caplog.records] == [
        "a decoded image is not finite in torch.float16; decoding it in float32"
    ]
    assert image.dtype == torch.float32 and torch.isfinite(image).all()
    assert (image - expected).abs().mean() / expected.std() < 0.02
    assert vae.dtype == torch.float16 and kept == {name: p.data_ptr() for name, p in vae.named_parameters()}


def overflow_in_half(pipe, monkeypatch) -> list[torch.dtype]:
    """Make the autoencoder's decoder overflow in half precision; return the dtypes of its calls."""
    dtypes: list[torch.dtype] = []
    decoder = pipe.vae.decoder.forward

    def overflowing(z: Tensor, *given):
        dtypes.append(z.dtype)
        return decoder(z, *given) * (float("inf") if z.dtype == torch.bfloat16 else 1)

    monkeypatch.setattr(pipe.vae.decoder, "forward", overflowing)
    return dtypes


def test_only_the_decoding_is_repeated_when_it_overflows(mine, monkeypatch, caplog) -> None:
    mine.to(torch.bfloat16)
    dtypes, steps = overflow_in_half(mine, monkeypatch), list[int]()
    with caplog.at_level(logging.WARNING):
        image = run(mine, callback_on_step_end=lambda *given: steps.append(given[1]))
    assert torch.isfinite(image).all() and image.std() > 0.01
    assert dtypes == [torch.bfloat16, torch.float32] and steps == [0, 1]
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("resdiff")]
    assert messages == ["a decoded image is not finite in torch.bfloat16; decoding it in float32"]
    assert mine.vae.dtype == mine.unet.dtype == torch.bfloat16


def test_half_precision_is_near_the_exact_image(mine, plain) -> None:
    mine.to(torch.bfloat16)
    image = run(mine, prompt="a cat")
    assert torch.isfinite(image).all() and (image - plain).abs().mean() < 0.05


@pytest.fixture
def _backend_of_before():
    usable_backend.cache_clear()
    yield
    usable_backend.cache_clear()
    set_attention_backend("sdpa")


@pytest.fixture
def xformers(monkeypatch) -> list[torch.device]:
    """Something with the semantics of xformers; the devices of its calls."""
    devices = []

    def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias=None, p=0.0, scale=None, op=None):
        devices.append(q.device)
        if q.ndim == 3:  # (B heads, N, C), as diffusers calls it
            logits = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
            return (logits if attn_bias is None else logits + attn_bias).softmax(-1) @ v
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return attention(q, k, v, attn_bias, scale=scale, backend="eager").transpose(1, 2)

    package: Any = types.ModuleType("xformers")
    ops: Any = types.ModuleType("xformers.ops")
    package.ops, ops.memory_efficient_attention = ops, memory_efficient_attention
    monkeypatch.setitem(sys.modules, "xformers", package)
    monkeypatch.setitem(sys.modules, "xformers.ops", ops)
    monkeypatch.setattr("diffusers.models.attention_processor.xformers", package, raising=False)
    return devices


def processors(pipe) -> set[str]:
    networks = [n for n in pipe.networks if hasattr(n, "attn_processors")]
    return {type(processor).__name__ for n in networks for processor in n.attn_processors.values()}


@pytest.mark.usefixtures("_backend_of_before")
def test_every_way_to_compute_attention_gives_the_same_image(own, xformers) -> None:
    expected = run(own, guidance_scale=None, num_inference_steps=None)
    for backend in ("eager", "xformers", "sdpa"):
        assert own.set_attention(backend) == backend
        image = run(own, guidance_scale=None, num_inference_steps=None)
        torch.testing.assert_close(image, expected, rtol=0, atol=5e-5)
    assert torch.equal(image, expected)


@pytest.mark.usefixtures("_backend_of_before")
def test_the_choice_reaches_every_network(mine, xformers) -> None:
    assert processors(mine) == {"AttnProcessor2_0"}
    for backend, name in (("eager", "AttnProcessor"), ("xformers", "XFormersAttnProcessor")):
        mine.set_attention(backend)
        assert processors(mine) == {name}
        assert mine.text_encoder.config._attn_implementation == ("eager" if backend == "eager" else "sdpa")
    calls = len(xformers)
    mine.tagger.image_embeds(torch.zeros(1, 3, 32, 32))
    assert len(xformers) > calls
    mine.set_attention("sdpa")
    assert processors(mine) == {"AttnProcessor2_0"}


@pytest.mark.usefixtures("_backend_of_before")
@pytest.mark.parametrize("failure", ["not installed", "no kernel"])
def test_without_xformers_there_is_one_line_and_sdpa(mine, failure, monkeypatch, request, caplog) -> None:
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    if failure == "no kernel":
        request.getfixturevalue("xformers")

        def no_kernel(*_, **__):
            raise NotImplementedError("No operator found\nfor these inputs:\n...")

        monkeypatch.setattr(sys.modules["xformers.ops"], "memory_efficient_attention", no_kernel)
    expected = run(mine)
    with caplog.at_level(logging.INFO, "resdiff"):
        assert [mine.set_attention("xformers") for _ in range(2)] == ["sdpa"] * 2
    (message,) = [r.getMessage() for r in caplog.records]
    assert message.startswith("attention backend: sdpa (xformers cannot be") and "\n" not in message
    assert processors(mine) == {"AttnProcessor2_0"} and torch.equal(run(mine), expected)


def test_an_unknown_way_to_compute_attention_is_one_line(mine) -> None:
    with pytest.raises(ValueError, match="attention backend is 'flash'; choose one of sdpa, xformers, eager"):
        mine.set_attention("flash")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device for xformers")
def test_asking_diffusers_for_xformers_without_it_is_its_error(mine) -> None:
    with pytest.raises((ModuleNotFoundError, ValueError), match="xformers"):
        mine.enable_xformers_memory_efficient_attention()
    assert processors(mine) == {"AttnProcessor2_0"}
