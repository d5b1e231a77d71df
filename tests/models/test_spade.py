"""SPADE is the published formula, and its modulation of a stock UNet begins and ends with the context."""

import copy
import gc
import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.hooks.group_offloading import ModuleGroup
from diffusers.models.resnet import ResnetBlock2D
from peft import LoraConfig
from torch import Tensor, nn

from resdiff.models.spade import SPADE, SpadeModulation

STRUCTURE = 8  # channels of the feature maps
UNET = {
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4),
    "cross_attention_dim": 16,
    "use_linear_projection": True,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def tiny_unet(**options) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**UNET | options).eval()


@pytest.fixture(scope="module")
def shared() -> tuple[UNet2DConditionModel, SpadeModulation]:
    unet = tiny_unet()
    return unet, SpadeModulation.for_unet(unet, STRUCTURE).eval()


@pytest.fixture
def unet(shared) -> Iterator[UNet2DConditionModel]:
    """A stock UNet, and at the end of the test it has to be one."""
    yield shared[0]
    assert hooks(shared[0]) == 0


@pytest.fixture
def modulation(shared) -> SpadeModulation:
    return shared[1]


def hooks(unet: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in unet.modules())


X, T, TEXT = normal(2, 4, 9, 6), torch.tensor([10, 700]), normal(2, 5, 16)
MAPS = normal(2, STRUCTURE, 9, 6, seed=1), normal(2, STRUCTURE, 5, 3, seed=2), normal(2, STRUCTURE, 3, 2, seed=3)


def call(unet: nn.Module, maps: tuple[Tensor, ...] | None = None) -> Tensor:
    with torch.no_grad():
        return unet(X, T, TEXT, timestep_cond=maps).sample


def modulated(unet: UNet2DConditionModel, modulation: SpadeModulation, maps: tuple[Tensor, ...] = MAPS) -> Tensor:
    with modulation.attached(unet):
        return call(unet, maps)


# --- one SPADE ---------------------------------------------------------------------------------------------------


def test_spade_scales_and_shifts_the_normalised_features_by_position() -> None:
    layer = SPADE(64, STRUCTURE)
    w = dict(layer.named_parameters())
    for seed, parameter in enumerate(w.values()):
        nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(seed))
    assert {name.rpartition(".")[0] for name in w} == {"param_free_norm", "mlp_shared.0", "mlp_gamma", "mlp_beta"}
    h, structure = 3 + 2 * normal(2, 64, 5, 7), MAPS[0][:, :, :5, :1].expand(-1, -1, -1, 7)

    def conv(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], padding=1)

    groups = h.unflatten(1, (32, 2))
    centred = groups - groups.mean((2, 3, 4), keepdim=True)
    normalised = (centred / (centred.square().mean((2, 3, 4), keepdim=True) + 1e-5).sqrt()).flatten(1, 2)
    normalised = normalised * w["param_free_norm.weight"][:, None, None] + w["param_free_norm.bias"][:, None, None]
    hidden = F.relu(conv(structure, "mlp_shared.0"))
    assert hidden.shape[1] == 128
    expected = normalised * (1 + conv(hidden, "mlp_gamma")) + conv(hidden, "mlp_beta")
    torch.testing.assert_close(layer(h, structure), expected, rtol=0, atol=2e-4)


