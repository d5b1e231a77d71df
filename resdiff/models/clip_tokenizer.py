"""CLIP's byte-pair tokens of a prompt, without its start and end tokens.

Vocabulary and merges are those of Radford et al. (2103.00020), as the file in open_clip has them. That library itself is
not imported, which takes seconds: the file is read by `tokenizers`, in the same steps as open_clip's `SimpleTokenizer`
but for the repair of wrongly decoded text (ftfy) and of HTML; and "<start_of_text>" is a text like any other.
"""

import functools
import gzip
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tokenizers import Tokenizer

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_SIZE = 49408
END_OF_WORD = "</w>"
SPECIAL = ("<start_of_text>", "<end_of_text>")
WORD = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"  # what merges never reach across
PADDING = 0


def tokenize(texts: Sequence[str]) -> Tensor:
    """Return the token ids of texts, (B, L) int64, short ones filled up with 0; L is that of the longest, maybe 0.

    Raises ValueError when open_clip_torch is not installed.
    """
    rows = [encoding.ids for encoding in _tokenizer().encode_batch(list(texts), add_special_tokens=False)]
    ids = torch.full((len(rows), max(map(len, rows), default=0)), PADDING)
    for row, found in zip(ids, rows, strict=True):
        row[: len(found)] = torch.tensor(found, dtype=torch.int64)
    return ids


def pieces(text: str) -> list[str]:
    """Return the pieces that `tokenize` cuts a text into; those that end a word without their mark."""
    return [piece.removesuffix(END_OF_WORD) for piece in _tokenizer().encode(text, add_special_tokens=False).tokens]


@functools.cache
def vocabulary() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Return the tokens in the order of their ids, without the two special ones that end it, and the merges in theirs.

    Raises ValueError when open_clip_torch is not installed.
    """
    spec = find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("prompt needs the vocabulary in open_clip_torch, which is not installed; pip install it")
    file = Path(spec.submodule_search_locations[0]) / VOCABULARY_FILE
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    count = VOCABULARY_SIZE - len(SPECIAL) - 2 * 256  # of the merges; the file goes on, and its first line is a title
    merges = tuple((first, second) for first, second in (line.split() for line in lines[1 : count + 1]))
    letters = _letters()
    return (*letters, *(letter + END_OF_WORD for letter in letters), *(a + b for a, b in merges)), merges


@functools.cache
def _tokenizer() -> "Tokenizer":
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import ByteLevel, Split
    from tokenizers.pre_tokenizers import Sequence as Steps

    tokens, merges = vocabulary()
    model = BPE(
        vocab={token: number for number, token in enumerate((*tokens, *SPECIAL))},
        merges=list(merges),
        continuing_subword_prefix="",
        end_of_word_suffix=END_OF_WORD,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = Lowercase()
    bytewise = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = Steps([Split(Regex(WORD), "removed", invert=True), bytewise])
    return tokenizer


def _letters() -> list[str]:
    """Return the printable letters that stand for the 256 bytes, in CLIP's order: printable ones first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i in range(256 - len(printable))]
