"""Things named on the command line, with their settings in one text: `--model "resdiff-small num_inference_steps=4"`.

The text is split as a shell would (quotes keep spaces together). The first word names the thing, every other word is
`key=value`.
"""

import shlex
from collections.abc import Iterable

from resdiff.names import remedy
from resdiff.scalars import Scalar, scalar


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """Return the first word of a spec and its settings as written: `"d name=007"` -> ("d", {"name": "007"}).

    Raises:
        ValueError: the text is empty or its quotes are not closed, a word is no `key=value`, or a key comes twice.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        raise ValueError(f"{text!r} has a quote that is not closed; close it, or escape it by a backslash") from None
    if not words or not words[0]:
        raise ValueError(f"{text!r} names nothing; give a name or a folder, then key=value words")
    settings: dict[str, str] = {}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(
                f"{word!r} in {text!r} is no key=value; write settings as key=value, and quote a name that has spaces"
            )
        if key in settings:
            raise ValueError(f"{key} is given twice in {text!r}; keep one")
        settings[key] = value
    return words[0], settings


def parse_spec(text: str) -> tuple[str, dict[str, Scalar]]:
    """Return the first word of a spec and its settings, each value as the scalar it spells (`scalar`).

    >>> parse_spec("resdiff-small num_inference_steps=4 color_fix=null prompt='sharp fur'")
    ('resdiff-small', {'num_inference_steps': 4, 'color_fix': None, 'prompt': 'sharp fur'})

    Raises:
        ValueError: as `split_spec`.
    """
    name, settings = split_spec(text)
    return name, {key: scalar(value) for key, value in settings.items()}


def check_keys(given: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """Raise ValueError, naming the nearest allowed key, unless all `given` keys of `what` are allowed."""
    allowed = list(allowed)
    for key in given:
        if key not in allowed:
            raise ValueError(f"{what} has no setting {key!r}; {remedy(key, allowed)}")
