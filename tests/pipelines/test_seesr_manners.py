"""What users of diffusers expect of a Stable Diffusion pipeline: LoRAs, textual inversions, embeddings, precision, attention."""

import copy
import json
import logging
import sys
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from resdiff.attention import attention, set_attention_backend, usable_backend
from resdiff.color import color_fix
from resdiff.models.ram import tagger_input
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.autoencoding import decode
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import TAGS, UNET, UP_BLOCKS
from resdiff.resize import bicubic
from resdiff.text.prompts import ADDED_PROMPT, ADDSR_ADDED_PROMPT, NEGATIVE_PROMPT

LR = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
SIDE = 32  # px of the result
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(pipe, images=LR, **options) -> Tensor:
    options = {"num_inference_steps": 2, "guidance_scale": 1.0, "output_type": "pt", "generator": seeded()} | options
    return pipe(images, **options).images


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def seesr(seesr) -> SeeSRPipeline:
    """SeeSR that leaves images as small as LR is."""
    return quiet(SeeSRPipeline.from_pipe(seesr, process_size=SIDE))


@pytest.fixture(scope="module")
def addsr(addsr) -> AddSRPipeline:
    """AddSR likewise."""
    return quiet(AddSRPipeline.from_pipe(addsr, process_size=SIDE))


@pytest.fixture
def mine(seesr) -> SeeSRPipeline:
    """SeeSR, the test's own but for the tokenizer, which is slow to copy."""
    return quiet(copy.deepcopy(seesr, {id(seesr.tokenizer): seesr.tokenizer}))


@pytest.fixture
def inverted(seesr) -> SeeSRPipeline:
    """SeeSR, the test's own with its tokenizer."""
    return quiet(copy.deepcopy(seesr))


@pytest.fixture(scope="module")
def plain(seesr) -> Tensor:
    """The image of a prompt without any LoRA."""
    return run(seesr, prompt="a cat")


# --- LoRAs -----------------------------------------------------------------------------------------------------------


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed)) * 0.3


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


# --- textual inversions ----------------------------------------------------------------------------------------------


def automatic1111(vectors: Tensor) -> dict:
    """An embedding in the format of AUTOMATIC1111."""
    return {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "style", "step": 100}


@pytest.mark.parametrize(
    "inversion",
    [
        lambda vectors: {"pretrained_model_name_or_path": vectors, "token": "<style>"},
        lambda vectors: {"pretrained_model_name_or_path": {"<style>": vectors}},
        lambda vectors: {"pretrained_model_name_or_path": automatic1111(vectors), "token": "<style>"},
    ],
    ids=["tensor", "diffusers", "AUTOMATIC1111"],
)
@pytest.mark.parametrize("count", [1, 3])
def test_a_textual_inversion_adds_its_vectors_and_changes_no_other(inverted, inversion, count) -> None:
    before = inverted.text_encoder.get_input_embeddings().weight.clone()
    others = inverted.encode_prompt("a cat")
    vectors = random(count, 64, seed=0)
    inverted.load_textual_inversion(**inversion(vectors))
    after = inverted.text_encoder.get_input_embeddings().weight
    assert torch.equal(after[: len(before)], before)
    assert torch.equal(after[len(before) :], vectors) and len(inverted.tokenizer) == len(after)
    assert torch.equal(inverted.encode_prompt("a cat"), others)
    assert (inverted.encode_prompt("a <style> cat") - others).abs().max() > 0.1
    inverted.unload_textual_inversion()
    assert torch.equal(inverted.text_encoder.get_input_embeddings().weight, before)
    assert torch.equal(inverted.encode_prompt("a cat"), others)


def test_an_inversion_changes_images_of_prompts_with_its_token_alone(inverted, plain) -> None:
    inverted.load_textual_inversion(random(3, 64, seed=0), token="<style>")
    assert torch.equal(run(inverted, prompt="a cat"), plain)
    assert (run(inverted, prompt="a <style> cat") - plain).abs().max() > 1e-3