def test_without_gamma_and_beta_the_norm_remains() -> None:
    layer = SPADE(64, STRUCTURE)
    for part in (layer.mlp_gamma, layer.mlp_beta):
        for parameter in part.parameters():
            nn.init.zeros_(parameter)
    h = 3 + 2 * normal(1, 64, 9, 6)
    torch.testing.assert_close(layer(h, MAPS[0][:1]), F.group_norm(h, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_are_float32_in_half_precision(dtype) -> None:
    layer = SPADE(64, STRUCTURE)
    # 2 x 32 x 32 values near 100 in a group: their sum is beyond float16, and what bfloat16 adds to it is lost
    h = (100 + 8 * normal(1, 64, 32, 32)).to(dtype)
    structure = normal(1, STRUCTURE, 32, 32).to(dtype)
    with torch.no_grad():
        exact = layer(h.float(), structure.float())
        half = layer.to(dtype)(h, structure)
    assert half.dtype == dtype
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


# --- sizes and names ---------------------------------------------------------------------------------------------


def test_the_published_modulation_has_the_published_size() -> None:
    with torch.device("meta"):
        modulation = SpadeModulation()
    assert sum(p.numel() for p in modulation.parameters()) == 53_020_160
    assert len(modulation.blocks) == 22 and len(modulation.state_dict()) == 22 * 8
    shapes = {name: tuple(p.shape) for name, p in modulation.state_dict().items()}
    assert shapes["down_blocks.0.resnets.0.spade.mlp_shared.0.weight"] == (128, 256, 3, 3)
    assert shapes["mid_block.resnets.1.spade.mlp_gamma.weight"] == (1280, 128, 3, 3)
    assert shapes["up_blocks.3.resnets.2.spade.param_free_norm.bias"] == (320,)


def test_the_modulation_of_a_unet_has_its_blocks_in_the_order_in_which_they_run(unet, modulation) -> None:
    assert modulation.config.structure_channels == STRUCTURE
    ran: list[str] = []
    handles = [
        part.register_forward_pre_hook(lambda _part, _arguments, name=name: ran.append(name))
        for name, part in unet.named_modules()
        if isinstance(part, ResnetBlock2D)
    ]
    call(unet)
    for handle in handles:
        handle.remove()
    assert modulation.blocks == ran and len(ran) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_out_channels": (64, 64)}, "channels of down_blocks.1.resnets.0 are 128 here and 64 there"),
        ({"layers_per_block": 2}, "channels of down_blocks.0.resnets.1 are missing here and 64 there"),
    ],
)
def test_a_unet_of_other_sizes_is_refused_before_anything_runs(modulation, options, message) -> None:
    other = tiny_unet(**options)
    with pytest.raises(ValueError, match=message) as caught, modulation.attached(other):
        pytest.fail("attached")
    assert "\n" not in str(caught.value) and hooks(other) == 0


def test_a_unet_with_fewer_blocks_is_refused(unet) -> None:
    with pytest.raises(ValueError, match=r"channels of down_blocks.0.resnets.1 are 64 here and missing there"):
        SpadeModulation((64, 128), 2, STRUCTURE).check_fits(unet)


# --- attached ----------------------------------------------------------------------------------------------------


def written_out(unet: UNet2DConditionModel, modulation: SpadeModulation) -> UNet2DConditionModel:
    """A copy of the UNet whose residual blocks contain their SPADE, as the published UNet's do."""
    unet = copy.deepcopy(unet)
    by_size = {tuple(feature.shape[2:]): feature for feature in MAPS}

    def contain(block: ResnetBlock2D, spade: nn.Module) -> None:
        def forward(x: Tensor, temb: Tensor) -> Tensor:
            h = block.conv1(F.silu(block.norm1(x))) + block.time_emb_proj(F.silu(temb))[:, :, None, None]
            h = block.conv2(F.silu(block.norm2(h)))
            h = spade(h, by_size[tuple(h.shape[2:])])
            return h + (x if block.conv_shortcut is None else block.conv_shortcut(x))

        block.forward = forward

    for name in modulation.blocks:
        contain(unet.get_submodule(name), modulation.get_submodule(f"{name}.spade"))
    return unet


def test_every_block_is_modulated_after_its_second_convolution_and_before_the_shortcut(unet, modulation) -> None:
    stock, expected = call(unet), call(written_out(unet, modulation))
    torch.testing.assert_close(modulated(unet, modulation), expected, rtol=0, atol=1e-5)
    assert (expected - stock).abs().max() > 0.1
    assert torch.equal(call(unet), stock)


