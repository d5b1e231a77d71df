"""The Swin layer computes windowed attention with ResShift's mask."""

import pytest
import torch

from resdiff.models.swin import SwinLayer, WindowAttention, relative_position_index, shifted_window_mask


def randomise(net):
    torch.manual_seed(1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def slow_window_attention(attn, x):
    """The specification token by token: explicit windows, explicit bias formula, the whole mask."""
    b, c, height, width = x.shape
    ws, heads, shift = attn.window, attn.num_heads, attn.shift
    x = x.permute(0, 2, 3, 1).roll((-shift, -shift), dims=(1, 2))
    mask = shifted_window_mask(height, width, ws, shift)
    bias = torch.empty(heads, ws * ws, ws * ws)
    for i in range(ws * ws):
        for j in range(ws * ws):
            d_row, d_col = i // ws - j // ws, i % ws - j % ws
            bias[:, i, j] = attn.relative_position_bias_table[(d_row + ws - 1) * (2 * ws - 1) + d_col + ws - 1]
    out = torch.empty_like(x)
    for n in range(b):
        for w in range((height // ws) * (width // ws)):
            top, left = w // (width // ws) * ws, w % (width // ws) * ws
            tokens = x[n, top : top + ws, left : left + ws].reshape(ws * ws, c)
            qkv = (tokens @ attn.qkv.weight.T + attn.qkv.bias).reshape(ws * ws, 3, heads, c // heads)
            q, k, v = qkv.unbind(1)
            logits = torch.einsum("qhd,khd->hqk", q * (c // heads) ** -0.5, k) + bias + mask[w]
            mixed = torch.einsum("hqk,khd->qhd", logits.softmax(-1), v).reshape(ws * ws, c)
            tokens = mixed @ attn.proj.weight.T + attn.proj.bias
            out[n, top : top + ws, left : left + ws] = tokens.reshape(ws, ws, c)
    return out.roll((shift, shift), dims=(1, 2)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(4, 4), (8, 12), (4, 12), (12, 4)])
def test_window_attention_equals_the_specification_token_by_token(shift, size):
    attn = randomise(WindowAttention(32, 4, 2, shift))
    x = torch.randn(2, 32, *size)
    with torch.no_grad():
        torch.testing.assert_close(attn(x), slow_window_attention(attn, x), rtol=0, atol=1e-5)


def test_only_the_last_window_row_is_masked_and_only_across_the_wrapped_columns():
    window, shift = 4, 1
    mask = shifted_window_mask(12, 8, window, shift).reshape(3, 2, window**2, window**2)
    assert mask[:-1].abs().max() == 0
    for q in range(window**2):
        for k in range(window**2):
            wrapped = (q % window >= window - shift) != (k % window >= window - shift)
            assert (mask[-1, :, q, k] == (-100 if wrapped else 0)).all()


def test_without_a_shift_nothing_is_masked():
    assert shifted_window_mask(8, 8, 4, 0).abs().max() == 0


def test_relative_position_index_counts_row_and_column_offsets():
    index = relative_position_index(2)
    # tokens (0,0) (0,1) (1,0) (1,1); 3 (dr + 1) + (dc + 1)
    assert index.tolist() == [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def layer(resolution, window_size, depth=3, **options):
    options = {"in_channels": 32, "embed_dim": 64, "num_heads": 4, "mlp_ratio": 1.5, "patch_norm": False} | options
    return randomise(SwinLayer(resolution=resolution, window_size=window_size, depth=depth, **options))


def test_odd_blocks_shift_by_half_a_window():
    assert [block.attn.shift for block in layer(16, 4).blocks] == [0, 2, 0]


@pytest.mark.parametrize(("resolution", "window"), [(8, 8), (4, 4)])
def test_a_layer_built_for_one_window_clips_it_and_never_shifts(resolution, window):
    net = layer(resolution, 8)
    assert [(b.attn.window, b.attn.shift) for b in net.blocks] == [(window, 0)] * 3
    assert net.blocks[0].attn.relative_position_bias_table.shape == ((2 * window - 1) ** 2, 4)


def test_nothing_is_added_around_the_layer():
    net = layer(16, 4)
    torch.nn.init.zeros_(net.patch_unembed.proj.weight)
    torch.nn.init.zeros_(net.patch_unembed.proj.bias)
    assert net(torch.randn(1, 32, 8, 8)).abs().max() == 0


def test_patch_norm_adds_a_norm_after_both_projections():
    names = layer(16, 4, patch_norm=True).state_dict().keys() - layer(16, 4).state_dict().keys()
    assert names == {f"{part}.norm.{p}" for part in ("patch_embed", "patch_unembed") for p in ("weight", "bias")}


def test_position_index_and_mask_are_not_in_the_state_dict():
    assert not [name for name in layer(16, 4).state_dict() if name.endswith(("index", "mask"))]


def test_gradients_reach_every_parameter():
    net = layer(16, 4)
    net(torch.randn(1, 32, 8, 8)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="embed_dim is 64, not a multiple of num_heads 3"):
        layer(16, 4, num_heads=3)
