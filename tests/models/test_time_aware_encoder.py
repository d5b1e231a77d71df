"""The time-aware encoder has the published topology, and computes the same in every layout and precision."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resdiff.attention import attention_backend
from resdiff.models.time_aware_encoder import AttentionBlock, TimeAwareEncoder

TINY = {
    "model_channels": 64,
    "out_channels": 32,
    "num_res_blocks": 1,
    "attention_resolutions": (1,),
    "channel_mult": (1, 2),
    "num_heads": 4,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny(**options) -> TimeAwareEncoder:
    """A small network in which every parameter matters (zero-initialised ones included)."""
    encoder = TimeAwareEncoder(**TINY | options)
    torch.manual_seed(1)
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.2 if p.ndim == 1 else p[0].numel() ** -0.5)
    return encoder.eval()


Z, T = normal(2, 4, 9, 6), torch.tensor([10, 700])


def run(encoder: TimeAwareEncoder, z: Tensor = Z, t: Tensor | int = T) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return encoder(z, t)


def assert_near(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], atol: float = 2e-5) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


# --- topology ----------------------------------------------------------------------------------------------------


def test_the_published_network_has_the_published_size_and_names() -> None:
    with torch.device("meta"):
        encoder = TimeAwareEncoder()
    assert sum(p.numel() for p in encoder.parameters()) == 52_494_080
    shapes = {name: tuple(p.shape) for name, p in encoder.state_dict().items()}
    attends = [i for i in range(12) if f"input_blocks.{i}.1.qkv.weight" in shapes]
    assert attends == [1, 2, 4, 5, 7, 8]  # of factor 1, 2 and 4, and not 8
    assert [i for i in range(12) if f"input_blocks.{i}.0.op.weight" in shapes] == [3, 6, 9]
    assert shapes["input_blocks.0.0.weight"] == (256, 4, 3, 3)
    assert shapes["middle_block.1.proj_out.weight"] == (512, 512, 1)
    assert [shapes[f"fea_tran.{i}.in_layers.2.weight"][:2] for i in range(4)] == [(256, 256)] * 2 + [(256, 512)] * 2
    assert "fea_tran.0.skip_connection.weight" not in shapes
    assert shapes["fea_tran.3.skip_connection.weight"] == (256, 512, 1, 1)
    assert shapes["time_embed.2.weight"] == (1024, 1024)


def test_factors_and_not_sides_decide_which_levels_attend() -> None:
    for factors, expected in (((), set()), ((1,), {1}), ((2,), {3}), ((2, 1), {1, 3}), ((4, 8), set())):
        names = tiny(attention_resolutions=factors).state_dict()
        assert {i for i in range(4) if f"input_blocks.{i}.1.qkv.weight" in names} == expected
        assert "middle_block.1.qkv.weight" in names


def group_norm(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def resblock(x: Tensor, emb: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    h = F.silu(group_norm(x, w, f"{name}.in_layers.0"))
    h = F.conv2d(h, w[f"{name}.in_layers.2.weight"], w[f"{name}.in_layers.2.bias"], padding=1)
    h = h + F.linear(F.silu(emb), w[f"{name}.emb_layers.1.weight"], w[f"{name}.emb_layers.1.bias"])[..., None, None]
    h = F.silu(group_norm(h, w, f"{name}.out_layers.0"))
    h = F.conv2d(h, w[f"{name}.out_layers.3.weight"], w[f"{name}.out_layers.3.bias"], padding=1)
    if f"{name}.skip_connection.weight" in w:
        x = F.conv2d(x, w[f"{name}.skip_connection.weight"], w[f"{name}.skip_connection.bias"])
    return x + h


def attend(x: Tensor, w: dict[str, Tensor], name: str, heads: int) -> Tensor:
    """Head by head, the query, key and value of each beside one another."""
    flat = group_norm(x, w, f"{name}.norm").flatten(2)
    qkv = torch.einsum("oc,bcn->bon", w[f"{name}.qkv.weight"][..., 0], flat) + w[f"{name}.qkv.bias"][:, None]
    parts = []
    for head in qkv.chunk(heads, dim=1):
        q, k, v = head.chunk(3, dim=1)
        weights = torch.softmax(torch.einsum("bci,bcj->bij", q, k) / math.sqrt(q.shape[1]), dim=-1)
        parts.append(torch.einsum("bij,bcj->bci", weights, v))
    h = torch.einsum("oc,bcn->bon", w[f"{name}.proj_out.weight"][..., 0], torch.cat(parts, dim=1))
    return x + (h + w[f"{name}.proj_out.bias"][:, None]).reshape(x.shape)


def test_features_are_those_of_the_formulas() -> None:
    encoder = tiny()
    w = dict(encoder.named_parameters())
    frequencies = torch.exp(-math.log(10000) * torch.arange(32) / 32)
    angles = T[:, None] * frequencies
    emb = F.linear(torch.cat([angles.cos(), angles.sin()], 1), w["time_embed.0.weight"], w["time_embed.0.bias"])
    emb = F.linear(F.silu(emb), w["time_embed.2.weight"], w["time_embed.2.bias"])

    h = F.conv2d(Z, w["input_blocks.0.0.weight"], w["input_blocks.0.0.bias"], padding=1)
    fine = attend(resblock(h, emb, w, "input_blocks.1.0"), w, "input_blocks.1.1", heads=4)
    h = F.conv2d(fine, w["input_blocks.2.0.op.weight"], w["input_blocks.2.0.op.bias"], stride=2, padding=1)
    h = resblock(h, emb, w, "input_blocks.3.0")
    h = attend(resblock(h, emb, w, "middle_block.0"), w, "middle_block.1", heads=4)
    coarse = resblock(h, emb, w, "middle_block.2")
    expected = resblock(fine, emb, w, "fea_tran.0"), resblock(coarse, emb, w, "fea_tran.1")
    assert_near(run(encoder), expected, atol=1e-4)
    assert min(feature.std() for feature in expected) > 0.1


def test_maps_are_halved_from_level_to_level_and_odd_sides_rounded_up() -> None:
    encoder = tiny(channel_mult=(1, 1, 2, 2))
    maps = run(encoder, normal(1, 4, 13, 18), 5)
    assert [tuple(feature.shape) for feature in maps] == [(1, 32, 13, 18), (1, 32, 7, 9), (1, 32, 4, 5), (1, 32, 2, 3)]
    for fine, coarse in pairwise(maps):
        assert coarse.shape[2:] == tuple(math.ceil(side / 2) for side in fine.shape[2:])


def test_a_width_that_32_groups_do_not_divide_has_one_group_a_channel() -> None:
    encoder = tiny(out_channels=16)
    assert [block.out_layers[0].num_groups for block in encoder.fea_tran] == [16, 16]
    assert [block.in_layers[0].num_groups for block in encoder.fea_tran] == [32, 32]
    assert [feature.shape[1] for feature in run(encoder)] == [16, 16]


def test_heads_are_counted_or_of_a_given_width() -> None:
    assert tiny().middle_block[1].heads == 4
    encoder = tiny(num_head_channels=16, attention_resolutions=(1, 2))
    assert [encoder.input_blocks[i][1].heads for i in (1, 3)] == [4, 8]


# --- arguments ---------------------------------------------------------------------------------------------------


def test_a_batch_of_two_equals_two_batches_of_one() -> None:
    encoder = tiny()
    alone = [run(encoder, Z[i : i + 1], T[i : i + 1]) for i in range(2)]
    assert_near(run(encoder), tuple(map(torch.cat, zip(*alone, strict=True))))


def test_one_timestep_is_for_all_of_a_batch() -> None:
    encoder = tiny()
    expected = run(encoder, t=torch.tensor([700, 700]))
    for t in (700, torch.tensor(700), torch.tensor([700]), torch.tensor([700.0, 700.0])):
        assert_near(run(encoder, t=t), expected)


def test_latent_and_timestep_both_count_at_every_level() -> None:
    encoder = tiny()
    expected = run(encoder)
    for changed in (run(encoder, -Z), run(encoder, t=T + 1)):
        assert min((a - b).abs().max() for a, b in zip(changed, expected, strict=True)) > 1e-2


def test_wrong_settings_are_one_line() -> None:
    with pytest.raises(ValueError, match="prediction_type is 'sample'; choose one of epsilon, v_prediction"):
        tiny(prediction_type="sample")
    with pytest.raises(ValueError, match="64 channels do not split into 3 attention heads; change num_heads"):
        tiny(num_heads=3)
    with pytest.raises(ValueError, match="64 channels do not split into 0 attention heads"):
        tiny(num_head_channels=100)
    with pytest.raises(ValueError, match="multiple of 32"):
        tiny(model_channels=40)


# --- files, copies, training, speed ------------------------------------------------------------------------------


def test_saving_and_loading_gives_the_same_network(tmp_path) -> None:
    encoder = tiny(prediction_type="v_prediction")
    encoder.save_pretrained(tmp_path)
    again = TimeAwareEncoder.from_pretrained(tmp_path)
    assert again.config.prediction_type == "v_prediction"
    assert list(again.state_dict()) == list(encoder.state_dict())
    assert_near(run(again), run(encoder))


def test_a_copy_has_weights_of_its_own() -> None:
    encoder = tiny()
    expected, other = run(encoder), copy.deepcopy(encoder)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    assert not run(other)[0].any()
    assert_near(run(encoder), expected, atol=0)


def test_every_parameter_gets_a_gradient() -> None:
    encoder = tiny()
    sum(feature.square().sum() for feature in encoder(Z, T)).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_attention_begins_as_nothing() -> None:
    block, x = AttentionBlock(64, 4), normal(1, 64, 3, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(dtype) -> None:
    encoder = tiny()
    exact = run(encoder)
    half = run(encoder.to(dtype), Z.to(dtype))
    for a, b in zip(half, exact, strict=True):
        assert a.dtype == dtype
        assert (a.float() - b).abs().mean() < 0.03 * b.abs().mean()


def test_layers_stored_in_float8_still_run() -> None:
    encoder = tiny()
    exact = run(encoder)
    encoder.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert encoder.middle_block[1].qkv.weight.dtype == torch.float8_e4m3fn
    assert encoder.time_embed[0].weight.dtype == torch.float32
    for a, b in zip(run(encoder), exact, strict=True):
        assert 0 < (a - b).abs().mean() < 0.3 * b.abs().mean()


def test_the_formula_of_attention_and_channels_last_give_what_the_fused_kernels_give() -> None:
    encoder = tiny()
    expected = run(encoder)
    with attention_backend("eager"):
        assert_near(run(encoder), expected)
    encoder = encoder.to(memory_format=torch.channels_last)
    assert_near(run(encoder, Z.contiguous(memory_format=torch.channels_last)), expected)


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_blocks_give_the_same_output() -> None:
    encoder, seen = tiny(), []
    expected = run(encoder)

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    encoder.compile_repeated_blocks(backend=backend)
    assert_near(run(encoder), expected)
    assert seen
