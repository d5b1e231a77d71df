"""What a command says when something goes wrong: one line, and an exit code.

0: done. 1: some file failed, or Ctrl-C or a full disk ended the run, or nobody expected the error. 2: the command
cannot be carried out as given.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

INTERRUPTED = "interrupted; run again with --resume for the rest"
EXIT_CODES = "Exit codes: 0 done; 1 some file failed, or the run was interrupted; 2 it cannot be carried out as given."


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Put an error into one line: exit code 2 for what is wrong with the command, 1 for what nobody expected."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(INTERRUPTED, err=True)
        raise typer.Exit(1) from None
    except Exception as error:
        if debug or isinstance(error, typer.Exit):
            raise
        say_error(error)
        raise typer.Exit(2 if isinstance(error, (ValueError, OSError)) else 1) from None


def say_error(error: Exception) -> None:
    """Print one line about `error` on stderr."""
    from resdiff.runs.errors import describe

    typer.echo(f"Error: {describe(error)}", err=True)


def set_messages(debug: bool) -> None:
    """Keep the libraries' chatter off the terminal and put our warnings into one line each."""
    # more pixels than Pillow's limit are an error of ours, the warning would say it twice
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit of")
    if debug:
        return
    for variable in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("xformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.showwarning = _show_warning  # type: ignore[assignment]


def _show_warning(message: Any, category: type[Warning], filename: str, lineno: int, *rest: Any) -> None:
    from tqdm import tqdm

    from resdiff.files.formats import printable

    line = printable((str(message).splitlines() or [category.__name__])[0])
    tqdm.write(f"Warning: {line}", file=sys.stderr)  # beside the bar
