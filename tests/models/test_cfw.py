"""The fuse blocks of controllable feature wrapping: the published network, its names and sizes, and what it computes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from resdiff.models.cfw import ControllableFeatureWrapping, FuseBlock, ResidualDenseBlock, from_published

from .tiny_cfw import tiny_cfw, tiny_vae


def test_the_defaults_are_the_published_network():
    with torch.device("meta"):
        cfw = ControllableFeatureWrapping()
    assert sum(x.numel() for x in cfw.parameters()) == 44_393_728
    assert list(cfw.levels) == [1, 2]
    shapes = {name: tuple(x.shape) for name, x in cfw.state_dict().items()}
    assert len(shapes) == 2 * (10 + 2 * 3 * 5 * 2 + 8)
    assert shapes["fusion_layer_1.encode_enc_1.conv1.weight"] == (256, 512, 3, 3)
    assert shapes["fusion_layer_2.encode_enc_1.conv_shortcut.weight"] == (512, 1024, 1, 1)
    assert shapes["fusion_layer_2.encode_enc_2.1.rdb3.conv5.weight"] == (512, 640, 3, 3)
    assert shapes["fusion_layer_2.encode_enc_3.norm2.bias"] == (512,)


def test_sizes_come_from_the_vae():
    with torch.device("meta"):
        vae, deep_vae = tiny_vae((128, 256, 512, 512)), tiny_vae((32, 32, 64, 96, 32))
        cfw = ControllableFeatureWrapping.for_vae(vae)
        deep = ControllableFeatureWrapping.for_vae(deep_vae, num_fuse_block=1)
    assert cfw.config.channels == (256, 512) and cfw.config.num_fuse_block == 2
    assert deep.config.channels == (32, 64, 96) and list(deep.levels) == [1, 2, 3]
    assert [len(deep.fusion_layer(level).encode_enc_2) for level in deep.levels] == [1, 1, 1]


def test_published_names_are_renamed_where_they_differ():
    cfw = tiny_cfw((32, 64))
    published = {name.replace("conv_shortcut", "conv_out"): x for name, x in cfw.state_dict().items()}
    assert sum("conv_out" in name for name in published) == 4
    other = tiny_cfw((32, 64), seed=1)
    other.load_state_dict(from_published(published))
    assert all(torch.equal(x, other.state_dict()[name]) for name, x in cfw.state_dict().items())


# --- what it computes --------------------------------------------------------------------------------------------


def residual(state, name, x):
    """GroupNorm(32, 1e-6), swish and convolution, twice, and a shortcut: written from the specification."""
    h = x
    for i in (1, 2):
        norm = [state[f"{name}.norm{i}.{kind}"] for kind in ("weight", "bias")]
        h = F.silu(F.group_norm(h, 32, *norm, eps=1e-6))
        h = F.conv2d(h, state[f"{name}.conv{i}.weight"], state[f"{name}.conv{i}.bias"], padding=1)
    if f"{name}.conv_shortcut.weight" in state:
        x = F.conv2d(x, state[f"{name}.conv_shortcut.weight"], state[f"{name}.conv_shortcut.bias"])
    return x + h


def dense(state, name, x):
    seen = x
    for i in range(1, 6):
        y = F.conv2d(seen, state[f"{name}.conv{i}.weight"], state[f"{name}.conv{i}.bias"], padding=1)
        seen = torch.cat([seen, torch.where(y > 0, y, 0.2 * y)], dim=1)
    return x + 0.2 * y


@torch.no_grad()
def test_a_block_is_residual_block_rrdbs_residual_block():
    cfw = tiny_cfw(num_fuse_block=2)
    state = cfw.fusion_layer(1).state_dict()
    e, d = torch.randn(2, 2, 64, 7, 9)
    h = residual(state, "encode_enc_1", torch.cat([e, d], dim=1))
    for i in range(2):
        y = h
        for j in (1, 2, 3):
            y = dense(state, f"encode_enc_2.{i}.rdb{j}", y)
        h = h + 0.2 * y
    torch.testing.assert_close(cfw(e, d, 1), residual(state, "encode_enc_3", h), rtol=0, atol=1e-5)


@torch.no_grad()
def test_each_level_has_its_own_block():
    cfw = tiny_cfw((32, 64))
    for level, width in ((1, 32), (2, 64)):
        e, d = torch.randn(2, 1, width, 5, 4)
        assert torch.equal(cfw(e, d, level), cfw.fusion_layer(level)(e, d))


@torch.no_grad()
def test_a_dense_block_reaches_as_many_rows_as_it_has_convolutions():
    torch.manual_seed(0)
    block = ResidualDenseBlock(8)
    for conv in block.convs():
        nn.init.normal_(conv.weight)
    x = torch.randn(1, 8, 21, 5)
    changed = x.clone()
    changed[:, :, 10] += 1
    rows = (block(changed) != block(x)).any(3).any(1)[0].nonzero()[:, 0].tolist()
    assert rows == list(range(5, 16))


def test_untrained_dense_blocks_begin_near_the_identity():
    torch.manual_seed(0)
    block, x = ResidualDenseBlock(64), torch.randn(1, 64, 16, 16)
    assert float((block(x) - x).detach().abs().mean()) < 0.05


# --- as diffusers' components are used ---------------------------------------------------------------------------


@torch.no_grad()
def test_it_is_saved_and_loaded(tmp_path):
    cfw = tiny_cfw((32, 64))
    cfw.save_pretrained(tmp_path)
    loaded = ControllableFeatureWrapping.from_pretrained(tmp_path)
    e, d = torch.randn(2, 1, 64, 5, 4)
    assert list(loaded.levels) == [1, 2] and not loaded.training
    assert torch.equal(loaded(e, d, 2), cfw(e, d, 2))
    assert torch.equal(copy.deepcopy(cfw)(e, d, 2), cfw(e, d, 2))


@torch.no_grad()
def test_dense_blocks_compile_one_by_one():
    cfw = tiny_cfw()
    e, d = torch.randn(2, 1, 64, 5, 4)
    plain = cfw(e, d, 1)
    cfw.compile_repeated_blocks(backend="eager")
    torch.testing.assert_close(cfw(e, d, 1), plain)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near(dtype):
    cfw = tiny_cfw()
    e, d = torch.randn(2, 1, 64, 8, 8).to(dtype)
    exact = cfw(e.float(), d.float(), 1)
    half = cfw.to(dtype)(e, d, 1)
    assert half.dtype == dtype
    assert (half - exact).norm() < 4 * torch.finfo(dtype).eps * exact.norm()


@pytest.mark.parametrize(
    ("channels", "message"),
    [((), "three levels or more"), ((64, 48), r"channels is \[64, 48\]; each must be a multiple of 32"), ((0,), "is")],
)
def test_widths_that_cannot_be_are_refused(channels, message):
    with pytest.raises(ValueError, match=message):
        ControllableFeatureWrapping(channels)


def test_a_fuse_block_keeps_the_shape():
    assert FuseBlock(32, 0)(*torch.randn(2, 1, 32, 3, 2)).shape == (1, 32, 3, 2)
