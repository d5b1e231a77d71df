"""The command line: `resdiff upscale | convert | models | info | doctor | data check`, each in `resdiff.commands`.

Nothing heavy is imported before a command needs it, so that `resdiff --help` answers at once. Exit codes: 0 done, 1 some
file failed, or Ctrl-C or a full disk ended the run, 2 the command cannot be carried out as given.
"""

import signal
import sys
from typing import Annotated

import typer

from resdiff import __version__
from resdiff.commands.convert import convert
from resdiff.commands.data import data_app
from resdiff.commands.doctor import doctor
from resdiff.commands.info import info
from resdiff.commands.messages import EXIT_CODES, INTERRUPTED
from resdiff.commands.models import models_app
from resdiff.commands.upscale import upscale

app = typer.Typer(
    help=f"Diffusion-based image super-resolution. {EXIT_CODES}",
    rich_markup_mode=None,  # importing rich would take most of the start
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)
app.command(short_help="Enlarge images.")(upscale)
app.command(short_help="Turn published checkpoints into a folder.")(convert)
app.add_typer(models_app, name="models", help="List, fetch and remove the models known by name.")
app.command(short_help="Say what an image or a model is.")(info)
app.command(short_help="Show versions, devices, precisions and what is missing.")(doctor)
app.add_typer(data_app, name="data", help="Look at training data.")


def main() -> None:
    """Run the command line; the entry point of the `resdiff` script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names that the terminal cannot show are shown as escapes
            stream.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a system that shuts down: as Ctrl-C
    try:
        code = app(prog_name="resdiff", standalone_mode=False)
    except typer.Abort:
        typer.echo(INTERRUPTED, err=True)
        code = 1
    except Exception as error:
        # what is wrong with the options themselves: typer's class for it has no public name, only this method
        if not hasattr(error, "format_message") or not error.format_message():
            raise
        typer.echo(f"Error: {error.format_message().splitlines()[0]} See resdiff --help.", err=True)
        code = 2
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would print tracebacks of the libraries' exits
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"resdiff {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


if __name__ == "__main__":
    main()
