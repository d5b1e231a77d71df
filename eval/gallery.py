"""A gallery of photos that a model enlarged: one self-contained HTML page, and pictures for a README.

    python eval/gallery.py --photos DIR --out gallery.html
    python eval/gallery.py --photos DIR --out gallery.html --prompt soft --prompt "sharp fur" --fidelity 0 0.5 1
    python eval/gallery.py --hr DIR --out gallery.html --pictures eval/gallery --crop otters=300,120,160,160

Each photo gets a slider between bicubic and the model and, of one square, every prompt and every position of the
fidelity dial. Originals (--hr) stand beside photos of the same name; given alone, they are reduced first. Authors and
licences are read from an index.json beside the photos: a list of objects with file, author and licence. The page loads
nothing: it can be mailed.
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

import resdiff
from resdiff.checkpoints.known import BUNDLED
from resdiff.eval.harness.page.photos import BUDGET, Box, PhotoRow, chosen_box, cut, photo_row, render_photos
from resdiff.eval.harness.sheets import side_by_side
from resdiff.eval.harness.shown_photos import Source, find_sources, read_shown
from resdiff.eval.harness.variants import BICUBIC, ORIGINAL, Asked, Variants, make_variants
from resdiff.files.formats import printable, written_whole
from resdiff.pictures import save_picture
from resdiff.pipelines import SRPipeline
from resdiff.runs.launcher import run_script
from resdiff.runs.restorer import Settings, load_pipeline

PROMPTS = ("soft", "sharp", "grainy")
FIDELITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
ZOOM = 2  # of the pictures for a README


def make_rows(
    pipe: SRPipeline,
    sources: Sequence[Source],
    asked: Asked,
    *,
    crops: Mapping[str, Box],
    max_side: int,
    pictures: Path | None,
) -> tuple[list[PhotoRow], list[str]]:
    """Enlarge photos, and write their pictures if asked.

    Args:
        pipe: the model.
        sources: the photos.
        asked: the variants of each.
        crops: photo -> its square; "" is for all others; where neither is, the results choose.
        max_side: of a photo, px; larger ones are reduced.
        pictures: a folder for `write_pictures`.

    Returns:
        What the page shows, and one line for each photo that cannot be read.

    Raises ValueError, one line, when a square does not lie in its picture or no photo can be read.
    """
    rows: list[PhotoRow] = []
    skipped: list[str] = []
    step = int(asked.scale) if asked.scale.is_integer() else 1
    for source in tqdm(sources, desc="photos", disable=None):
        try:
            photo = read_shown(source, asked.scale, max_side)
        except (ValueError, FileNotFoundError) as error:
            skipped.append(" ".join(str(error).split()))
            continue
        variants = make_variants(pipe, photo.lr, photo.hr, asked)
        box = chosen_box(variants, crops.get(source.name, crops.get("")), step, source.name)
        rows.append(photo_row(photo, variants, box, BUDGET // len(sources)))
        if pictures is not None:
            write_pictures(pictures, photo.name, variants, box)
    if not rows:
        raise ValueError(f"none of the {len(sources)} photos can be read; the first: {skipped[0]}")
    return rows, skipped


def write_pictures(folder: Path, name: str, variants: Variants, box: Box) -> None:
    """Write `NAME_before_after.png` (bicubic, the model, the original) and `NAME_prompts.png` of one photo.

    Without a prompt stands second, so that a word is on either side of it.
    """
    sheets = {"before_after": variants.enlarged}
    if variants.prompts:
        plain, *worded = variants.prompts.items()
        sheets["prompts"] = dict([*worded[:1], plain, *worded[1:]])
    for kind, images in sheets.items():
        save_picture(side_by_side(cut(images, box), ZOOM), folder / f"{name}_{kind}.png", compress_level=9)


def asked_of(pipe: SRPipeline, args: argparse.Namespace) -> Asked:
    """Return the variants asked for, and where nothing is asked the usual ones of which the model is capable.

    Raises ValueError, one line, for prompts or a dial that the model lacks, and originals without a whole scale.
    """
    model = BUNDLED if args.model is None else Path(args.model).name
    for option, able in (("prompt", pipe.takes_prompt), ("fidelity", pipe.takes_fidelity)):
        if getattr(args, option) and not able:
            raise ValueError(f"{model} takes no {option}; leave --{option} out")
    scale = float(pipe.native_scale if args.scale is None else args.scale)
    if args.hr is not None and not scale.is_integer():
        raise ValueError(f"scale={scale:g} with --hr: originals need a whole number")
    return Asked(
        model=f"{model} (model)" if model in (BICUBIC, ORIGINAL) else model,
        scale=scale,
        prompts=args.prompt or (PROMPTS if pipe.takes_prompt else ()),
        fidelities=args.fidelity or (FIDELITIES if pipe.takes_fidelity else ()),
        seed=args.seed,
    )


def crops_of(given: Sequence[tuple[str, Box]], sources: Sequence[Source]) -> dict[str, Box]:
    """Return photo -> square, "" standing for every photo. Raises ValueError for a photo that is not there."""
    known = {source.name for source in sources}
    for name, _ in given:
        if name and name not in known:
            raise ValueError(
                f"--crop names {printable(name)}, which is none of the {len(known)} photos; give its name without suffix"
            )
    return dict(given)


def crop(text: str) -> tuple[str, Box]:
    """Read "[NAME=]LEFT,TOP,WIDTH,HEIGHT"; an empty name stands for every photo."""
    match = re.fullmatch(r"(?:(.+)=)?(\d+),(\d+),(\d+),(\d+)", text)
    if match is None or 0 in (int(match[4]), int(match[5])):
        raise argparse.ArgumentTypeError(f"{text!r} is not [NAME=]LEFT,TOP,WIDTH,HEIGHT in px of the result")
    left, top, width, height = map(int, match.groups()[1:])
    return match[1] or "", (top, left, height, width)


def at_least_one(text: str) -> int:
    """Read a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def number(text: str, low: float, high: float) -> float:
    """Read a number from `low` to `high`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
    return value


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="DIR", help="low-resolution photos")
    parser.add_argument(
        "--hr", type=Path, metavar="DIR", help="originals; without --photos they are reduced by the scale"
    )
    parser.add_argument("--out", type=Path, required=True, help="the page")
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write NAME_before_after.png and NAME_prompts.png there"
    )
    parser.add_argument("--model", help="as of SRPipeline.from_pretrained; default: the bundled model")
    parser.add_argument("--prompt", action="append", help=f"may be repeated; default: {', '.join(PROMPTS)}")
    parser.add_argument(
        "--fidelity",
        type=partial(number, low=0, high=1),
        nargs="+",
        help="positions of the dial; default: 0 0.25 0.5 0.75 1",
    )
    parser.add_argument(
        "--crop",
        type=crop,
        action="append",
        default=[],
        metavar="[NAME=]LEFT,TOP,WIDTH,HEIGHT",
        help="the square, px of the result; may be repeated; default: where the results differ most",
    )
    parser.add_argument("--scale", type=partial(number, low=1, high=16), help="default: the model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--max_side", type=at_least_one, default=512, help="larger photos are reduced; default: %(default)s px"
    )
    parser.add_argument("--limit", type=at_least_one, default=24, help="photos in the page; default: %(default)s")
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Write the gallery; say where it is, how large, and which photos are not in it.

    Raises ValueError and OSError, one line each: a bad argument, no photo, a place that cannot be written.
    """
    if not args.out.parent.is_dir():  # found before the work rather than after it
        raise ValueError(f"{printable(args.out.parent)} is not a folder; make it, or choose another --out")
    if args.out.is_dir():
        raise ValueError(f"{printable(args.out)} is a folder; name a file as --out, such as gallery.html")
    sources = find_sources(args.photos, args.hr)
    crops = crops_of(args.crop, sources)
    pipe = load_pipeline(Settings(model=args.model))
    asked = asked_of(pipe, args)
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    kept = sources[: args.limit]
    rows, skipped = make_rows(pipe, kept, asked, crops=crops, max_side=args.max_side, pictures=args.pictures)
    facts = {
        "resdiff": resdiff.__version__,
        "model": asked.model,
        "scale": f"{asked.scale:g}",
        "seed": str(asked.seed),
        "prompts": ", ".join(asked.prompts) or "the model takes none",
        "fidelity": ", ".join(f"{f:g}" for f in asked.fidelities) or "the model has no dial",
        "longest side": f"{args.max_side} px of a photo; larger ones are reduced",
    }
    page = render_photos(rows, facts=facts, skipped=skipped, left_out=len(sources) - len(kept))
    with written_whole(args.out) as temporary:
        temporary.write_bytes(page.encode("utf-8", "backslashreplace"))
    for line in skipped:
        print(f"not shown: {line}", file=sys.stderr)
    photos = "photo" if len(rows) == 1 else "photos"
    print(f"{printable(args.out)}: {len(rows)} {photos}, {args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse_args())))