def test_the_structure_is_an_argument_of_the_call_and_counts(unet, modulation) -> None:
    with modulation.attached(unet):
        expected, changed = call(unet, MAPS), call(unet, (MAPS[0], -MAPS[1]))
        with torch.no_grad():  # what records a call, as CUDA graphs do, goes to `forward`
            assert torch.equal(unet.forward(X, T, TEXT, timestep_cond=MAPS).sample, expected)
    assert (changed - expected).abs().max() > 1e-3


def test_maps_are_found_by_their_size_whatever_their_order_and_number(unet, modulation) -> None:
    expected = modulated(unet, modulation)
    assert torch.equal(modulated(unet, modulation, MAPS[:2]), expected)
    assert torch.equal(modulated(unet, modulation, (MAPS[2].mT, MAPS[1], MAPS[0].mT, MAPS[0])), expected)


def test_of_equally_large_maps_the_last_counts(unet, modulation) -> None:
    expected = modulated(unet, modulation)
    assert torch.equal(modulated(unet, modulation, (-MAPS[1], *MAPS)), expected)


def test_one_map_for_all_of_a_batch(unet, modulation) -> None:
    one = tuple(feature[:1] for feature in MAPS)
    both = tuple(feature.expand(2, -1, -1, -1) for feature in one)
    torch.testing.assert_close(modulated(unet, modulation, one), modulated(unet, modulation, both), rtol=0, atol=1e-5)


def test_a_call_without_structure_is_one_line(unet, modulation) -> None:
    with pytest.raises(ValueError, match="pass the feature maps of the structure as timestep_cond") as caught:
        modulated(unet, modulation, None)
    assert "\n" not in str(caught.value)


def test_maps_of_another_size_are_one_line(unet, modulation) -> None:
    with pytest.raises(ValueError, match=r"down_blocks.0.resnets.0 is 9x6 but the feature maps are 6x9, 3x5, 2x3;"):
        modulated(unet, modulation, tuple(feature.mT for feature in MAPS))
    with pytest.raises(ValueError, match=r"down_blocks.1.resnets.0 is 5x3 but the feature maps are 9x6; encode"):
        modulated(unet, modulation, MAPS[:1])


def test_two_modulations_at_once_are_refused(unet, modulation) -> None:
    with modulation.attached(unet), pytest.raises(ValueError, match="modulated \\(once\\)"):
        modulated(unet, modulation)


def test_the_unet_is_the_stock_one_after_an_exception_too(unet, modulation) -> None:
    expected = call(unet)
    with pytest.raises(KeyboardInterrupt), modulation.attached(unet):
        raise KeyboardInterrupt
    assert hooks(unet) == 0
    assert torch.equal(call(unet), expected)


def test_nothing_holds_the_structure_after_a_call(unet, modulation) -> None:
    with modulation.attached(unet):
        maps = tuple(feature.clone() for feature in MAPS)
        held = [weakref.ref(feature) for feature in maps]
        call(unet, maps)
        del maps
        gc.collect()
        assert [reference() for reference in held] == [None] * 3
        maps = tuple(feature.clone() for feature in MAPS[:1])
        held = [weakref.ref(maps[0])]
        try:
            call(unet, maps)
        except ValueError:
            del maps
        gc.collect()
        assert held[0]() is None


def test_a_lora_on_the_second_convolutions_comes_before_the_modulation(modulation) -> None:
    unet = tiny_unet()
    plain = modulated(unet, modulation)
    torch.manual_seed(1)
    unet.add_adapter(LoraConfig(r=2, target_modules=["conv2"], init_lora_weights=False))
    with_lora = modulated(unet, modulation)
    assert (with_lora - plain).abs().max() > 1e-3
    unet.fuse_lora()
    unet.unload_lora()
    torch.testing.assert_close(modulated(unet, modulation), with_lora, rtol=0, atol=1e-5)


# --- files, copies, training, speed ------------------------------------------------------------------------------