def test_the_vectors_of_an_inversion_stand_one_after_another_in_the_prompt(inverted) -> None:
    inverted.load_textual_inversion(random(3, 64, seed=0), token="<style>")
    ids: list[list[int]] = []
    hook = inverted.text_encoder.register_forward_pre_hook(lambda _net, given: ids.append(given[0][0].tolist()))
    inverted.encode_prompt("a <style> cat")
    inverted.encode_prompt("a cat")
    hook.remove()
    first = ids[0].index(len(inverted.tokenizer) - 3)
    assert ids[0][first : first + 3] == [len(inverted.tokenizer) - 3 + i for i in range(3)]
    assert ids[0][:first] + ids[0][first + 3 :] == ids[1][:-3]


@pytest.mark.parametrize("words", [60, 74, 80])  # the vectors stand before, at and behind the end of the first chunk
def test_an_inversion_works_in_a_prompt_of_several_chunks(inverted, words) -> None:
    inverted.load_textual_inversion(random(3, 64, seed=0), token="<style>")
    ids: list[int] = []
    hook = inverted.text_encoder.register_forward_pre_hook(lambda _net, given: ids.extend(given[0][0].tolist()))
    embeds = inverted.encode_prompt("word " * words + "<style> " + "end " * 20, long_prompt="chunk")
    hook.remove()
    assert embeds.shape == (1, 154, 64)
    first = ids.index(len(inverted.tokenizer) - 3)
    assert ids[first : first + 3] == [len(inverted.tokenizer) - 3 + i for i in range(3)]  # not torn apart
    image = run(inverted, prompt="word " * words + "<style> end", long_prompt="chunk")
    assert (image - run(inverted, prompt="word " * words + "end", long_prompt="chunk")).abs().max() > 1e-4


def test_an_inversion_counts_in_the_negative_prompt_too(inverted) -> None:
    inverted.load_textual_inversion(random(2, 64, seed=0), token="<bad>")
    guided = {"guidance_scale": 3.0}
    with_it, without = (run(inverted, negative_prompt=text, **guided) for text in ("<bad> noise", "noise"))
    assert (with_it - without).abs().max() > 1e-3


def test_an_inversion_of_another_base_is_one_line_and_leaves_the_tokens(inverted) -> None:
    size = len(inverted.tokenizer)
    with pytest.raises(ValueError, match="incorrect shape") as caught:
        inverted.load_textual_inversion(random(2, 768, seed=0), token="<style>")
    assert "\n" not in str(caught.value)
    assert len(inverted.tokenizer) == size == len(inverted.text_encoder.get_input_embeddings().weight)


# --- from one pipeline to the other ----------------------------------------------------------------------------------


def test_addsr_from_seesr_shares_the_components_and_has_its_own_defaults(seesr) -> None:
    other = AddSRPipeline.from_pipe(seesr)
    assert all(other.components[name] is part for name, part in seesr.components.items())
    config = {name: other.config[name] for name in ("num_inference_steps", "guidance_scale", "added_prompt")}
    published = {"num_inference_steps": 4, "guidance_scale": 1.0, "added_prompt": ADDSR_ADDED_PROMPT}
    assert config == published
    assert other.config.negative_prompt == NEGATIVE_PROMPT and other.max_steps == 4


def test_seesr_from_addsr_has_its_own_defaults(addsr) -> None:
    other = SeeSRPipeline.from_pipe(addsr)
    assert (other.default_steps, other.config.guidance_scale) == (50, 5.5)
    assert other.config.added_prompt == ADDED_PROMPT and other.max_steps == 1000


def test_a_pipeline_of_the_same_class_keeps_the_options_and_takes_changes(seesr, addsr) -> None:
    assert SeeSRPipeline.from_pipe(seesr).config.process_size == SIDE
    changed = AddSRPipeline.from_pipe(seesr, process_size=SIDE, added_prompt="sharp")
    assert (changed.config.process_size, changed.config.added_prompt) == (SIDE, "sharp")
    again = AddSRPipeline.from_pipe(changed)
    assert (again.config.process_size, again.config.added_prompt) == (SIDE, "sharp")


