"""The part of a model card that says which words the text encoder knows, and what each tells it of a photo."""

import itertools
import re

import torch

from resdiff.data.phrases import SAYINGS, WORDINGS
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.prompt_encoder import PromptEncoder

CARD = """## Words

What each prompt says of a photo, beyond what its low-resolution image shows, in standard deviations over the training
photos. {open_tokens} of the {vocab_size} tokens are open; a prompt without any of them says nothing.

{table}

Words: {words}.
"""


def card_of_words(encoder: PromptEncoder) -> str:
    """Return what the encoder understands, in Markdown: a table of prompts, and the words of which a token is open."""
    lines = [
        f"| prompt | {' | '.join(encoder.config.attributes)} |",
        f"|---|{'---:|' * len(encoder.config.attributes)}",
    ]
    texts = [form for saying in SAYINGS for form in (*saying.of_adjectives, *saying.of_nouns)]
    for wording in itertools.chain(*WORDINGS.values()):
        for word in dict.fromkeys(wording.adjectives):
            lines += [_row(encoder, saying.of_adjectives[0].format(word)) for saying in SAYINGS]
        for word in dict.fromkeys(wording.nouns):
            lines += [_row(encoder, word), _row(encoder, SAYINGS[-1].of_nouns[0].format(word))]
        lines += [_row(encoder, word) for word in wording.verbs]
        texts += [*wording.adjectives, *wording.nouns, *wording.verbs]
    words = sorted({word for text in texts for word in re.findall(r"[\w']+", text)})
    is_open = encoder.open_tokens().cpu()
    return CARD.format(
        open_tokens=int(is_open.sum()),
        vocab_size=encoder.config.vocab_size,
        table="\n".join(lines),
        words=", ".join(word for word in words if is_open[tokenize([word])[0]].any()),
    )


@torch.no_grad()
def _row(encoder: PromptEncoder, prompt: str) -> str:
    values = encoder(tokenize([prompt]).to(encoder.device))[0].tolist()
    return f"| {prompt} | {' | '.join(f'{value:+.2f}' for value in values)} |"
