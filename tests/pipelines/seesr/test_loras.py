"""LoRAs of Stable Diffusion in SeeSR and AddSR, and those that do not fit."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # a module beside this file, not a package

from tiny_calls import LAYER, quiet, random, run

from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import UNET, UP_BLOCKS


def stock_lora(**changes) -> dict[str, Tensor]:
    """A LoRA trained with peft on diffusers' own UNet of the base, in the format that is published."""
    from peft import LoraConfig, get_peft_model_state_dict

    unet = UNet2DConditionModel(**UNET | changes, up_block_types=UP_BLOCKS)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    tensors = get_peft_model_state_dict(unet)
    return {f"unet.{key}": random(*value.shape, seed=i) for i, (key, value) in enumerate(tensors.items())}


def text_lora() -> dict[str, Tensor]:
    """A LoRA of the text encoder, with the names of transformers 4, as the published ones have."""
    layers = [f"encoder.layers.{i}.self_attn.{name}_proj" for i in range(2) for name in ("q", "k", "v", "out")]
    down = {f"text_encoder.text_model.{layer}.lora_A.weight": (2, 64) for layer in layers}
    up = {f"text_encoder.text_model.{layer}.lora_B.weight": (64, 2) for layer in layers}
    return {key: random(*shape, seed=i) for i, (key, shape) in enumerate((down | up).items())}


def kohya_lora() -> dict[str, Tensor]:
    """A LoRA in the names of kohya's trainer, whose alpha of 1 halves what rank 2 says."""
    unet = [f"lora_unet_{LAYER.replace('.', '_')}_{kind}_{name}" for kind in ("attn1", "attn2") for name in PROJECTIONS]
    text = [f"lora_te_text_model_encoder_layers_0_self_attn_{name}_proj" for name in ("q", "k", "v", "out")]
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate([*unet, *text]):
        tensors[f"{layer}.lora_down.weight"] = random(2, 64, seed=i)
        tensors[f"{layer}.lora_up.weight"] = random(64, 2, seed=100 + i)
        tensors[f"{layer}.alpha"] = torch.tensor(1.0)
    return tensors


PROJECTIONS = ("to_q", "to_k", "to_v", "to_out_0")
LORAS = {
    "peft": stock_lora,
    "text encoder": text_lora,
    "kohya": kohya_lora,
    "diffusers' old names": lambda: {
        f"unet.{LAYER}.attn1.processor.to_q_lora.down.weight": random(2, 64, seed=0),
        f"unet.{LAYER}.attn1.processor.to_q_lora.up.weight": random(64, 2, seed=1),
    },
}


def adapted(pipe) -> set[str]:
    """Names of the layers that a LoRA has been put around."""
    networks = {"unet": pipe.unet, "controlnet": pipe.controlnet, "text_encoder": pipe.text_encoder}
    return {f"{n}.{path}" for n, net in networks.items() for path, m in net.named_modules() if hasattr(m, "lora_A")}


@pytest.mark.parametrize("kind", LORAS)
def test_a_lora_changes_the_image_which_comes_back_bit_for_bit_after_unloading(mine, plain, kind) -> None:
    weights = LORAS[kind]()
    count = len(weights)
    mine.load_lora_weights(weights)
    assert len(weights) == count and adapted(mine)
    assert (run(mine, prompt="a cat") - plain).abs().max() > 0.02
    mine.unload_lora_weights()
    assert not adapted(mine)
    assert torch.equal(run(mine, prompt="a cat"), plain)


def test_a_lora_of_the_stock_base_touches_the_attention_to_text_and_nothing_else(mine) -> None:
    weights = stock_lora()
    mine.load_lora_weights(weights)
    layers = {key.removesuffix(".lora_A.weight") for key in weights if key.endswith("lora_A.weight")}
    assert adapted(mine) == layers and len(layers) == 32
    assert not any("image_attentions" in layer for layer in layers)
    for layer in layers:
        adapter = mine.unet.get_submodule(layer.removeprefix("unet."))
        assert torch.equal(adapter.lora_A["default_0"].weight, weights[f"{layer}.lora_A.weight"])


