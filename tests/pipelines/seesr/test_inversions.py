"""Textual inversions: their tokens, prompts of several chunks, other bases."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # a module beside this file, not a package

from tiny_calls import random, run


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
