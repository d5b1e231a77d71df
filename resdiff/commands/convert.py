"""`resdiff convert`: published checkpoints to a diffusers-style folder."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resdiff.commands.messages import one_line_errors, set_messages
from resdiff.commands.options import Base, Debug, KnownAs, PredictionType, one_of
from resdiff.files.formats import printable, temporary_beside
from resdiff.runs.jobs import check_folder

if TYPE_CHECKING:
    from resdiff.checkpoints.cache import Licensed

CARD = """\
---
license: {licence}
library_name: diffusers
tags: [super-resolution, image-to-image]
---
# {name}

{description}. Written by `resdiff convert` from published weights.

**Use.** `SRPipeline.from_pretrained(FOLDER)`; `resdiff upscale IN -o OUT --model FOLDER`.

**Licences.** Every part comes under its publisher's:

| part | licence | published at |
|---|---|---|
"""


def convert(
    files: Annotated[
        list[Path], typer.Argument(metavar="SOURCE... OUT_DIR", help="Published files and folders; a new folder.")
    ],
    known_as: KnownAs = None,
    base: Base = None,
    prediction_type: PredictionType = None,
    dtype: Annotated[str, typer.Option(help="Of the stored weights: fp32 or fp16.")] = "fp32",
    debug: Debug = False,
) -> None:
    """Turn published checkpoints into a folder that `upscale --model` and `SRPipeline.from_pretrained` open.

    Of ResShift and SinSR: the file of the network, and of its autoencoder. Of SeeSR and AddSR: the folder with unet and
    controlnet, ram_swin_large_14m.pth (its tag lists beside it), DAPE.pth and Stable Diffusion, unless they lie beside
    that folder or in the cache. Of StableSR: the checkpoint, the file of CFW, and for an adapter alone, or to exchange
    it, Stable Diffusion. In any order.
    """
    set_messages(debug)
    with one_line_errors(debug):
        *sources, out_dir = files
        if not sources:
            raise ValueError(f"only {out_dir} is given; pass the published files and then the folder to write")
        dtype = one_of("dtype", dtype, ("fp32", "fp16"))
        parts = convert_checkpoints(sources, out_dir, known_as, dtype, base=base, prediction_type=prediction_type)
        for part in parts:
            typer.echo(f"{part.name}: {part.licence}")
        typer.echo(f"written to {out_dir}; use it with: resdiff upscale IN -o OUT --model {out_dir}")


def convert_checkpoints(
    sources: Sequence[Path], out_dir: Path, known_as: str | None, dtype: str, **options: str | None
) -> "list[Licensed]":
    """Write the pipeline of published files and folders to `out_dir`, whole or not at all; return what is in it.

    options: of `resdiff.pipelines.opening.resolve`. Raises ValueError or OSError in one line: `out_dir` is a file or not
    empty, or the sources cannot be used.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(f"{printable(out_dir)} exists and is not an empty folder; choose another")
    check_folder(out_dir.parent)
    for source in sources:
        if not source.exists():
            raise ValueError(f"{printable(source)} does not exist; check the name")
    from resdiff.devices import DTYPES
    from resdiff.pipelines.opening import from_published, resolve

    published = resolve(sources, known_as, **options)
    known = published.known
    parts: list[Licensed] = getattr(published, "licensed", [known])
    pipe = from_published(published, DTYPES[dtype])
    temporary = temporary_beside(out_dir)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        pipe.save_pretrained(temporary)
        (temporary / "README.md").write_text(model_card(known.name, known.description, parts), encoding="utf-8")
        if out_dir.exists():
            out_dir.rmdir()
        os.replace(temporary, out_dir)
    except OSError as error:  # a full disk, a read-only file system
        raise OSError(
            f"{printable(out_dir)} cannot be written: {error.strerror or error}; choose another folder"
        ) from error
    finally:  # on KeyboardInterrupt too, nothing is left behind
        shutil.rmtree(temporary, ignore_errors=True)
    return parts


def model_card(name: str, description: str, parts: "Sequence[Licensed]") -> str:
    """Return the README.md of a converted model, with a line on the licence of each part."""
    is_apache = all(part.licence == "Apache-2.0" for part in parts)
    rows = [f"| {part.name} | {part.licence} | {part.url} |\n" for part in parts]
    head = CARD.format(
        name=name,
        description=description[:1].upper() + description[1:],
        licence="apache-2.0" if is_apache else "other",
    )
    return head + "".join(rows)