def test_saving_and_loading_gives_the_same_modulation(unet, modulation, tmp_path) -> None:
    modulation.save_pretrained(tmp_path)
    again = SpadeModulation.from_pretrained(tmp_path)
    assert list(again.state_dict()) == list(modulation.state_dict()) and again.blocks == modulation.blocks
    torch.testing.assert_close(modulated(unet, again), modulated(unet, modulation), rtol=0, atol=1e-5)


def test_a_copy_has_weights_of_its_own(unet, modulation) -> None:
    expected, other = modulated(unet, modulation), copy.deepcopy(modulation)
    assert torch.equal(modulated(unet, other), expected)
    for parameter in other.parameters():
        nn.init.zeros_(parameter)
    assert not torch.equal(modulated(unet, other), expected)
    assert torch.equal(modulated(unet, modulation), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(unet, modulation, dtype) -> None:
    exact, maps = modulated(unet, modulation), tuple(feature.to(dtype) for feature in MAPS)
    other, half = copy.deepcopy(modulation).to(dtype), copy.deepcopy(unet).to(dtype)
    with torch.no_grad(), other.attached(half):
        out = half(X.to(dtype), T, TEXT.to(dtype), timestep_cond=maps).sample
    assert out.dtype == dtype
    assert (out.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_layers_stored_in_float8_still_run(unet, modulation) -> None:
    stored = copy.deepcopy(modulation)
    stored.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    spade = stored.mid_block["resnets"][0]["spade"]
    assert (spade.mlp_gamma.weight.dtype, spade.param_free_norm.weight.dtype) == (torch.float8_e4m3fn, torch.float32)
    exact = modulated(unet, modulation)
    assert 0 < (modulated(unet, stored) - exact).abs().mean() < 0.3 * exact.abs().mean()


def test_gradients_reach_structure_and_modulation_and_are_the_same_with_checkpointing(modulation) -> None:
    unet, modulation = tiny_unet().train().requires_grad_(False), copy.deepcopy(modulation)

    def gradients() -> list[Tensor]:
        maps = tuple(feature.clone().requires_grad_() for feature in MAPS[:2])
        modulation.zero_grad()
        with modulation.attached(unet):
            unet(X, T, TEXT, timestep_cond=maps).sample.square().mean().backward()
        return [tensor.grad for tensor in (*maps, *modulation.parameters())]

    expected = gradients()
    assert all(gradient.any() for gradient in expected)
    unet.enable_gradient_checkpointing()
    for found, gradient in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("way", ["block_level", "leaf_level"])
def test_offloaded_weights_are_there_when_they_are_used(unet, modulation, way, monkeypatch) -> None:
    stored: dict[Tensor, Tensor] = {}

    def tensors(group: ModuleGroup) -> list[Tensor]:
        return [*group.parameters, *(p for module in group.modules for p in module.parameters())]

    def onload(group: ModuleGroup) -> None:
        for p in tensors(group):
            p.data = stored.pop(p, p.data)

    def offload(group: ModuleGroup) -> None:  # in place of a second device: what is away is not a number
        for p in tensors(group):
            stored[p], p.data = p.data, torch.full_like(p.data, torch.nan)

    monkeypatch.setattr(ModuleGroup, "onload_", onload)
    monkeypatch.setattr(ModuleGroup, "offload_", offload)
    expected, other = modulated(unet, modulation), copy.deepcopy(modulation)
    other.enable_group_offload(torch.device("cpu"), offload_type=way, num_blocks_per_group=1)
    assert all(p.isnan().all() for p in other.parameters())
    for _ in range(2):
        assert torch.equal(modulated(unet, other), expected)


@pytest.fixture
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
def test_compiled_spades_give_the_same_output(unet, modulation) -> None:
    expected, compiled, seen = modulated(unet, modulation), copy.deepcopy(modulation), []

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    compiled.compile_repeated_blocks(backend=backend)
    torch.testing.assert_close(modulated(unet, compiled), expected, rtol=0, atol=1e-5)
    assert seen
