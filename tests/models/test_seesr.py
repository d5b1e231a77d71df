"""SeeSR's UNet and ControlNet are Stable Diffusion's with published names, and go through diffusers' doors."""

import copy
import json
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor

from resdiff.models.seesr import IMAGE_DIM, SeeSRControlNet, SeeSRUNet
from resdiff.pipelines.tiny import UNET, UP_BLOCKS, wake

EMBEDDING: dict[str, Any] = {"conditioning_embedding_out_channels": (8, 8, 16, 16)}
OF: dict[type, dict] = {SeeSRUNet: UNET | {"up_block_types": UP_BLOCKS}, SeeSRControlNet: UNET | EMBEDDING}
STOCK = {SeeSRUNet: UNet2DConditionModel, SeeSRControlNet: ControlNetModel}
KINDS = list(OF)
SD2 = {
    "block_out_channels": (320, 640, 1280, 1280),
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(kind: type, **options):
    torch.manual_seed(0)
    net = kind(**OF[kind] | {"use_image_cross_attention": True} | options)
    wake(net)
    return net.eval()


def inputs(net) -> dict[str, Tensor]:
    given = {"sample": normal(2, 4, 6, 7), "timestep": torch.tensor(501), "encoder_hidden_states": normal(2, 9, 64)}
    if isinstance(net, ControlNetModel):
        given["controlnet_cond"] = normal(2, 3, 48, 56, seed=1).sigmoid()
    return given


TOKENS = normal(2, 5, IMAGE_DIM, seed=2)


def outputs(net, **options) -> list[Tensor]:
    """All tensors that a forward returns."""
    options = {"image_encoder_hidden_states": TOKENS} | options
    with torch.no_grad():
        out = net(**inputs(net) | options, return_dict=False)
    return [*out[0], out[1]] if isinstance(net, ControlNetModel) else [out[0]]


def assert_near(found: list[Tensor], expected: list[Tensor], atol: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def settings(net) -> dict:
    """The configuration as a file has it."""
    return json.loads(json.dumps({key: value for key, value in net.config.items() if key[0] != "_"}))


# --- names and sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "parameters", "of_image_attentions", "tensors"),
    [
        (SeeSRUNet, {}, 1_126_760_324, 260_849_600, 416),
        (SeeSRControlNet, {}, 489_031_440, 124_803_200, None),
    ],
)
def test_published_networks_have_the_published_sizes(kind, options, parameters, of_image_attentions, tensors) -> None:
    with torch.device("meta"):
        net = kind(**SD2, **options, use_image_cross_attention=True)
    assert sum(p.numel() for p in net.parameters()) == parameters
    image = {name: p for name, p in net.named_parameters() if "image_attentions" in name}
    assert sum(p.numel() for p in image.values()) == of_image_attentions
    assert tensors in (None, len(image))


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_those_of_diffusers_and_an_image_attention_beside_each_text_attention(kind) -> None:
    stock = {name: tuple(p.shape) for name, p in STOCK[kind](**OF[kind]).state_dict().items()}
    ours = {name: tuple(p.shape) for name, p in network(kind).state_dict().items()}
    assert {name: shape for name, shape in ours.items() if "image_attentions" not in name} == stock
    twins = {
        name.replace(".attentions.", ".image_attentions."): s for name, s in stock.items() if ".attentions." in name
    }
    image = {name: shape for name, shape in ours.items() if "image_attentions" in name}
    assert set(image) == set(twins)
    for name, shape in twins.items():
        is_key = "attn2.to_k" in name or "attn2.to_v" in name
        assert image[name] == ((shape[0], IMAGE_DIM) if is_key else shape)
    first = "down_blocks.0.image_attentions.0.transformer_blocks.0.attn2.to_k.weight"
    assert first in image and "mid_block.image_attentions.0.proj_in.weight" in image


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_flag_a_network_is_that_of_diffusers(kind) -> None:
    ours, stock = network(kind, use_image_cross_attention=False), STOCK[kind](**OF[kind]).eval()
    stock.load_state_dict(ours.state_dict())
    assert_near(outputs(ours, image_encoder_hidden_states=None), outputs_of_stock(stock), atol=0)
    assert settings(ours) == settings(stock) | {"use_image_cross_attention": False}


def outputs_of_stock(net) -> list[Tensor]:
    with torch.no_grad():
        out = net(**inputs(net), return_dict=False)
    return [*out[0], out[1]] if isinstance(net, ControlNetModel) else [out[0]]


@pytest.mark.parametrize("kind", KINDS)
def test_image_attentions_that_add_nothing_leave_what_diffusers_gives(kind) -> None:
    ours, stock = network(kind), STOCK[kind](**OF[kind]).eval()
    for name, parameter in ours.named_parameters():
        if "image_attentions" in name and "proj_out" in name:
            torch.nn.init.zeros_(parameter)
    stock.load_state_dict({k: v for k, v in ours.state_dict().items() if "image_attentions" not in k})
    assert_near(outputs(ours), outputs_of_stock(stock))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_and_text_both_count_and_the_image_attends_after_the_text(kind) -> None:
    net = network(kind)
    expected, order = outputs(net), []
    block = net.down_blocks[0]
    for part in (block.resnets[0], block.attentions[0], block.image_attentions[0]):
        part.register_forward_hook(lambda module, _given, _out: order.append(module))
    text = outputs(net, encoder_hidden_states=normal(2, 9, 64, seed=8))
    tokens = outputs(net, image_encoder_hidden_states=-TOKENS)
    assert min((a - b).abs().max() for a, b in zip(expected[-1:] * 2, text[-1:] + tokens[-1:], strict=True)) > 1e-4
    assert order[:2] == [block.resnets[0], block.image_attentions[0]]  # the text attention ends after the one inside it
    assert order[2] is block.attentions[0]


@pytest.mark.parametrize("kind", KINDS)
def test_missing_tokens_are_one_line(kind) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__} attends to the image; pass image_encoder") as caught:
        outputs(network(kind), image_encoder_hidden_states=None)
    assert "\n" not in str(caught.value)


