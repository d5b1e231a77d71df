"""One self-contained HTML page of a finished benchmark.

    python eval/report.py runs/b1
    python eval/report.py runs/b1 --output page.html --max_images 50

Tables with the best and second marked, perception against distortion, quality against cost, and every image with crops
at the place where the models differ most and a before/after slider. The page loads nothing: it can be mailed.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from resdiff.eval.harness.page.document import read_document
from resdiff.eval.harness.page.gallery import gallery
from resdiff.eval.harness.page.render import render
from resdiff.files.formats import printable, temporary_beside

MAX_IMAGES = 200  # of a set


def write_report(out_folder: Path, output: Path | None = None, max_images: int = MAX_IMAGES) -> Path:
    """Write the page of the run in `out_folder` and return its path.

    Args:
        out_folder: the --out of `eval/benchmark.py`.
        output: the page; default `report.html` in `out_folder`. A page that is there is replaced when the new one is
            complete.
        max_images: of a set, the first ones; the page says how many were left out.

    Raises:
        ValueError: the run is damaged or of another version, or `max_images` is below 1. One line.
        FileNotFoundError: an image is gone. One line that names it.
        OSError: `output` cannot be written. One line.
    """
    if max_images < 1:
        raise ValueError(f"max_images is {max_images}; pass 1 or more")
    output = out_folder / "report.html" if output is None else output
    document = read_document(out_folder)
    temporary = temporary_beside(output)
    try:
        with _written(output):
            temporary.touch()  # a place that cannot be written is found before the images are read
        page = render(document, gallery(document, max_images)).encode("utf-8", "backslashreplace")
        with _written(output):
            temporary.write_bytes(page)
            os.replace(temporary, output)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return output


@contextlib.contextmanager
def _written(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"output {printable(output)} cannot be written: {error.strerror or error}; choose another place"
        ) from error


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the --out of eval/benchmark.py")
    parser.add_argument("--output", type=Path, help="default: report.html in the run's folder")
    parser.add_argument("--max_images", type=int, default=MAX_IMAGES, help="of a set; default: %(default)s")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    try:
        page = write_report(args.run, args.output, args.max_images)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main(parse_args())
