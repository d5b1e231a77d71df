"""The tokenizer of Stable Diffusion 2, built offline: open_clip's ids in transformers' form."""

from pathlib import Path

import open_clip
import pytest
import torch
from transformers import CLIPTokenizer

from resdiff.text.tokenizer import clip_tokenizer

TEXTS = (
    "",
    "cat, grass, ,clean, high-resolution, 8k",
    "dotted, noise, blur, lowres, smooth",
    "It's a  Very\ngrainy PHOTO of 2024, isn't it? (sharp:1.3)",
    "日本語 ☃ 😀 ünï €5 naïve café",
    "fur " * 100,
)


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return clip_tokenizer()


def padded(tokenizer: CLIPTokenizer, texts: tuple[str, ...]) -> torch.Tensor:
    return tokenizer(list(texts), padding="max_length", truncation=True, return_tensors="pt").input_ids


def test_ids_with_start_end_and_padding_are_open_clips(tokenizer) -> None:
    assert torch.equal(padded(tokenizer, TEXTS), open_clip.tokenize(list(TEXTS)))


def test_an_exclamation_mark_is_the_padding_as_in_the_published_tokenizer(tokenizer) -> None:
    assert tokenizer("wow!").input_ids == [49406, 2781, 0, 49407]
    assert tokenizer.pad_token_id == 0


def test_it_comes_back_from_a_folder(tokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again.model_max_length == 77
    assert torch.equal(padded(again, (*TEXTS, "wow!")), padded(tokenizer, (*TEXTS, "wow!")))


def test_words_can_be_added(tokenizer) -> None:
    own = clip_tokenizer()
    assert own.add_tokens("<cat>") == 1
    assert own("a <cat>").input_ids == [49406, 320, 49408, 49407]
    assert "<cat>" not in tokenizer.get_vocab()  # each call gives a tokenizer of its own
