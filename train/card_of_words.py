"""The part of a model card about words: which the text encoder knows, what each tells it of a photo, and what it does."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import torch

from resdiff.data.phrases import SAYINGS, WORDINGS
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.prompt_encoder import PromptEncoder

HEADING = "## Words"
CARD = """{heading}

What each prompt says of a photo, beyond what its low-resolution image shows, in standard deviations over the training
photos. {open_tokens} of the {vocab_size} tokens are open; a prompt without any of them says nothing.{effects}

{table}
"""
EFFECTS = """
In the columns on the right what it does: by how much the same four attributes of the result change against no prompt,
in per cent, the geometric mean over {images}."""


def known_prompts(encoder: PromptEncoder) -> list[str]:
    """Return the words that say something to the encoder, and for the first of each kind how degrees change it."""
    known = [prompt for prompt in dict.fromkeys(_prompts()) if said(encoder, prompt).any()]
    return sorted(known, key=lambda prompt: len(prompt.split()) > 1)  # single words first, else in the order of kinds


@torch.no_grad()
def said(encoder: PromptEncoder, prompt: str) -> torch.Tensor:
    """Return what a prompt says, (attributes,) on the CPU."""
    return encoder(tokenize([prompt]).to(encoder.device))[0].cpu()


def card_of_words(
    encoder: PromptEncoder, effects: Mapping[str, Sequence[float]] | None = None, images: str = "no images"
) -> str:
    """Return what the encoder understands, in Markdown.

    Args:
        encoder: of the model.
        effects: for prompts of `known_prompts`, natural logarithms of the attributes with it over those without; NaN
            where not measured. None: the table has no such columns.
        images: on which they were measured, for the sentence above the table.
    """
    names = list(encoder.config.attributes)
    head = names if effects is None else [*names, *(f"{name}, %" for name in names)]
    lines = [f"| prompt | {' | '.join(head)} |", f"|---|{'---:|' * len(head)}"]
    for prompt in known_prompts(encoder):
        cells = [f"{value:+.2f}" for value in said(encoder, prompt).tolist()]
        if effects is not None:
            cells += [_percent(value) for value in effects[prompt]]
        lines.append(f"| {prompt} | {' | '.join(cells)} |")
    return CARD.format(
        heading=HEADING,
        open_tokens=int(encoder.open_tokens().sum()),
        vocab_size=encoder.config.vocab_size,
        effects="" if effects is None else EFFECTS.format(images=images),
        table="\n".join(lines),
    )


def _prompts() -> Iterator[str]:
    """Yield all wordings, and for the first of each kind its degrees and negations."""
    for wording in itertools.chain(*WORDINGS.values()):
        yield from (*wording.adjectives, *wording.nouns, *wording.verbs)
        for saying in SAYINGS:
            yield saying.of_adjectives[0].format(wording.adjectives[0])
            yield from (saying.of_nouns[0].format(noun) for noun in wording.nouns[:1])


def _percent(logarithm: float) -> str:
    change = 100 * torch.tensor(logarithm).expm1()
    return f"{change:+.0f}" if change.isfinite() else ""
