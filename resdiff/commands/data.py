"""`resdiff data check`: which photos a training would use."""

from pathlib import Path
from typing import Annotated

import typer

from resdiff.commands.messages import one_line_errors, set_messages
from resdiff.commands.options import Debug, crop

data_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Look at training data.")


@data_app.callback()
def _root() -> None:
    """Look at training data."""


@data_app.command(short_help="Say which photos a training would use.")
def check(
    folder: Annotated[Path | None, typer.Argument(metavar="DIR", help="Folder of HR photos, recursive.")] = None,
    lr_dir: Annotated[Path | None, typer.Option(help="Folder of their LR partners, of the same names.")] = None,
    manifest: Annotated[Path | None, typer.Option(help="CSV or JSONL with hr, lr, caption, tags.")] = None,
    resolution: Annotated[str, typer.Option(help="Side of the HR crops in px, or height,width.")] = "64",
    scale: Annotated[int, typer.Option(min=1, help="HR side over LR side of pairs.")] = 4,
    list_all: Annotated[bool, typer.Option("--list", help="Name every file that would not be used.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Read headers only: truncated files are not found.")] = False,
    debug: Debug = False,
) -> None:
    """Say which photos a training would use, which not, and why. Exit code 2 when it would use none."""
    set_messages(debug)
    with one_line_errors(debug):
        from resdiff.data.check import decoded, in_words
        from resdiff.data.scan import scan

        found = scan(folder, lr_data_dir=lr_dir, manifest=manifest, crop=crop(resolution), scale=scale)
        report = in_words(found if fast else decoded(found, scale), scale, list_all=list_all)
        typer.echo(report)
