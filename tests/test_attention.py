"""The three attention backends agree, and the process-wide choice is what callers get."""

import logging
import sys
import types

import pytest
import torch

from resdiff import attention as module
from resdiff.attention import attention, attention_backend, set_attention_backend, usable_backend


def reference(q, k, v, bias, scale):
    """Softmax attention in float64, head by head."""
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    bias = torch.zeros(1) if bias is None else bias
    bias = bias.double().expand(*q.shape[:-1], k.shape[-2])
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            logits = q[b, h].double() @ k[b, h].double().T * scale + bias[b, h]
            out[b, h] = torch.softmax(logits, -1) @ v[b, h].double()
    return out


def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None):
    """What xformers computes, on its (B, M, H, K) layout; the bias must have the full shape, as there."""
    b, m, h, _ = query.shape
    if attn_bias is not None:
        assert attn_bias.shape == (b, h, m, key.shape[1])
    logits = torch.einsum("bmhk,bnhk->bhmn", query * (query.shape[-1] ** -0.5 if scale is None else scale), key)
    logits = logits if attn_bias is None else logits + attn_bias
    return torch.einsum("bhmn,bnhk->bmhk", logits.softmax(-1), value)


@pytest.fixture(autouse=True)
def fresh_backend_choice():
    usable_backend.cache_clear()
    yield
    usable_backend.cache_clear()
    set_attention_backend("sdpa")


@pytest.fixture
def xformers(monkeypatch):
    """The real xformers where it works on this machine, else a module with the same semantics."""
    try:
        from xformers.ops import memory_efficient_attention as real

        real(*torch.randn(3, 1, 4, 2, 8).unbind(0), attn_bias=torch.zeros(1, 2, 4, 4))
    except Exception:  # xformers raises many types when no kernel fits
        package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
        package.ops, ops.memory_efficient_attention = ops, memory_efficient_attention
        monkeypatch.setitem(sys.modules, "xformers", package)
        monkeypatch.setitem(sys.modules, "xformers.ops", ops)


@pytest.mark.parametrize("backend", ["sdpa", "eager", "xformers"])
@pytest.mark.parametrize("bias_shape", [None, (1, 3, 5, 8), (2, 1, 1, 8), (5, 8), (2, 3, 5, 8)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_every_backend_computes_softmax_attention(xformers, backend, bias_shape, scale):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 8, 16), torch.randn(2, 3, 8, 16)
    bias = None if bias_shape is None else torch.randn(bias_shape)
    out = attention(q, k, v, bias, scale=scale, backend=backend)
    assert out.shape == (2, 3, 5, 16)
    torch.testing.assert_close(out.double(), reference(q, k, v, bias, scale or 0.25), rtol=0, atol=1e-5)


def test_a_float32_bias_is_accepted_with_half_precision_queries():
    q, k, v = torch.randn(3, 1, 2, 6, 8).bfloat16().unbind(0)
    bias = torch.randn(1, 2, 6, 6)
    outs = [attention(q, k, v, bias, backend=backend) for backend in ("sdpa", "eager")]
    assert [out.dtype for out in outs] == [torch.bfloat16] * 2
    torch.testing.assert_close(outs[0], outs[1], rtol=0.02, atol=0.02)


def test_the_context_manager_changes_the_default_and_restores_it(monkeypatch):
    calls = []
    monkeypatch.setattr(module, "_eager", lambda *args: calls.append(args) or args[0])
    q = torch.randn(1, 1, 2, 4)
    with attention_backend("eager") as active:
        attention(q, q, q)
    attention(q, q, q)
    assert active == "eager" and len(calls) == 1


def test_the_context_manager_restores_the_default_after_an_error():
    with pytest.raises(RuntimeError), attention_backend("eager"):
        raise RuntimeError
    assert module._default == "sdpa"


def test_missing_xformers_falls_back_to_sdpa_with_one_log_line(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "xformers", None)
    monkeypatch.setitem(sys.modules, "xformers.ops", None)
    q = torch.randn(1, 2, 4, 8)
    with caplog.at_level(logging.INFO, logger="resdiff.attention"):
        assert set_attention_backend("xformers") == "sdpa"
        for _ in range(3):
            out = attention(q, q, q, backend="xformers")
    assert torch.equal(out, attention(q, q, q, backend="sdpa"))
    assert [r.message.split(" (")[0] for r in caplog.records if "xformers" in r.message] == ["attention backend: sdpa"]


def test_an_unknown_backend_is_refused_by_name():
    with pytest.raises(ValueError, match="'flash'; choose one of sdpa, xformers, eager"):
        set_attention_backend("flash")


def test_importing_the_module_does_not_import_xformers():
    assert not hasattr(module, "xformers")
