"""`resdiff models`: list the models known by name, fetch them into the cache, remove them from it."""

from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer

from resdiff.checkpoints.known import BUNDLED, BUNDLED_LICENCE, KnownModel
from resdiff.checkpoints.known_models import Known, known_model
from resdiff.checkpoints.known_seesr import KnownSeeSR
from resdiff.checkpoints.known_stablesr import KnownStableSR
from resdiff.commands.facts import Facts, Part, all_known, of_known
from resdiff.commands.messages import EXIT_CODES, one_line_errors, say_error, set_messages
from resdiff.commands.options import Debug

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of `resdiff models`.")]

models_app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@models_app.callback()
def list_models(context: typer.Context) -> None:
    """List the models that `--model` and `--as` know by name, and what of them is in the cache."""
    if context.invoked_subcommand is not None:
        return
    from resdiff.checkpoints.cache import cache_dir

    models = all_known()
    rows = [
        (BUNDLED, "x4", "here", BUNDLED_LICENCE, "comes with the package, the default"),
        ("bicubic", "x4", "here", "-", "plain interpolation, to compare with"),
        *((m.name, f"x{m.scale}", _state(m), m.licence or "-", m.description) for m in models),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for *columns, description in rows:
        typer.echo("  ".join([text.ljust(width) for text, width in zip(columns, widths, strict=True)] + [description]))
    files = {file for model in models for file in model.files if file.is_relative_to(cache_dir())}
    by_hand = [model.name for model in models if model.by_hand]
    typer.echo(
        f"\nIn {cache_dir()} ($RESDIFF_CACHE): {len(files)} files, {_megabytes(files)}. A model is fetched when it is "
        f"first used, or by resdiff models fetch NAME; for {', '.join(by_hand)} that says what to get by hand."
    )


@models_app.command(short_help="Download models into the cache, or verify them.", epilog=EXIT_CODES)
def fetch(names: Names, debug: Debug = False) -> None:
    """Download the files of models that the cache lacks, and compare those it has with what they were when they came."""
    set_messages(debug)
    failed = False
    with one_line_errors(debug):
        from resdiff.checkpoints.cache import cache_dir

        for known in [known_model(name) for name in names]:  # all names before the first download
            try:
                _fetch(known)
            except ValueError as error:
                if debug:
                    raise
                say_error(error)
                failed = True
                continue
            said = " and ".join(f"{_called(part)} ({_megabytes(part.files)})" for part in of_known(known).parts)
            typer.echo(f"{known.name}: verified {said} in {cache_dir()}")
    raise typer.Exit(int(failed))


@models_app.command(short_help="Delete models from the cache.", epilog=EXIT_CODES)
def rm(names: Names, debug: Debug = False) -> None:
    """Delete the files of models from the cache. What another fetched model needs as well stays."""
    set_messages(debug)
    with one_line_errors(debug):
        from resdiff.checkpoints.cache import cache_dir

        for known in [_removable(name) for name in names]:
            removed, kept, others = _remove(known)
            said = f"deleted {', '.join(file.name for file in removed)}" if removed else "nothing to delete"
            if kept is not None:
                said += f"; {kept.name} stays, {', '.join(others)} needs it"
            typer.echo(f"{known.name}: {said} in {cache_dir()}")


def _fetch(known: Known) -> None:
    """Download what of a model can be, and verify it; raises ValueError, one line, also on what is to be got by hand."""
    if isinstance(known, KnownSeeSR):
        from resdiff.checkpoints.seesr import complete

        complete(known.name)
    elif isinstance(known, KnownStableSR):
        from resdiff.checkpoints import stablesr_fetch

        stablesr_fetch.verify(known.name)
    else:
        from resdiff.checkpoints.fetch import fetch, verify

        fetch(known.name)
        verify(known.name)


def _removable(name: str) -> KnownModel | KnownStableSR:
    known = known_model(name)
    if isinstance(known, KnownSeeSR):
        raise ValueError(f"{name} was put into the cache by hand; delete its folder {known.folder} there by hand")
    return known


def _remove(known: KnownModel | KnownStableSR) -> tuple[list[Path], Path | None, list[str]]:
    """Return what was deleted, what stays for others, and their names."""
    if isinstance(known, KnownStableSR):
        from resdiff.checkpoints import stablesr_files

        removed = stablesr_files.remove(known)
        return removed, stablesr_files.cached_cfw(known), stablesr_files.others_with_cfw(known)
    from resdiff.checkpoints.cache import cached, others_with, remove

    return remove(known.name), cached(known.autoencoder), others_with(known)


def _state(model: Facts) -> str:
    """Return what is here of a model, e.g. "696 MB"; what several models need counts for each of them."""
    if not model.missing:
        return _megabytes(model.files)
    return "-" if model.parts[0].path is None else f"no {', '.join(part.name for part in model.missing)}"


def _called(part: Part) -> str:
    return part.path.name if part.path is not None and part.path.is_file() else part.name


def _megabytes(files: Collection[Path]) -> str:
    size = sum(file.stat().st_size for file in files)
    return f"{size / 1e6:.0f} MB" if size >= 1e6 or not size else f"{size / 1e3:.1f} kB"
