"""`resdiff models`: list the models known by name, fetch them into the cache, remove them from it."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resdiff.checkpoints.known import BUNDLED, BUNDLED_LICENCE, known_by_name
from resdiff.commands.messages import EXIT_CODES, one_line_errors, say_error, set_messages
from resdiff.commands.options import Debug

if TYPE_CHECKING:
    from resdiff.checkpoints.cache import Cached

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of `resdiff models`.")]

models_app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@models_app.callback()
def list_models(context: typer.Context) -> None:
    """List the models that `--model` and `--as` know by name, and what of them is in the cache."""
    if context.invoked_subcommand is not None:
        return
    from resdiff.checkpoints.cache import cache_dir, contents

    models = contents()
    rows = [
        (BUNDLED, "x4", "here", BUNDLED_LICENCE, "comes with the package, the default"),
        ("bicubic", "x4", "here", "-", "plain interpolation, to compare with"),
        *((m.model.name, f"x{m.model.scale}", _state(m), m.model.licence, m.model.description) for m in models),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for *columns, description in rows:
        typer.echo("  ".join([text.ljust(width) for text, width in zip(columns, widths, strict=True)] + [description]))
    files = {file for model in models for file in (model.unet_file, model.autoencoder_file) if file is not None}
    typer.echo(
        f"\nIn {cache_dir()} ($RESDIFF_CACHE): {len(files)} files, {_megabytes(files)}. A model is fetched when it is "
        "first used, or by resdiff models fetch NAME."
    )


@models_app.command(short_help="Download models into the cache, or verify them.", epilog=EXIT_CODES)
def fetch(names: Names, debug: Debug = False) -> None:
    """Download the files of models that the cache lacks, and compare those it has with what they were when they came."""
    set_messages(debug)
    failed = False
    with one_line_errors(debug):
        from resdiff.checkpoints.cache import cache_dir
        from resdiff.checkpoints.fetch import fetch as fetch_files
        from resdiff.checkpoints.fetch import verify

        for known in [known_by_name(name) for name in names]:  # all names before the first download
            try:
                fetch_files(known.name)
                published = verify(known.name)
            except ValueError as error:
                if debug:
                    raise
                say_error(error)
                failed = True
                continue
            files = (published.unet_file, published.autoencoder_file)
            said = " and ".join(f"{file.name} ({_megabytes([file])})" for file in files)
            typer.echo(f"{known.name}: verified {said} in {cache_dir()}")
    raise typer.Exit(int(failed))


@models_app.command(short_help="Delete models from the cache.", epilog=EXIT_CODES)
def rm(names: Names, debug: Debug = False) -> None:
    """Delete the files of models from the cache. An autoencoder stays while another fetched model needs it."""
    set_messages(debug)
    with one_line_errors(debug):
        from resdiff.checkpoints.cache import cache_dir, cached, others_with, remove

        for known in [known_by_name(name) for name in names]:
            removed = remove(known.name)
            said = f"deleted {', '.join(file.name for file in removed)}" if removed else "nothing to delete"
            if (vae := cached(known.autoencoder)) is not None:
                said += f"; {vae.name} stays, {', '.join(others_with(known))} needs it"
            typer.echo(f"{known.name}: {said} in {cache_dir()}")


def _state(model: "Cached") -> str:
    """Return what the cache has of a model, e.g. "696 MB"; the autoencoder counts for each model that has it."""
    if model.is_complete:
        return _megabytes([file for file in (model.unet_file, model.autoencoder_file) if file is not None])
    return "-" if model.unet_file is None else "no autoencoder"


def _megabytes(files: Collection[Path]) -> str:
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e6:.0f} MB" if size >= 1e6 or not size else f"{size / 1e3:.1f} kB"
