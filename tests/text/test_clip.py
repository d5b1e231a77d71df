"""Encoding of prompts: diffusers' numbers where a text fits or is cut, and what chunks and weights add to them."""

import logging
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders import TextualInversionLoaderMixin
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from resdiff.text.clip import encode_text, equal_lengths
from resdiff.text.tokenizer import clip_tokenizer
from resdiff.text.weighting import weigh

LAYERS = 3
TAGS = "cat, grass, ,clean, high-resolution, 8k"
LONG = ", ".join(f"word number {i}" for i in range(30))  # 4 tokens each, the last ones 5
TEXTS = ("", TAGS, "(a cat\\) [b:1.3", "wow! 日本語", LONG)

Encode = Callable[..., Tensor]


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return clip_tokenizer()


@pytest.fixture(scope="module")
def text_encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        bos_token_id=49406,
        eos_token_id=49407,
        pad_token_id=0,
    )
    model = CLIPTextModel(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(0.05, 0.2)  # every layer changes the result, and its mean is not zero
    return model


@pytest.fixture(scope="module")
def encode(tokenizer, text_encoder) -> Encode:
    return lambda text, **options: encode_text(tokenizer, text_encoder, text, **options)


def by_diffusers(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, text: str, clip_skip: int | None) -> Tensor:
    pipe = SimpleNamespace(tokenizer=tokenizer, text_encoder=text_encoder)
    embeds, _ = StableDiffusionPipeline.encode_prompt(pipe, text, "cpu", 1, False, clip_skip=clip_skip)
    return embeds


@pytest.mark.parametrize("clip_skip", [None, 0, 1, LAYERS])
@pytest.mark.parametrize("text", TEXTS)
def test_numbers_are_those_of_diffusers(tokenizer, text_encoder, encode, monkeypatch, text, clip_skip) -> None:
    # diffusers 0.42 asks for the norm where transformers 4 had it
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    expected = by_diffusers(tokenizer, text_encoder, text, clip_skip)
    monkeypatch.delattr(CLIPTextModel, "text_model")
    assert expected.shape == (1, 77, 32)
    assert torch.equal(encode(text, clip_skip=clip_skip), expected)


def test_skipping_layers_changes_the_result(encode) -> None:
    plain, *skipped = (encode(TAGS, clip_skip=skip) for skip in (None, 0, 1, 2, LAYERS))
    torch.testing.assert_close(skipped[0], plain)
    assert all((a - b).abs().max() > 0.1 for a, b in pairwise(skipped))


def test_the_norm_is_found_where_transformers_4_had_it(tokenizer, text_encoder, encode, monkeypatch) -> None:
    norm = text_encoder.final_layer_norm
    expected = encode(TAGS, clip_skip=1)
    monkeypatch.setattr(CLIPTextModel, "text_model", SimpleNamespace(final_layer_norm=lambda x: 2 * norm(x)), False)
    torch.testing.assert_close(encode_text(tokenizer, text_encoder, TAGS, clip_skip=1), 2 * expected)


def test_padding_is_masked_only_if_the_encoder_says_so(tokenizer, text_encoder, encode, monkeypatch) -> None:
    plain = encode(TAGS)
    monkeypatch.setattr(text_encoder.config, "use_attention_mask", True, raising=False)
    masked = encode(TAGS)
    assert torch.equal(masked, by_diffusers(tokenizer, text_encoder, TAGS, None))
    assert (masked - plain).abs().max() > 0.01


def test_the_dtype_is_the_encoders(tokenizer, text_encoder) -> None:
    half = CLIPTextModel(text_encoder.config).to(torch.bfloat16)
    assert encode_text(tokenizer, half, "a (cat:1.2)", weighting=True).dtype == torch.bfloat16


def test_a_tokenizer_may_not_know_its_length(text_encoder, encode) -> None:
    own = clip_tokenizer()
    own.model_max_length = int(1e30)
    assert torch.equal(encode_text(own, text_encoder, LONG), encode(LONG))


def test_a_text_that_fits_is_one_chunk(encode) -> None:
    fits = "cat " * 75
    for text in ("", TAGS, fits):
        assert torch.equal(encode(text, long_prompt="chunk"), encode(text))
    assert encode(fits + "cat", long_prompt="chunk").shape == (1, 154, 32)


def test_chunks_are_encoded_each_by_itself_and_split_at_a_comma(encode) -> None:
    # "word number i," has 4 tokens below 10 and 5 above: 40 + 35 are just the 75 of the first chunk
    chunks = [LONG[: LONG.index("17")], LONG[LONG.index("word number 17") :]]
    first = LONG[: LONG.index(" word number 17")]
    expected = torch.cat([encode(first), encode(chunks[1])], dim=1)
    assert torch.equal(encode(LONG, long_prompt="chunk"), expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cat " * 54 + "dog,", "fur " * 20),  # the comma is one of the last 20 tokens that would fit
        ("cat " * 53 + "dog, " + "fur " * 20, "fur"),  # one earlier: no longer
        ("cat " * 73, "high-resolution photo"),  # the chunk would end within the word
        ("cat " * 74, "ᚠ fur"),  # within a character of several tokens
        ("cat " * 70, "<fur> <fur>_1 <fur>_2 <fur>_3 <fur>_4 <fur>_5 <fur>_6"),  # one textual inversion
    ],
)
def test_a_chunk_ends_at_a_late_comma_or_between_words(text_encoder, first: str, second: str) -> None:
    tokenizer = clip_tokenizer()
    tokenizer.add_tokens(["<fur>", *(f"<fur>_{i}" for i in range(1, 7))])
    encoder = CLIPTextModel(CLIPTextConfig(**{**text_encoder.config.to_dict(), "vocab_size": 49408 + 7})).eval()
    whole = encode_text(tokenizer, encoder, f"{first} {second}", long_prompt="chunk")
    parts = [encode_text(tokenizer, encoder, part) for part in (first, second)]
    assert torch.equal(whole, torch.cat(parts, dim=1))