def test_what_a_lora_adds_is_its_product_times_alpha_over_rank(mine) -> None:
    mine.load_lora_weights(kohya_lora())
    layer = mine.unet.get_submodule(f"{LAYER}.attn1.to_q")
    x = random(1, 3, 64, seed=5)
    down, up = random(2, 64, seed=0), random(64, 2, seed=100)
    expected = x @ layer.base_layer.weight.T + 0.5 * x @ down.T @ up.T
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["peft", "text encoder"])
def test_a_lora_at_scale_zero_says_nothing_and_at_a_half_says_half(mine, plain, kind) -> None:
    mine.load_lora_weights(LORAS[kind](), adapter_name="style")
    whole = run(mine, prompt="a cat")
    none = run(mine, prompt="a cat", cross_attention_kwargs={"scale": 0.0})
    torch.testing.assert_close(none, plain, rtol=0, atol=1e-6)
    half = run(mine, prompt="a cat", cross_attention_kwargs={"scale": 0.5})
    mine.set_adapters("style", 0.5)
    torch.testing.assert_close(run(mine, prompt="a cat"), half, rtol=0, atol=1e-6)
    assert min((half - whole).abs().max(), (half - plain).abs().max()) > 0.02


def test_the_scale_of_a_call_leaves_the_weights_that_were_set(mine) -> None:
    mine.load_lora_weights(stock_lora() | text_lora(), adapter_name="style")
    mine.set_adapters("style", 0.5)
    expected = run(mine, prompt="a cat")
    run(mine, prompt="a cat", cross_attention_kwargs={"scale": 0.0})
    assert torch.equal(run(mine, prompt="a cat"), expected)


def test_a_lora_can_be_switched_off_and_on_again(mine, plain) -> None:
    mine.load_lora_weights(stock_lora(), adapter_name="style")
    whole = run(mine, prompt="a cat")
    mine.disable_lora()
    assert torch.equal(run(mine, prompt="a cat"), plain)
    mine.enable_lora()
    assert torch.equal(run(mine, prompt="a cat"), whole)


def test_two_loras_are_mixed_by_their_weights(mine) -> None:
    weights = stock_lora()
    mine.load_lora_weights(weights, adapter_name="a")
    mine.load_lora_weights({key: value.flip(0) for key, value in weights.items()}, adapter_name="b")
    mine.set_adapters(["a"])
    first = run(mine, prompt="a cat")
    mine.set_adapters(["a", "b"], [1.0, 0.0])
    torch.testing.assert_close(run(mine, prompt="a cat"), first, rtol=0, atol=1e-5)
    mine.set_adapters(["a", "b"], [0.5, 0.5])
    assert (run(mine, prompt="a cat") - first).abs().max() > 0.02


def test_a_fused_lora_gives_the_same_image_and_can_be_saved(mine, tmp_path) -> None:
    mine.load_lora_weights(stock_lora() | text_lora())
    whole = run(mine, prompt="a cat")
    mine.fuse_lora()
    torch.testing.assert_close(run(mine, prompt="a cat"), whole, rtol=0, atol=1e-4)
    mine.unload_lora_weights()
    assert not adapted(mine)
    torch.testing.assert_close(run(mine, prompt="a cat"), whole, rtol=0, atol=1e-4)
    mine.save_pretrained(tmp_path)
    again = quiet(SeeSRPipeline.from_pretrained(tmp_path))
    torch.testing.assert_close(run(again, prompt="a cat"), whole, rtol=0, atol=1e-4)


