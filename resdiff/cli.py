"""The command line: `resdiff upscale | convert | models | info | data check`.

Nothing heavy is imported before a command needs it, so that `resdiff --help` answers at once. Exit codes: 0 done, 1 some
file failed or Ctrl-C ended the run, 2 the command cannot be carried out as given.
"""

import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from resdiff import __version__
from resdiff.formats import FORMATS

TILES = ("auto", "off", "reference[:size[:stride]]")
INTERRUPTED = "interrupted; run again with --skip-existing for the rest"
COLOR_FIXES = ("auto", "none", "adain", "wavelet", "luma")

app = typer.Typer(
    help="Diffusion-based image super-resolution.",
    rich_markup_mode=None,  # importing rich would take most of the start
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
)

data_app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
app.add_typer(data_app, name="data", help="Look at training data.")

Debug = Annotated[bool, typer.Option("--debug", envvar="RESDIFF_DEBUG", help="Show tracebacks and library messages.")]
KnownAs = Annotated[str | None, typer.Option("--as", help="Treat the published file(s) as this model of `models`.")]


def main() -> None:
    """Run the command line; the entry point of the `resdiff` script."""
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


@app.command()
def upscale(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Files, folders (recursive) or quoted patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder, or a file for a single input.")],
    model: Annotated[
        str | None, typer.Option(help="Name of `models`, folder or published file. [resdiff-small]")
    ] = None,
    known_as: KnownAs = None,
    scale: Annotated[float | None, typer.Option(help="Output side over input side. [the model's own]")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps. [the model's own]")] = None,
    prompt: Annotated[str | None, typer.Option(help="Text, for models that take any.")] = None,
    seed: Annotated[int, typer.Option(help="Every file is restored with this seed.")] = 0,
    color_fix: Annotated[str, typer.Option(help=f"Colour correction: {', '.join(COLOR_FIXES)}.")] = "auto",
    tile: Annotated[str, typer.Option(help=f"{', '.join(TILES)}, or a size in pixels of the input.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [cuda where there is one]")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, fp16 or bf16. [the fastest safe one]")] = None,
    format_name: Annotated[
        str | None, typer.Option("--format", help=f"Of the results: {', '.join(name[1:] for name in FORMATS)}. [png]")
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of jpg, webp and avif.")] = 95,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size that are restored together.")] = 1,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out files that have a result.")] = False,
    mask: Annotated[Path | None, typer.Option(help="White where to inpaint; for inpainting models, one input.")] = None,
    debug: Debug = False,
) -> None:
    """Enlarge images. Results keep the folder below IN and the name; nothing that was given is overwritten."""
    from resdiff import batch
    from resdiff.jobs import find_inputs, plan_outputs, without_existing

    _set_messages(debug)
    with _one_line_errors(debug):
        settings = batch.Settings(
            model=model,
            known_as=known_as,
            device=device,
            dtype=dtype,
            scale=_positive("scale", scale),
            num_inference_steps=_positive("steps", steps),
            prompt=prompt,
            seed=_seed(seed),
            color_fix=_one_of("color-fix", color_fix, COLOR_FIXES),
            tile=_tile(tile),
            mask=mask,
        )
        suffix = None if format_name is None else f".{format_name.lower().lstrip('.')}"
        found = find_inputs(inputs, output)
        jobs = plan_outputs(found, output, suffix)
        if mask is not None and (len(jobs) != 1 or not mask.is_file()):
            raise ValueError(f"mask is {mask}: " + ("it is no file" if len(jobs) == 1 else "pass exactly one input"))
        waiting = without_existing(jobs) if skip_existing else jobs
        restore = batch.restorer(batch.load_pipeline(settings), settings) if waiting else None
    summary = batch.Summary(skipped=len(jobs))
    if restore is not None:
        summary = batch.run(
            waiting,
            restore,
            batch_size=1 if settings.one_generator else batch_size,  # its draws follow one another through the batch
            quality=quality,
            skipped=len(jobs) - len(waiting),
            debug=debug,
        )
    typer.echo(f"{summary}; {INTERRUPTED}" if summary.interrupted else str(summary), err=summary.interrupted)
    raise typer.Exit(summary.exit_code)


@app.command(short_help="Turn published checkpoints into a folder.")
def convert(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE... OUT_DIR", help="Published checkpoint files; a new folder.")
    ],
    known_as: KnownAs = None,
    dtype: Annotated[str, typer.Option(help="Of the stored weights: fp32 or fp16.")] = "fp32",
    debug: Debug = False,
) -> None:
    """Turn published checkpoints into a folder that `upscale --model` and `SRPipeline.from_pretrained` open."""
    _set_messages(debug)
    with _one_line_errors(debug):
        from resdiff.batch import convert_checkpoints

        *sources, out_dir = files
        if not sources:
            raise ValueError(f"only {out_dir} is given; pass the published files and then the folder to write")
        convert_checkpoints(sources, out_dir, known_as, _one_of("dtype", dtype, ("fp32", "fp16")))
    typer.echo(f"written to {out_dir}; use it with: resdiff upscale IN -o OUT --model {out_dir}")


@app.command(short_help="List the models known by name.")
def models() -> None:
    """List the models that `--model` and `--as` know by name."""
    from resdiff.checkpoints.known import KNOWN, cache_dir

    rows = [
        ("resdiff-small", "x4", "Apache-2.0", "comes with the package, the default"),
        ("bicubic", "x4", "-", "plain interpolation, to compare with"),
        *((known.name, f"x{known.scale}", known.licence, known.description) for known in KNOWN.values()),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *columns, description in rows:
        typer.echo("  ".join([text.ljust(width) for text, width in zip(columns, widths, strict=True)] + [description]))
    typer.echo(f"\nPublished files are looked for in {cache_dir()} ($RESDIFF_CACHE); they are never downloaded.")


@app.command(short_help="Show versions, device and precision.")
def info() -> None:
    """Show versions, the device, its default precision and the attention backends: what a bug report needs."""
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    _set_messages(debug=False)
    typer.echo(f"resdiff       {__version__}")
    typer.echo(f"python        {sys.version.split()[0]}")
    for package in ("torch", "diffusers", "transformers", "accelerate", "safetensors", "numpy", "Pillow"):
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "missing"
        typer.echo(f"{package:13} {found}")

    import torch

    from resdiff.attention import usable_backend
    from resdiff.devices import default_device, default_dtype

    device = default_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    backends = ["sdpa", "eager"]
    if find_spec("xformers") is not None and usable_backend("xformers") == "xformers":
        backends.append("xformers")
    typer.echo(f"device        {device} ({name})")
    typer.echo(f"dtype         {str(default_dtype(device)).removeprefix('torch.')}")
    typer.echo(f"attention     {', '.join(backends)}")


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
    _set_messages(debug)
    with _one_line_errors(debug):
        from resdiff.data.check import decoded, in_words
        from resdiff.data.scan import scan

        found = scan(folder, lr_data_dir=lr_dir, manifest=manifest, crop=_crop(resolution), scale=scale)
        report = in_words(found if fast else decoded(found, scale), scale, list_all=list_all)
    typer.echo(report)


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Put an error into one line: exit code 2 for what is wrong with the command, 1 for what nobody expected."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(INTERRUPTED, err=True)
        raise typer.Exit(1) from None
    except Exception as error:
        if debug or isinstance(error, typer.Exit):
            raise
        from resdiff.batch import describe

        typer.echo(f"Error: {describe(error)}", err=True)
        raise typer.Exit(2 if isinstance(error, (ValueError, OSError)) else 1) from None


def _set_messages(debug: bool) -> None:
    """Keep the libraries' chatter off the terminal and put our warnings into one line each."""
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

    tqdm.write(f"Warning: {(str(message).splitlines() or [category.__name__])[0]}", file=sys.stderr)  # beside the bar


def _positive(name: str, value: Any) -> Any:
    if value is not None and not 0 < value < float("inf"):
        raise ValueError(f"{name} is {value}; pass a positive number")
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; choose {', '.join(choices)}")
    return value


def _seed(value: int) -> int:
    if not -(2**63) <= value < 2**64:
        raise ValueError(f"seed is {value}; pass a 64-bit integer")
    return value


def _crop(value: str) -> tuple[int, int]:
    sides = [side.strip() for side in value.split(",")]
    if len(sides) > 2 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"resolution is {value!r}; pass a side in pixels, or height,width")
    return int(sides[0]), int(sides[-1])


def _tile(value: str) -> str | int:
    if value in ("auto", "off") or re.fullmatch(r"reference(:\d+){0,2}", value):
        return value
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"tile is {value!r}; choose {', '.join(TILES)} or a size in pixels")
    return int(value)


if __name__ == "__main__":
    main()
