"""One self-contained HTML page of a finished benchmark.

    python eval/report.py runs/b1
    python eval/report.py runs/b1 --output page.html --max_images 50

Tables with the best and second marked, perception against distortion, quality against cost, and every image with crops
at the place where the models differ most and a before/after slider. The page loads nothing: it can be mailed.
"""

import argparse
import sys
from pathlib import Path

from resdiff.eval.harness.document import read_document
from resdiff.eval.harness.page.gallery import gallery
from resdiff.eval.harness.page.render import render
from resdiff.files.formats import written_whole
from resdiff.runs.launcher import run_script

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
    page = render(document, gallery(document, out_folder, max_images)).encode("utf-8", "backslashreplace")
    with written_whole(output) as temporary:
        temporary.write_bytes(page)
    return output


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the --out of eval/benchmark.py")
    parser.add_argument("--output", type=Path, help="default: report.html in the run's folder")
    parser.add_argument("--max_images", type=int, default=MAX_IMAGES, help="of a set; default: %(default)s")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Write the page and say where it is."""
    page = write_report(args.run, args.output, args.max_images)
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse_args())))
