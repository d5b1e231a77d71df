"""The tokenizer of Stable Diffusion 2 as transformers has it, without a download."""

from transformers import CLIPTokenizer

from resdiff.models.clip_tokenizer import vocabulary

CONTEXT_LENGTH = 77  # tokens of a text, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
PADDING = "!"  # id 0, as open_clip fills up; Stable Diffusion 1 pads with END


def clip_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer from the vocabulary that comes with open_clip.

    Ids are those of open_clip's `tokenize`, but texts are not repaired (ftfy, HTML). And as with the published files, a
    "!" in a text is taken for the padding, whose sign it is: id 0 instead of 256.

    Raises:
        ValueError: open_clip_torch is not installed.
    """
    tokens, merges = vocabulary()
    ids = {token: number for number, token in enumerate((*tokens, START, END))}
    return CLIPTokenizer(
        vocab=ids,
        merges=list(merges),  # type: ignore[arg-type]  # typed as strings, which it refuses
        model_max_length=CONTEXT_LENGTH,
        pad_token=PADDING,
    )
