"""Values in `key=value` words of the command line: the plain scalar that a text spells."""

import re
from collections.abc import Iterable
from typing import TypeAlias

Scalar: TypeAlias = str | int | float | bool | None

CONSTANTS: dict[str, Scalar] = {"null": None, "~": None, "true": True, "false": False}
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")  # 007 is a name
FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")


def scalar(text: str) -> Scalar:
    """Return the plain scalar that `text` is in YAML's core schema; any other text, and the empty one, as it is.

    Unlike YAML 1.1, `no` and `on` are text, and so are 007 and 1_000. Quotes make text of anything: '"4"' -> '4'.
    """
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def key_values(words: Iterable[str]) -> dict[str, Scalar]:
    """Return `["scheduler=unipc", "eta=0.5"]` as {"scheduler": "unipc", "eta": 0.5}.

    Raises:
        ValueError: a word is no `key=value`, or a key comes twice.
    """
    found: dict[str, Scalar] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{word!r} is no key=value; write an option's name, = and its value")
        if key in found:
            raise ValueError(f"{key} is given twice; keep one")
        found[key] = scalar(value)
    return found
