r"""Weighted words in a prompt, in the notation and with the arithmetic of AUTOMATIC1111/stable-diffusion-webui.

(word) counts 1.1 times, (word:1.3) 1.3 times, [word] 1 / 1.1 times; nested brackets multiply. `\(`, `\)`, `\[`, `\]`,
`\:` and `\\` are the characters themselves. Unlike there, brackets that do not match are an error, and so is what
stands between a colon and its closing bracket when it is not a number. modules/prompt_parser.py, sd_hijack_clip.py.
"""

import itertools
import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor

STRONGER = 1.1  # the factor of a pair of round brackets without a number; square ones divide by it
OPENING = {")": "(", "]": "["}
FACTORS = {")": STRONGER, "]": 1 / STRONGER}
LEXEME = re.compile(
    r"""\\(?P<escaped>[()\[\]:\\])
    | (?::(?P<weight>[^()\[\]:\\]*)(?=\)))?(?P<close>[)\]])  # any other colon is a colon
    | (?P<open>[(\[])
    | [^()\[\]:\\]+ | [:\\]""",
    re.VERBOSE,
)
ROUNDING = 1e-5  # of a mean, relative to the mean magnitude: below, it is only rounding


def parse_weights(text: str) -> list[tuple[str, float]]:
    """Cut a prompt into pieces of one weight each: "a (red:1.3) cat" -> [("a ", 1.0), ("red", 1.3), (" cat", 1.0)].

    Neighbours of equal weight are one piece, so a prompt without brackets is one piece of weight 1; "" has none.

    Raises:
        ValueError: a bracket is not closed or not opened, or a weight is not a finite number.
    """
    pieces: list[tuple[str, float]] = []
    opened: list[tuple[str, int, int]] = []  # bracket, where it stands in the text, number of pieces before it

    for match in LEXEME.finditer(text):
        if bracket := match["close"]:
            if not opened or opened[-1][0] != OPENING[bracket]:
                place = match.start("close") + 1
                raise ValueError(
                    f"prompt closes a {bracket} at character {place} that is not open; a literal one is \\{bracket}"
                )
            _, _, first = opened.pop()
            factor = FACTORS[bracket] if match["weight"] is None else _number(match["weight"])
            pieces[first:] = [(words, weight * factor) for words, weight in pieces[first:]]
        elif match["open"]:
            opened.append((match["open"], match.start(), len(pieces)))
        else:
            pieces.append((match["escaped"] or match[0], 1.0))
    if opened:
        bracket, place, _ = opened[-1]
        raise ValueError(f"prompt does not close the {bracket} at character {place + 1}; a literal one is \\{bracket}")
    runs = itertools.groupby(pieces, key=lambda piece: piece[1])
    return [("".join(words for words, _ in run), weight) for weight, run in runs]


def _number(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise ValueError(f"prompt has the weight {text!r}, not a number; write (word:1.3), or \\: for a literal colon")
    return weight


def weigh(embeds: Tensor, weights: Sequence[float]) -> Tensor:
    """Multiply token embeddings (1, L, C) by one weight each, then all by one factor that restores their mean.

    The mean is over all tokens and channels, in float32. Where it is zero but for rounding, as after a layer norm that
    was never trained, it cannot be restored and the factor is 1. Weights that are all 1 change no bit.
    """
    if all(weight == 1 for weight in weights):
        return embeds
    before = embeds.float()
    after = before * torch.tensor(weights, device=embeds.device)[:, None]  # (L, 1)
    if min(x.mean().abs() / x.abs().mean() for x in (before, after)) > ROUNDING:
        after = after * (before.mean() / after.mean())
    return after.to(embeds.dtype)