@pytest.mark.parametrize("text", [LONG * 3, "日本語" * 100])  # the latter without a place to split at
def test_any_number_of_chunks_holds_every_word(tokenizer, text_encoder, monkeypatch, text: str) -> None:
    seen: list[int] = []
    forward = text_encoder.forward
    monkeypatch.setattr(
        text_encoder, "forward", lambda ids, **options: (seen.extend(ids[0].tolist()), forward(ids, **options))[1]
    )
    assert encode_text(tokenizer, text_encoder, text, long_prompt="chunk").shape[1] == len(seen)
    assert len(seen) % 77 == 0 and len(seen) >= 4 * 77
    words = [i for i in seen if i not in (49406, 49407, 0)]
    assert words == tokenizer(text, add_special_tokens=False, verbose=False).input_ids


def test_what_is_cut_off_is_said_once_per_text(encode, caplog) -> None:
    text = "cat " * 74 + "High-Resolution Photo,  of (fur)"
    with caplog.at_level(logging.WARNING, "resdiff"):
        encode(text)
        encode(text)
        assert [record.name for record in caplog.records] == ["resdiff"]
        assert '"High-Resolution Photo,  of (fur)"' in caplog.text  # the word that was cut in two, too
        encode("dog " * 76)
        encode("dog " * 75)
        encode(text, long_prompt="chunk")
    assert len(caplog.records) == 2
    assert '"dog "' in caplog.text


def test_words_cut_off_are_named_without_their_weights(encode, caplog) -> None:
    with caplog.at_level(logging.WARNING, "resdiff"):
        encode("(big:1.2) " + "cat " * 73 + "very-grainy (film:0.5)", weighting=True)
    assert '"very-grainy film"' in caplog.text


def test_brackets_are_literal_unless_weighting_is_on(encode) -> None:
    literal = encode("a (red:1.3) cat")
    assert torch.equal(literal, encode(r"a \(red\:1.3\) cat", weighting=True))
    assert not torch.equal(literal, encode("a (red:1.3) cat", weighting=True))


def test_words_weigh_what_their_brackets_say(encode) -> None:
    weights = [1.0] * 77
    weights[2], weights[3] = 1.3, 0.5  # start, a, red, cat
    weighted = encode("a (red:1.3) (cat:0.5)", weighting=True)
    plain = encode("a red cat")
    torch.testing.assert_close(weighted, weigh(plain, weights), rtol=0, atol=0)
    torch.testing.assert_close(weighted.mean(), plain.mean())
    assert (weighted - plain).abs().max() > 0.1


def test_every_chunk_is_weighted_by_itself(encode) -> None:
    first, second = "cat " * 75, "a (red:1.3) cat"
    whole = encode(first + second, weighting=True, long_prompt="chunk")
    assert torch.equal(whole, torch.cat([encode(first), encode(second, weighting=True)], dim=1))


def test_weights_of_one_change_nothing(encode) -> None:
    assert torch.equal(encode("a (red:1.0) cat", weighting=True), encode("a red cat"))


def test_vectors_of_a_textual_inversion_are_expanded_before(tokenizer, text_encoder) -> None:
    own = clip_tokenizer()
    own.add_tokens(["<fur>", "<fur>_1"])
    encoder = CLIPTextModel(CLIPTextConfig(**{**text_encoder.config.to_dict(), "vocab_size": 49410})).eval()
    text = TextualInversionLoaderMixin().maybe_convert_prompt("soft (<fur>:1.2)", own)
    assert text == "soft (<fur> <fur>_1:1.2)"
    weights = [1.0] * 77
    weights[2] = weights[3] = 1.2
    expected = weigh(encode_text(own, encoder, "soft <fur> <fur>_1"), weights)
    assert torch.equal(encode_text(own, encoder, text, weighting=True), expected)


def test_shorter_embeddings_are_filled_up_with_the_empty_prompt(encode) -> None:
    positive, negative, empty = encode(LONG * 2, long_prompt="chunk"), encode("blur"), encode("")
    assert positive.shape[1] == 4 * 77
    same, longer = equal_lengths([positive, negative], empty)
    assert torch.equal(same, positive)
    assert torch.equal(longer, torch.cat([negative, empty, empty, empty], dim=1))
    both = equal_lengths([negative.repeat(2, 1, 1), positive], empty)[0]
    assert torch.equal(both, longer.repeat(2, 1, 1))


def test_lengths_that_are_no_chunks_are_refused(encode) -> None:
    with pytest.raises(ValueError, match="77, 50 tokens"):
        equal_lengths([encode(""), encode("")[:, :50]], encode(""))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"clip_skip": -1}, "clip_skip is -1"), ({"clip_skip": LAYERS + 1}, "0 to 3"), ({"long_prompt": "cut"}, "chunk")],
)
def test_options_out_of_range_are_refused(encode, options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode("a cat", **options)
