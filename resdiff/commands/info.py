"""`resdiff info`: what an image or a model is, without restoring anything."""

from pathlib import Path
from typing import Annotated

import typer

from resdiff.commands.facts import Facts, facts_of
from resdiff.commands.messages import one_line_errors, set_messages
from resdiff.commands.options import Debug, KnownAs, MaxPixels, set_max_pixels
from resdiff.files.formats import printable

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors", ".bin")
TURNS = {
    2: "mirrored",
    3: "turned by 180 degrees",
    4: "upside down, mirrored",
    5: "transposed",
    6: "turned right",
    7: "transposed the other way",
    8: "turned left",
}


def info(
    what: Annotated[
        str | None, typer.Argument(metavar="FILE_OR_MODEL", help="Image; name of `models`, folder or published file.")
    ] = None,
    known_as: KnownAs = None,
    max_pixels: MaxPixels = None,
    debug: Debug = False,
) -> None:
    """Say what an image or a model is."""
    set_messages(debug)
    with one_line_errors(debug):
        if what is None:
            raise ValueError("nothing is named; resdiff info FILE_OR_MODEL, or resdiff doctor for this machine")
        path = Path(what)
        set_max_pixels(max_pixels)
        is_image = path.is_file() and path.suffix.lower() not in CHECKPOINTS and known_as is None
        lines = _image(path) if is_image else _model(what, known_as)
        width = max(len(name) for name, _ in lines)
        for name, value in lines:
            typer.echo(f"{name.ljust(width)}  {value}")


def _image(path: Path) -> list[tuple[str, str]]:
    from resdiff.files.headers import read_header
    from resdiff.sizes import scaled_size

    header = read_header(path, frames=True)
    scale = 4.0 if (facts := facts_of(None)) is None else facts.scale
    height, width = scaled_size(header.height, header.width, scale)
    return [
        ("file", f"{printable(path)}, {path.stat().st_size} bytes"),
        ("format", header.format),
        ("size", f"{header.width}x{header.height}"),
        ("mode", f"{header.mode}, {header.bits} bits per channel{', transparency' if header.has_alpha else ''}"),
        ("frames", "1" if header.frames == 1 else f"{header.frames}, of which the first is used"),
        ("orientation", "upright" if header.orientation == 1 else f"{TURNS[header.orientation]} for display (EXIF)"),
        ("exif", f"{header.exif} tags" if header.exif else "none"),
        ("icc profile", f"{header.icc_profile} bytes" if header.icc_profile else "none"),
        ("dpi", "none" if header.dpi is None else " x ".join(f"{float(x):g}" for x in header.dpi)),
        (f"at scale {scale:g}", f"{width}x{height}"),
    ]


def _model(what: str, known_as: str | None) -> list[tuple[str, str]]:
    facts = facts_of(what, known_as)
    if facts is None:
        from resdiff.checkpoints.known_models import known_model

        path = Path(what)
        if path.exists():
            kind = "folder" if path.is_dir() else "file"
            raise ValueError(
                f"{printable(path)} is not a published {kind}'s name; say which model it is with --as NAME"
            )
        if path.suffix or len(path.parts) > 1:
            raise ValueError(f"{printable(path)} does not exist; check the name")
        known_model(what)  # raises, with the closest name
        raise AssertionError
    steps = "as its schedule" if facts.steps is None else str(facts.steps)
    return [
        ("model", facts.name),
        ("family", facts.family),
        ("scale", f"x{facts.scale:g}"),
        ("steps", f"{steps} by default"),
        *([] if facts.multiple is None else [("padded to", f"multiples of {facts.multiple} pixels")]),
        ("parameters", _parameters(facts)),
        ("licence", facts.licence or "unknown: see where it came from"),
        *(("file", f"{printable(file)}, {file.stat().st_size} bytes") for file in facts.files),
        *(("not here", f"{part.name}: {part.url}") for part in facts.missing),
        *([("by hand", facts.by_hand)] if facts.missing and facts.by_hand else []),
    ]


def _parameters(facts: Facts) -> str:
    """Return the number of parameters in the files that are here, without those of models it builds upon."""
    from resdiff.checkpoints.io import read_shapes

    files = (file for part in facts.parts if part.is_own for file in part.files)
    weights = [file for file in files if file.suffix.lower() in CHECKPOINTS]
    if not weights:
        return "unknown until it is fetched" if facts.missing else "none"
    count = sum(tensor.numel() for file in weights for tensor in read_shapes(file).values())
    return f"{count / 1e6:.2f} million"
