"""CLIP's tokens: those that open_clip's tokenizer gives, recorded, and the form of a batch."""

import pytest
import torch

from resdiff.models.clip_tokenizer import VOCABULARY_SIZE, pieces, tokenize

RECORDED = {  # open_clip.tokenizer.SimpleTokenizer().encode, open_clip 3
    "sharp fur": [8157, 9686],
    "very grainy, noise-free!": [1070, 782, 23257, 267, 9307, 268, 1139, 256],
}


@pytest.mark.parametrize(("text", "ids"), RECORDED.items())
def test_tokens_are_those_of_clip(text: str, ids: list[int]) -> None:
    assert tokenize([text]).tolist() == [ids]


def test_case_and_spaces_do_not_matter() -> None:
    assert tokenize(["  Sharp\n FUR "]).tolist() == tokenize(["sharp fur"]).tolist()


def test_short_texts_are_filled_up_with_zeros() -> None:
    ids = tokenize(["sharp fur", "", "fur"])
    assert ids.dtype == torch.int64
    assert ids.tolist() == [[8157, 9686], [0, 0], [9686, 0]]
    assert tokenize([]).shape == (0, 0) and tokenize([""]).shape == (1, 0)


def test_any_text_has_tokens_of_the_vocabulary() -> None:
    ids = tokenize(["日本語 ☃ 😀 isn't it? \x00 ünï €5 <start_of_text>"])
    assert (ids > 0).all() and (ids < VOCABULARY_SIZE - 2).all()  # nobody can write the special tokens


def test_rare_words_have_several_pieces() -> None:
    assert pieces("grainy photo") == ["gra", "iny", "photo"]
    assert pieces("granite") == ["granite"]
