"""Errors as one line each. Imports nothing heavy."""

from pathlib import Path

from resdiff.files.formats import printable

LONGEST_LINE = 800  # characters of a message


def describe(error: BaseException, source: Path | None = None) -> str:
    """Put `error` into one line that names the file `source`; the type is told where the text alone may not be clear."""
    text = " ".join(line.strip() for line in str(error).splitlines()[:1])
    if not isinstance(error, (ValueError, OSError)) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    text = text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."
    named = source is None or str(source) in text or printable(source) in text
    return printable(text if named else f"{source}: {text}")
