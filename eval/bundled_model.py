"""Measure every promise of the bundled model, on the classic test sets, with fixed seeds, in float32.

    python eval/bundled_model.py --data DATA/set5 DATA/set14 DATA/bsd100 --real DATA/real20 --out runs/promises
    python eval/bundled_model.py --data DATA/set14 DATA/bsd100 --out runs/quick --parts detail --limit 10

Writes OUT/promises.md, tables of measured value, bound and pass or FAIL, and OUT/promises.json. The figures of every
image are kept in OUT/<part>.json as they come: started again, the command measures what is missing. LPIPS and DISTS are
part of the detail where their weights are at hand (RESDIFF_CACHE names the folder).

A script of one's own calls `promises_of`, which needs no folder:

    promises_of("detail", open_testsets(["DATA/bsd100"], 4), Work(model="runs/x4/model"), limit=10)
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from resdiff.eval.harness.testsets import TestSet, open_testsets
from resdiff.eval.promises import detail, dial, photos, real, speed, words
from resdiff.eval.promises.part import Part, Sets, Work, measured
from resdiff.eval.promises.pictures import SCALE, Place
from resdiff.eval.promises.promise import Promise, summary, table
from resdiff.runs.json_files import read_json, write_json
from resdiff.runs.launcher import run_script

PARTS = ("detail", "dial", "words", "photos", "real", "speed")
TRAINED_ON = ("cpu", "gpu")


def part_called(name: str, trained_on: str) -> Part:
    """Return a part that walks over images. Raises ValueError for another name."""
    judge_detail: Callable[[Sets], list[Promise]] = partial(detail.promises, trained_on=trained_on)
    parts = (
        Part("detail", "Fidelity and detail", detail.measure, judge_detail),
        Part("dial", "The dial", dial.measure, dial.promises),
        Part("words", "Words", words.measure, words.promises),
        Part("photos", "Ordinary photos", photos.measure, photos.promises),
        Part("real", "Real photos", real.measure, real.promises),
    )
    for part in parts:
        if part.name == name:
            return part
    raise ValueError(f"part {name!r} is unknown; choose one of {', '.join(part.name for part in parts)}")


def promises_of(
    name: str,
    testsets: Sequence[TestSet],
    work: Work,
    *,
    limit: int | None = None,
    trained_on: str = "cpu",
    record: Path | None = None,
) -> list[Promise]:
    """Measure one part and return its promises.

    Args:
        name: of a part other than "speed".
        testsets: pairs of LR and HR; for "real", LR alone will do.
        work: the model, the seed, processes and threads.
        limit: images of each set, the first by name; None: all.
        trained_on: "cpu" or "gpu", which PSNR is promised.
        record: a JSON file that keeps the figures of every image, see `measured`.
    """
    part = part_called(name, trained_on)
    places = [Place(testset.name, sample) for testset in testsets for sample in testset.samples[:limit]]
    return part.promises(measured(part, places, work, record))


def speed_of(model: str | None, threads: int, repeats: int, record: Path) -> list[Promise]:
    """Measure speed and size, unless `record` has them, and return their promises."""
    setting = {"part": "speed", "model": model, "threads": threads}
    document = read_json(record, "figures")
    if document is None:
        document = setting | {"figures": speed.measure(model, threads, repeats)}
        write_json(record, document)
    if {key: document.get(key) for key in setting} != setting:
        raise ValueError(f"{record} is of another model or number of threads; remove it, or choose another --out")
    return speed.promises(document["figures"])


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[], metavar="DIR", help="pairs of LR and HR, see eval/README.md")
    parser.add_argument("--real", nargs="+", default=[], metavar="DIR", help="photos without HR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", help="default: the bundled model")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images of each set")
    parser.add_argument("--trained_on", choices=TRAINED_ON, default="cpu", help="which PSNR is promised")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=2, help="processes")
    parser.add_argument("--num_threads", type=int, default=1, help="of torch, in each of several processes")
    parser.add_argument("--speed_threads", type=int, default=2, help="of torch, when speed is measured")
    parser.add_argument("--repeats", type=int, default=3, help="calls of which the fastest counts as speed")
    args = parser.parse_args(input_args)
    if args.limit is not None and args.limit < 1:
        parser.error(f"--limit {args.limit} must be at least 1")
    if not args.data and set(args.parts) - {"real", "speed"}:
        parser.error("--data is missing; pass the folders of the test sets, or --parts speed")
    return args


def main(args: argparse.Namespace) -> None:
    """Measure the parts and write the tables."""
    pairs, photographs = open_testsets(args.data, SCALE), open_testsets(args.real, SCALE)
    args.out.mkdir(parents=True, exist_ok=True)
    work = Work(args.model, args.seed, args.num_workers, args.num_threads)
    found: dict[str, list[Promise]] = {}
    for name in args.parts:
        record = args.out / f"{name}.json"
        testsets = photographs if name == "real" else pairs
        if name == "speed":
            found[name] = speed_of(args.model, args.speed_threads, args.repeats, record)
        elif testsets:
            found[name] = promises_of(
                name, testsets, work, limit=args.limit, trained_on=args.trained_on, record=record
            )  # fmt: skip
        else:
            continue
        print(f"\n## {name}\n\n{table(found[name])}", flush=True)
    judged = [promise for promises in found.values() for promise in promises]
    sections = [f"## {name}\n\n{table(promises)}\n" for name, promises in found.items()]
    scope = "" if args.limit is None else f"The first {args.limit} images of each set only.\n\n"
    (args.out / "promises.md").write_text(f"# Promises\n\n{scope}{summary(judged)}\n\n" + "\n".join(sections))
    write_json(
        args.out / "promises.json",
        {
            "command": sys.argv,
            "limit": args.limit,
            "promises": {name: [p.document() for p in promises] for name, promises in found.items()},
        },
    )
    print(f"\n{summary(judged)}")


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse_args()), "interrupted; the same command goes on where it stopped"))