# --- files and copies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_saving_and_loading_gives_the_same_network(kind, tmp_path) -> None:
    net = network(kind)
    net.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.config.use_image_cross_attention
    assert settings(again) == settings(net)
    assert list(again.state_dict()) == list(net.state_dict())
    assert all(map(torch.equal, again.state_dict().values(), net.state_dict().values()))
    assert_near(outputs(again), outputs(net), atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_own_class_refuses_what_it_would_open_without_the_image_attentions(kind, tmp_path) -> None:
    network(kind).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ImageCrossAttnDownBlock2D"):
        STOCK[kind].from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_published_folder_opens_which_names_the_stock_class_and_blocks(kind, tmp_path) -> None:
    net = network(kind)
    net.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["_class_name"], config["_diffusers_version"] = STOCK[kind].__name__, "0.21.0"
    for key in ("down_block_types", "up_block_types"):
        if key in config:
            config[key] = [name.removeprefix("Image") for name in config[key]]
    assert config["use_image_cross_attention"] is True and "CrossAttnDownBlock2D" in config["down_block_types"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again, report = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert_near(outputs(again), outputs(net), atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_has_weights_and_image_attentions_of_its_own(kind) -> None:
    net = network(kind)
    expected, other = outputs(net), copy.deepcopy(net)
    assert_near(outputs(other), expected, atol=0)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "image_attentions" in name:
                parameter.zero_()
    assert (outputs(other)[-1] - expected[-1]).abs().max() > 1e-4
    assert_near(outputs(net), expected, atol=0)


def test_a_controlnet_begins_as_a_copy_of_the_unet() -> None:
    unet = network(SeeSRUNet)
    controlnet = SeeSRControlNet.from_unet(unet, **EMBEDDING)
    assert controlnet.config.use_image_cross_attention
    of_unet = unet.state_dict()
    shared = [k for k in controlnet.state_dict() if k.startswith(("conv_in", "time_emb", "down_blocks", "mid_block"))]
    assert any("image_attentions" in name for name in shared)
    for name in shared:
        assert torch.equal(controlnet.state_dict()[name], of_unet[name]), name
    assert all(not out.any() for out in outputs(controlnet))  # and says nothing yet


# --- the condition, embedded once --------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_a_condition_embedded_once_gives_what_it_gives_in_each_call(order) -> None:
    net = network(SeeSRControlNet, controlnet_conditioning_channel_order=order)
    image = inputs(net)["controlnet_cond"]
    with torch.no_grad():
        embedded = net.embed_condition(image)
    assert embedded.shape == (2, 64, 6, 7)
    assert_near(outputs(net, controlnet_cond=embedded), outputs(net), atol=0)


def test_bgr_is_rgb_of_the_image_with_its_channels_turned_round() -> None:
    rgb = network(SeeSRControlNet)
    bgr = network(SeeSRControlNet, controlnet_conditioning_channel_order="bgr")
    bgr.load_state_dict(rgb.state_dict())
    image = inputs(rgb)["controlnet_cond"]
    assert_near(outputs(bgr, controlnet_cond=image.flip(1)), outputs(rgb), atol=0)
    assert (outputs(bgr)[0] - outputs(rgb)[0]).abs().max() > 1e-5


# --- training, speed ---------------------------------------------------------------------------------------------


def gradients(net) -> dict[str, Tensor]:
    net.zero_grad()
    out = net(**inputs(net), image_encoder_hidden_states=TOKENS, return_dict=False)
    parts = [*out[0], out[1]] if isinstance(net, ControlNetModel) else [out[0]]
    sum(part.square().mean() for part in parts).backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_checkpointing_gives_the_same_gradients(kind) -> None:
    net = network(kind).train()
    expected, calls = gradients(net), []
    net.enable_gradient_checkpointing()
    net.mid_block.image_attentions[0].transformer_blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    found = gradients(net)
    assert len(calls) == 2  # once more on the way back
    assert set(found) == set(expected) and len(expected) == len(list(net.parameters()))
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
    assert all(
        gradient.any() for name, gradient in expected.items() if "image_attentions" in name and "bias" not in name
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_formula_of_attention_gives_what_the_fused_kernels_give(kind) -> None:
    net = network(kind)
    expected = outputs(net)
    names = set(net.attn_processors)
    assert any("image_attentions" in name for name in names)
    assert {type(p) for p in net.attn_processors.values()} == {AttnProcessor2_0}
    net.set_attn_processor(AttnProcessor())
    assert {type(p) for p in net.attn_processors.values()} == {AttnProcessor}
    assert_near(outputs(net), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device for xformers")
def test_xformers_without_a_device_is_the_error_of_diffusers() -> None:
    with pytest.raises((ModuleNotFoundError, ValueError), match="xformers"):
        network(SeeSRUNet).enable_xformers_memory_efficient_attention()


@pytest.fixture
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_fresh_compiler")
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_blocks_give_the_same_output(kind) -> None:
    net = network(kind)
    expected, seen = outputs(net), []

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    net.compile_repeated_blocks(backend=backend)
    assert_near(outputs(net), expected)
    assert seen


def test_attention_kwargs_reach_the_text_and_the_image_attentions_without_the_tokens() -> None:
    net, seen = network(SeeSRUNet), []
    given = {"note": 1}
    for part in (net.mid_block.attentions[0], net.mid_block.image_attentions[0]):
        part.transformer_blocks[0].register_forward_pre_hook(
            lambda _block, _args, named: seen.append(named["cross_attention_kwargs"]), with_kwargs=True
        )
    outputs(net, cross_attention_kwargs=given)
    assert seen == [{"note": 1}, {"note": 1}] and given == {"note": 1}
