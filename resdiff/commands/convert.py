"""`resdiff convert`: published checkpoints to a diffusers-style folder."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from resdiff.commands.messages import one_line_errors, set_messages
from resdiff.commands.options import Debug, KnownAs, one_of
from resdiff.files.formats import printable, temporary_beside
from resdiff.runs.jobs import check_folder


def convert(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE... OUT_DIR", help="Published checkpoint files; a new folder.")
    ],
    known_as: KnownAs = None,
    dtype: Annotated[str, typer.Option(help="Of the stored weights: fp32 or fp16.")] = "fp32",
    debug: Debug = False,
) -> None:
    """Turn published checkpoints into a folder that `upscale --model` and `SRPipeline.from_pretrained` open."""
    set_messages(debug)
    with one_line_errors(debug):
        *sources, out_dir = files
        if not sources:
            raise ValueError(f"only {out_dir} is given; pass the published files and then the folder to write")
        convert_checkpoints(sources, out_dir, known_as, one_of("dtype", dtype, ("fp32", "fp16")))
        typer.echo(f"written to {out_dir}; use it with: resdiff upscale IN -o OUT --model {out_dir}")


def convert_checkpoints(files: Sequence[Path], out_dir: Path, known_as: str | None, dtype: str) -> None:
    """Write the pipeline of published checkpoint `files` to `out_dir`, whole or not at all.

    Raises ValueError or OSError in one line: `out_dir` is a file or not empty, or the files cannot be used.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(f"{printable(out_dir)} exists and is not an empty folder; choose another")
    check_folder(out_dir.parent)
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{printable(file)} is a folder; pass a file"
                if file.is_dir()
                else f"{printable(file)} does not exist; check the name"
            )
    from resdiff.checkpoints.resshift import resolve
    from resdiff.devices import DTYPES
    from resdiff.pipelines.resshift import ResShiftPipeline

    pipe = ResShiftPipeline.from_published(resolve(files, known_as), DTYPES[dtype])
    temporary = temporary_beside(out_dir)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        pipe.save_pretrained(temporary)
        if out_dir.exists():
            out_dir.rmdir()
        os.replace(temporary, out_dir)
    except OSError as error:  # a full disk, a read-only file system
        raise OSError(
            f"{printable(out_dir)} cannot be written: {error.strerror or error}; choose another folder"
        ) from error
    finally:  # on KeyboardInterrupt too, nothing is left behind
        shutil.rmtree(temporary, ignore_errors=True)