def test_a_fused_lora_is_taken_out_again_to_rounding(mine, plain) -> None:
    mine.load_lora_weights(stock_lora())
    mine.fuse_lora()
    mine.unfuse_lora()
    mine.unload_lora_weights()
    torch.testing.assert_close(run(mine, prompt="a cat"), plain, rtol=0, atol=1e-4)


def test_a_lora_opens_from_a_file(mine, tmp_path) -> None:
    weights = stock_lora()
    mine.load_lora_weights(weights)
    whole = run(mine, prompt="a cat")
    unet = {key.removeprefix("unet."): value for key, value in weights.items()}
    mine.unload_lora_weights()
    SeeSRPipeline.save_lora_weights(tmp_path, unet_lora_layers=unet)
    mine.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    assert torch.equal(run(mine, prompt="a cat"), whole)


def sdxl_lora() -> dict[str, Tensor]:
    """Of Stable Diffusion XL in kohya's names: other blocks, wider texts, two text encoders."""
    layers = {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (2048, 640),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (768, 768),
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (1280, 1280),
    }
    down = {f"{layer}.lora_down.weight": torch.ones(2, sizes[0]) for layer, sizes in layers.items()}
    return down | {f"{layer}.lora_up.weight": torch.ones(sizes[1], 2) for layer, sizes in layers.items()}


NOT_OF_THIS_BASE = {
    "SD 1's texts": (lambda: stock_lora(cross_attention_dim=768), "it is of Stable Diffusion 1: .*attn2.to_k .* 64,"),
    "SDXL's texts": (lambda: stock_lora(cross_attention_dim=2048), "it is of Stable Diffusion XL: .*attn2.to_k"),
    "wider blocks": (lambda: stock_lora(block_out_channels=(128, 256)), "width of 64, the LoRA's of 128"),
    "SDXL by kohya": (sdxl_lora, "not for this base|no layer of this model|Could not"),
    "SDXL's blocks alone": (
        lambda: {k: v for k, v in sdxl_lora().items() if "te1" not in k},
        "no layer of this model's UNet or text encoder; use one of Stable Diffusion 2",
    ),
    "other text encoder": (
        lambda: stock_lora() | {k: v.repeat(1, 2) if "lora_A" in k else v for k, v in text_lora().items()},
        r"layers.0.self_attn.\w+_proj has a width of 64, the LoRA's of 128",
    ),
    "nothing of it": (lambda: {"foo.lora_A.weight": torch.ones(2, 2)}, "no layer of this model's UNet"),
    "empty": (dict, "no layer of this model's UNet"),
}


@pytest.mark.parametrize("kind", NOT_OF_THIS_BASE)
def test_a_lora_of_another_base_is_one_line_and_leaves_the_pipeline_as_it_was(mine, seesr, kind) -> None:
    weights, message = NOT_OF_THIS_BASE[kind]
    before = [list(network.state_dict()) for network in mine.networks]
    with pytest.raises(ValueError, match=message) as caught:
        mine.load_lora_weights(weights(), adapter_name="style")
    assert "\n" not in str(caught.value)
    assert not adapted(mine)
    assert [list(network.state_dict()) for network in mine.networks] == before
    assert all(map(torch.equal, seesr.unet.parameters(), mine.unet.parameters()))
    mine.load_lora_weights(LORAS["peft"](), adapter_name="style")  # the name is free still
    assert mine.get_active_adapters() == ["style"]


def test_addsr_takes_the_same_loras(addsr) -> None:
    pipe = quiet(copy.deepcopy(addsr, {id(addsr.tokenizer): addsr.tokenizer}))
    before = run(pipe, prompt="a cat")
    pipe.load_lora_weights(stock_lora())
    assert (run(pipe, prompt="a cat") - before).abs().max() > 0.02
    off = run(pipe, prompt="a cat", cross_attention_kwargs={"scale": 0.0})
    torch.testing.assert_close(off, before, rtol=0, atol=1e-6)
    pipe.unload_lora_weights()
    assert torch.equal(run(pipe, prompt="a cat"), before)
