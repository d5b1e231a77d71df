"""Texts to the embeddings that Stable Diffusion's UNet attends to, by CLIP's text encoder (2103.00020).

A text that fits is encoded as by diffusers' `StableDiffusionPipeline.encode_prompt`. A longer one is cut off as there,
or encoded in several chunks whose embeddings follow each other, as in AUTOMATIC1111/stable-diffusion-webui; from there
also weighted words (`resdiff.text.weighting`). What a pipeline does itself, before: `maybe_convert_prompt`, which
expands textual inversions of several vectors, and the scale of LoRA layers.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.text.weighting import parse_weights, weigh

logger = logging.getLogger("resdiff")

LongPrompt = Literal["truncate", "chunk"]
COMMA_REACH = 20  # tokens at the end of a chunk among which a comma is preferred to other places to split at


class Token(NamedTuple):
    """A token of a text."""

    id: int
    weight: float
    start: int  # its first character in the text
    opens_word: bool  # a word is what stands between spaces; all vectors of a textual inversion are one, too
    is_comma: bool


def encode_text(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    text: str,
    *,
    long_prompt: LongPrompt = "truncate",  # what becomes of a text that is too long
    clip_skip: int | None = None,  # layers left out at the end; None and 0: none
    weighting: bool = False,  # read brackets as weights (`resdiff.text.weighting`); else they are literal
    device: torch.device | None = None,  # where the encoder runs; None: where it is, which says nothing if offloaded
) -> Tensor:
    """Encode a text to (1, 77 n, C) in the encoder's dtype; n is 1 unless a longer text is chunked.

    "truncate" cuts off what is beyond 75 tokens and says so in the log, once per text. "chunk" splits there: at the
    last comma of the 20 tokens before, else between words, else anywhere; each chunk has its own start, end and padding.
    A text that fits gives the same in both. Padding is attended to unless the encoder's configuration forbids it.

    Raises:
        ValueError: `long_prompt` or `clip_skip` is out of range, or weights are malformed.
    """
    layers = text_encoder.config.num_hidden_layers
    if long_prompt not in get_args(LongPrompt):
        raise ValueError(f"long_prompt is {long_prompt!r}; choose one of {', '.join(get_args(LongPrompt))}")
    if clip_skip is not None and not 0 <= clip_skip <= layers:
        raise ValueError(f"clip_skip is {clip_skip}, but the text encoder has {layers} layers; choose 0 to {layers}")
    pieces = parse_weights(text) if weighting else [(text, 1.0)]
    words = "".join(piece for piece, _ in pieces)
    tokens = _tokenize(tokenizer, pieces)
    room = _length(tokenizer, text_encoder) - 2  # beside start and end
    if long_prompt == "truncate" and len(tokens) > room:
        first = next(i for i in range(room, -1, -1) if tokens[i].opens_word or i == 0)
        _say_cut(words[tokens[first].start :], room)
        tokens = tokens[:room]
    device = device or text_encoder.device
    chunks = [_encode_chunk(tokenizer, text_encoder, chunk, clip_skip, device) for chunk in _chunks(tokens, room)]
    return torch.cat(chunks, dim=1)


def equal_lengths(embeds: Sequence[Tensor], empty: Tensor) -> list[Tensor]:
    """Bring embeddings (B, 77 n, C) of different n to the longest by chunks of the empty prompt, (1, 77, C), at the end.

    Raises:
        ValueError: lengths do not differ by whole chunks.
    """
    longest, chunk = max(x.shape[1] for x in embeds), empty.shape[1]
    if any((longest - x.shape[1]) % chunk for x in embeds):
        lengths = ", ".join(str(x.shape[1]) for x in embeds)
        raise ValueError(f"embeddings have {lengths} tokens; they must differ by multiples of {chunk}")
    return [
        torch.cat([x, empty.expand(len(x), -1, -1).repeat(1, (longest - x.shape[1]) // chunk, 1)], 1) for x in embeds
    ]


def _length(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> int:
    """Return the tokens of a chunk, 77; a tokenizer that was saved without its length claims 1e30."""
    return min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)


def _tokenize(tokenizer: CLIPTokenizer, pieces: Sequence[tuple[str, float]]) -> list[Token]:
    """Tokenise pieces one by one, as AUTOMATIC1111 does: no token reaches from one into the next."""
    text = "".join(piece for piece, _ in pieces)
    added = tokenizer.get_added_vocab()
    tokens: list[Token] = []
    before = end = 0  # characters of the pieces before; end of the token before
    for piece, weight in pieces:
        encoded = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        for number, (first, last) in zip(encoded.input_ids, encoded.offset_mapping, strict=True):
            start = before + first
            written = text[start : before + last]
            # a character of several tokens is the place of each of them
            opens_word = start >= end and (start == 0 or text[start - 1].isspace())
            name, _, vector = written.rpartition("_")
            if vector.isdecimal() and name in added:
                opens_word = False
            end = before + last
            tokens.append(Token(number, weight, start, opens_word, written.endswith(",")))
        before += len(piece)
    return tokens


def _chunks(tokens: list[Token], room: int) -> Iterator[list[Token]]:
    """Split into chunks of at most `room` tokens; of no tokens is one empty chunk."""
    while len(tokens) > room:
        commas = (n for n in range(room, max(room - COMMA_REACH, 0), -1) if tokens[n - 1].is_comma)
        words = (n for n in range(room, 0, -1) if tokens[n].opens_word)
        cut = next(commas, None) or next(words, None) or room
        yield tokens[:cut]
        tokens = tokens[cut:]
    yield tokens


def _encode_chunk(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    tokens: Sequence[Token],
    clip_skip: int | None,
    device: torch.device,
) -> Tensor:
    """Encode tokens between start and end, filled up with padding: (1, 77, C)."""
    padding = _length(tokenizer, text_encoder) - 2 - len(tokens)
    ids = [tokenizer.bos_token_id, *(token.id for token in tokens), tokenizer.eos_token_id]
    weights = [1.0, *(token.weight for token in tokens), 1.0] + [1.0] * padding
    mask = None
    if getattr(text_encoder.config, "use_attention_mask", False):
        mask = torch.tensor([[1] * len(ids) + [0] * padding], device=device)
    ids += [tokenizer.pad_token_id] * padding
    output = text_encoder(
        torch.tensor([ids], device=device), attention_mask=mask, output_hidden_states=clip_skip is not None
    )
    if clip_skip is None:
        return weigh(output[0], weights)
    norm = getattr(text_encoder, "text_model", text_encoder).final_layer_norm  # transformers 4 has it inside
    return weigh(norm(output.hidden_states[-(clip_skip + 1)]), weights)


@functools.lru_cache(maxsize=1024)
def _say_cut(words: str, room: int) -> None:
    """Log once what is cut off."""
    logger.warning(
        'the prompt has more than %d tokens; cut off: "%s" (shorten it, or pass long_prompt="chunk")', room, words
    )