def test_the_other_class_gives_the_image_of_its_own_pipeline(seesr) -> None:
    parts = dict(seesr.components)
    direct = quiet(AddSRPipeline(**parts, process_size=SIDE))
    through = quiet(AddSRPipeline.from_pipe(seesr, process_size=SIDE))
    ask = {"output_type": "pt"}
    a, b = (pipe(LR, generator=seeded(), **ask).images for pipe in (direct, through))
    assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_seesr_grows_out_of_a_stable_diffusion_pipeline(seesr) -> None:
    unet = UNet2DConditionModel(**UNET, up_block_types=UP_BLOCKS)
    parts = {name: seesr.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    base = StableDiffusionPipeline(**parts, unet=unet, safety_checker=None, feature_extractor=None)
    added = {"unet": seesr.unet, "controlnet": seesr.controlnet, "tagger": seesr.tagger}
    grown = quiet(SeeSRPipeline.from_pipe(base, **added, process_size=SIDE))
    assert torch.equal(run(grown), run(seesr))
    with pytest.raises(ValueError, match="unet has no image cross-attention"):
        SeeSRPipeline.from_pipe(base, controlnet=seesr.controlnet)


def test_addsr_takes_the_noise_levels_of_whichever_scheduler_is_assigned(addsr) -> None:
    expected = run(addsr)
    other = AddSRPipeline.from_pipe(addsr, scheduler=EulerDiscreteScheduler.from_config(addsr.scheduler.config))
    assert torch.equal(run(quiet(other)), expected)


# --- results ---------------------------------------------------------------------------------------------------------


def test_latents_decode_to_the_image(seesr) -> None:
    latents = run(seesr, output_type="latent")
    assert latents.shape == (1, 4, 4, 5)
    image = run(seesr, color_fix="none")
    torch.testing.assert_close(seesr.decode(latents).clamp(-1, 1) / 2 + 0.5, image, rtol=0, atol=1e-5)


def test_results_of_one_image_differ_and_each_is_that_of_its_generator(seesr) -> None:
    both = run(seesr, num_images_per_prompt=2, generator=[seeded(4), seeded(5)])
    alone = torch.cat([run(seesr, generator=seeded(i)) for i in (4, 5)])
    assert (both - alone).abs().max() <= 1 / 255 and (both[0] - both[1]).abs().max() > 0.02
    one = run(seesr, num_images_per_prompt=2, generator=seeded(4))
    torch.testing.assert_close(one[:1], both[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fix", ["adain", "wavelet"])
def test_colours_are_corrected_against_the_enlarged_image_as_much_as_asked(seesr, fix) -> None:
    raw, full, half = (run(seesr, color_fix=fix, color_fix_strength=strength) for strength in (0.0, 1.0, 0.5))
    latents = run(seesr, output_type="latent")
    content = seesr.decode(latents).clamp(-1, 1)
    corrected = color_fix(content, bicubic(LR * 2 - 1, (32, 40), "pil"), fix).clamp(-1, 1)
    assert torch.equal(raw, run(seesr, color_fix="none"))
    torch.testing.assert_close(full * 2 - 1, corrected, rtol=0, atol=1e-4)
    assert min((a - b).abs().max() for a, b in ((raw, full), (raw, half), (full, half))) > 1 / 255
    if fix == "adain":  # which is the default
        assert torch.equal(full, run(seesr))


def test_an_interrupted_chain_returns_what_is_predicted_so_far(seesr) -> None:
    seen: list[Tensor] = []

    def stop_after_one(pipe, step, _t, tensors):
        seen.append(tensors["pred_original_sample"])
        pipe._interrupt = step == 0
        return {}

    latents = run(
        seesr,
        output_type="latent",
        callback_on_step_end=stop_after_one,
        callback_on_step_end_tensor_inputs=["pred_original_sample"],
    )
    assert len(seen) == 1 and torch.equal(latents, seen[0])


# --- words -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_embeddings_give_the_image_of_their_words(seesr, scale) -> None:
    words = run(seesr, prompt="a cat", negative_prompt="noise", tags=False, guidance_scale=scale)
    given = {
        "prompt_embeds": seesr.encode_prompt(f"a cat, {ADDED_PROMPT}"),
        "negative_prompt_embeds": seesr.encode_prompt("noise"),
        "image_embeds": seesr.tagger(tagger_input(LR * 2 - 1, seesr.tagger.config.image_res)).image_embeds,
    }
    assert torch.equal(run(seesr, **given, guidance_scale=scale), words)
    doubled = {name: rows.repeat(2, 1, 1) for name, rows in given.items()}
    both = run(seesr, [LR[0], LR[0]], **doubled, guidance_scale=scale, generator=[seeded(), seeded()])
    assert (both - words).abs().max() <= 1 / 255


def test_rows_of_embeddings_stay_with_their_images(seesr) -> None:
    rows = torch.cat([seesr.encode_prompt("a cat"), seesr.encode_prompt("a house in the grass")])
    generators = [seeded() for _ in range(4)]
    four = run(seesr, [LR[0], LR[0]], num_images_per_prompt=2, prompt_embeds=rows, generator=generators)
    alone = torch.cat([run(seesr, prompt_embeds=rows[i : i + 1]) for i in (0, 0, 1, 1)])
    assert (four - alone).abs().max() <= 1 / 255 and (four[0] - four[2]).abs().max() > 1 / 255


def test_given_image_tokens_are_those_of_every_result(seesr) -> None:
    tokens = torch.randn(1, 17, 512, generator=seeded())
    one = run(seesr, image_embeds=tokens, tags="cat")
    two = run(seesr, image_embeds=tokens, tags="cat", num_images_per_prompt=2, generator=[seeded(), seeded()])
    assert (two - one).abs().max() <= 1 / 255
    assert (one - run(seesr, image_embeds=-tokens, tags="cat")).abs().max() > 1 / 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_embeds": torch.zeros(1, 77)}, r"prompt_embeds is \(1, 77\); pass a tensor \(B, N, "),
        ({"prompt_embeds": torch.zeros(3, 77, 64)}, r"prompt_embeds is \(3, 77, 64\)"),
        ({"prompt_embeds": torch.zeros(1, 77, 48)}, r"prompt_embeds .* 64"),
        ({"image_embeds": torch.zeros(1, 17, 64)}, r"image_embeds .* 512"),
        ({"image_embeds": "cat"}, "image_embeds is str"),
        ({"prompt_embeds": torch.zeros(1, 77, 64), "prompt": "a cat"}, "both given"),
        ({"tags": ["cat", "dog"]}, "tags is a list of 2 for 1 images"),
        ({"prompt": "auto", "tags": False}, 'prompt is "auto", the tags alone, but tags=False'),
        ({"clip_skip": 9}, "clip_skip is 9, but the text encoder has 2 layers"),
        ({"prompt": "a (cat:high)", "prompt_weighting": True}, "high"),
        ({"long_prompt": "cut"}, "long_prompt='cut'"),
    ],
)
def test_words_that_cannot_be_meant_are_one_line(seesr, options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(seesr, **options)
    assert "\n" not in str(caught.value)


def prompts(pipe, images=LR, **options) -> list[str]:
    """The texts of a call, whose chain is not run."""
    texts = []
    steer = pipe.steer

    class Enough(Exception):
        pass

    def stop(call, photos):
        texts.extend(steer(call, photos)[1])
        raise Enough

    pipe.steer = stop
    try:
        pipe(images, **options)
    except Enough:
        pass
    finally:
        del pipe.steer
    return texts


def test_the_text_of_each_result_is_told(seesr) -> None:
    (found,) = prompts(seesr, prompt="auto")
    assert found == "" or set(found.split(", ")) <= set(TAGS)
    assert prompts(seesr, prompt="a pet") == [f"{found}, a pet,{ADDED_PROMPT}"]
    assert prompts(seesr) == [f"{found}, ,{ADDED_PROMPT}"]
    assert prompts(seesr, prompt="a pet", tags="cat, grass") == [f"cat, grass, a pet,{ADDED_PROMPT}"]
    assert prompts(seesr, prompt="a pet", tags=False) == [f"a pet, {ADDED_PROMPT}"]
    assert prompts(seesr, prompt="auto", tags="cat") == ["cat"]
    assert prompts(seesr, prompt="a pet", tags="cat", added_prompt="8k") == ["cat, a pet,8k"]
    result = seesr(LR, prompt="a pet", tags="cat", num_inference_steps=1, num_images_per_prompt=2)
    assert result.prompts == [f"cat, a pet,{ADDED_PROMPT}"] * 2


def test_texts_and_tags_may_differ_from_image_to_image(seesr) -> None:
    images = [LR[0], LR[0, :, :, :8]]
    said = prompts(seesr, images, prompt=["a", "b"], tags=["cat", "sky"], added_prompt="8k", num_images_per_prompt=2)
    assert said == ["cat, a,8k", "cat, a,8k", "sky, b,8k", "sky, b,8k"]
    told = prompts(
        seesr, images, prompt=lambda image: f"{image.width} by {image.height}", tags="cat", added_prompt="8k"
    )
    assert told == ["cat, 10 by 8,8k", "cat, 8 by 8,8k"]
    assert prompts(seesr, prompt="a", tags="cat", prompt_layout=lambda tags, prompt, added: f"{prompt} {tags}") == [
        "a cat"
    ]


def test_text_and_tags_change_the_image(seesr) -> None:
    images = [run(seesr, tags="cat"), run(seesr, tags="house, sky"), run(seesr, tags=False), run(seesr, prompt="a pet")]
    for i, a in enumerate(images):
        assert all((a - b).abs().max() > 1e-3 for b in images[i + 1 :])


def test_skipping_layers_of_the_text_encoder_changes_the_prompt_and_not_the_negative_one(seesr) -> None:
    plain, skipped = run(seesr, prompt="a cat"), run(seesr, prompt="a cat", clip_skip=1)
    assert (plain - skipped).abs().max() > 1e-3
    assert torch.equal(run(seesr, prompt="a cat", clip_skip=0), plain)
    seen: Any = []
    encode = seesr.encode_prompt
    seesr.encode_prompt = lambda text, **settings: (
        seen.append((text, settings.get("clip_skip"))) or encode(text, **settings)
    )
    try:
        run(seesr, prompt="a cat", negative_prompt="noise", tags=False, clip_skip=1, guidance_scale=3.0)
    finally:
        del seesr.encode_prompt
    assert (f"a cat, {ADDED_PROMPT}", 1) in seen and ("noise", None) in seen


def test_a_long_prompt_beside_a_short_negative_one_counts_to_its_end(seesr) -> None:
    long = "word " * 90
    ask = {"long_prompt": "chunk", "tags": False, "guidance_scale": 3.0}
    image = run(seesr, prompt=long + "cat", **ask)
    assert (image - run(seesr, prompt=long + "house", **ask)).abs().max() > 1e-4
    cut = ask | {"long_prompt": "truncate"}
    assert torch.equal(run(seesr, prompt=long + "cat", **cut), run(seesr, prompt=long + "house", **cut))


def test_weights_of_words_are_read_where_asked(seesr) -> None:
    ask = {"tags": False, "added_prompt": ""}
    assert torch.equal(
        run(seesr, prompt="a (cat:1.0)", prompt_weighting=True, **ask), run(seesr, prompt="a cat", **ask)
    )
    strong = run(seesr, prompt="a (cat:1.8)", prompt_weighting=True, **ask)
    assert (strong - run(seesr, prompt="a cat", **ask)).abs().max() > 1e-3


def test_an_unused_negative_prompt_is_said_once_and_a_default_one_never(seesr) -> None:
    pipe = quiet(SeeSRPipeline.from_pipe(seesr))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(pipe, num_inference_steps=1)
        assert not [w for w in caught if "negative" in str(w.message)]
        for _ in range(2):
            run(pipe, negative_prompt="noise", num_inference_steps=1)
    said = [w for w in caught if "negative" in str(w.message)]
    assert len(said) == 1
    assert "negative_prompt is not used with guidance_scale=1; it takes one above 1" in str(said[0].message)


def test_tags_are_kept_beside_the_photo_where_asked(mine, tmp_path, monkeypatch) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray((LR[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(path)
    looks: Any = []
    tags = mine.tagger.tags
    monkeypatch.setattr(mine.tagger, "tags", lambda logits: looks.append(1) or tags(logits))
    first = prompts(mine, str(path))
    assert not (tmp_path / "photo.png.tags.json").exists() and len(looks) == 1
    assert prompts(mine, str(path), tags_cache=True) == first and len(looks) == 2
    kept = json.loads((tmp_path / "photo.png.tags.json").read_text())
    assert first == [f"{kept['tags']}, ,{ADDED_PROMPT}"]
    assert prompts(mine, str(path), tags_cache=True) == first and len(looks) == 2
    next(mine.tagger.parameters()).data.add_(1)  # another tagger
    prompts(mine, str(path), tags_cache=True)
    assert len(looks) == 3


# --- precision -------------------------------------------------------------------------------------------------------


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


# --- attention -------------------------------------------------------------------------------------------------------


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
