"""Group norm statistics are float32 whatever the input's dtype."""

import pytest
import torch
import torch.nn.functional as F

from resdiff.models.norm import GroupNorm32


def norm(dtype=torch.float32):
    torch.manual_seed(0)
    layer = GroupNorm32(64)
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    return layer.to(dtype)


def in_float32(layer, x):
    return F.group_norm(x.float(), 32, layer.weight.float(), layer.bias.float(), 1e-5).to(x.dtype)


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_half_precision_equals_float32_arithmetic_rounded_once(parameters, memory_format):
    layer = norm(parameters)
    # A mean far from zero: sums kept in bfloat16 would lose the variance.
    x = (torch.randn(2, 64, 24, 24) + 20).bfloat16().contiguous(memory_format=memory_format)
    out = layer(x)
    assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=memory_format)
    error = (out.float() - in_float32(layer, x).float()).abs()
    assert (error <= out.float().abs() * 2**-7 + 1e-6).all()  # at most one bfloat16 step


def test_a_width_that_does_not_fill_32_groups_is_refused():
    with pytest.raises(ValueError, match="48 channels; use a multiple of 32"):
        GroupNorm32(48)
