"""Time and memory of whole calls, each case in a process of its own, as ratios within one run.

    python eval/bench_pipeline.py                    # the bundled model and the full-size network, on this machine
    python eval/bench_pipeline.py --json bench.json
    python eval/bench_pipeline.py --only folder      # the groups whose title has this word
    python eval/bench_pipeline.py --family seesr --repeats 1
    python eval/bench_pipeline.py --family addsr --repeats 1
    python eval/bench_pipeline.py --family stablesr --repeats 1

Groups of ResShift: the machine's best dtype against float32; a folder through `resdiff upscale` against a loop that
reads, calls and saves; tiles one, two, four at once; blocks compiled against plain ones. On a GPU also 128x128 ->
512x512 at 1, 4 and 15 steps, plain, compiled and as CUDA graphs, beside what is expected of an H200, and offloaded
networks. Full-size networks have random weights: their cost is that of the published ones.

Of SeeSR and AddSR, all networks in full size: one step at 512 px (text and image tokens given, so that neither text
encoder nor tagger is built), decoding untiled and in bands, encoding, the tagger, whole calls; float32 and the machine's
best dtype. On a GPU all steps at 512 px and a canvas of 2048 px in tiles. Of StableSR likewise; its step stands beside
that of the UNet alone, its decoding with features of the LR image (fidelity 0.5) beside the base's own.

Within a group the ratio is against its first case. Seconds are the fastest of the repeats after a first call, which is
shown apart: it tunes and compiles. Memory is the peak above the resident size after import; on a GPU the peak of the
allocator. Times of one machine say little about another; the ratios say more.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from resdiff.eval import bench_cases
from resdiff.eval.bench_cases import Measurement

FAMILIES = ("resshift", "seesr", "addsr", "stablesr")
Groups = Mapping[str, Sequence[Any]]  # title -> cases, the one to compare with first
Target = Callable[[Any, Measurement], str]


@dataclass(frozen=True)
class Family:
    """What is measured of one kind of pipeline, and how."""

    case: Callable[..., Any]  # the type of its cases, a dataclass with a `label`
    groups: Callable[[str, bool, bool], Groups]  # of the best CPU dtype, whether there is CUDA and a C++ compiler
    left_out: Callable[[bool, bool], list[str]]
    target: Target
    measure: Callable[[Any, int], Measurement]


def family_named(name: str) -> Family:
    """Return one of `FAMILIES`; a child process imports only what it measures."""
    if name == "resshift":
        return Family(
            bench_cases.Case, bench_cases.groups, bench_cases.left_out, bench_cases.target, bench_cases.measure
        )
    if name == "stablesr":
        from resdiff.eval import bench_stablesr as stablesr

        return Family(stablesr.Case, stablesr.groups, stablesr.left_out, stablesr.target, stablesr.measure)
    from resdiff.eval import bench_seesr as seesr

    return Family(seesr.Case, partial(seesr.groups, name), partial(seesr.left_out, name), seesr.target, seesr.measure)


def table(results: list[tuple[Any, Measurement]], target: Target) -> str:
    """Return the Markdown table of one group; ratios are against its first case."""
    rows = [
        "| case | wall s | CPU s | ratio | first s | load s | peak MiB | target |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case, m in results:
        rows.append(
            f"| {case.label} | {m.wall_seconds:.3g} | {m.cpu_seconds:.3g} | "
            f"{m.wall_seconds / results[0][1].wall_seconds:.2f}x | {m.first_seconds:.3g} | {m.load_seconds:.2f} | "
            f"{m.peak_mib:.0f} | {target(case, m)} |"
        )
    return "\n".join(rows)


def in_a_new_process(family: str, case: Any, repeats: int, threads: int) -> Measurement:
    """Measure a case in a process of its own, so that neither memory nor settings of another case matter."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"DIFFUSERS_VERBOSITY": "error"}  # it warns of casts that are meant
    command = [
        sys.executable,
        __file__,
        "--family",
        family,
        "--case",
        json.dumps(asdict(case)),
        "--repeats",
        str(repeats),
    ]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=FAMILIES, default="resshift", help="whose pipeline")
    parser.add_argument(
        "--repeats", type=int, default=2, help="calls per case after the first; the fastest counts, 0: the first does"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--only", default="", metavar="WORD", help="groups whose title has this word")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case as JSON: how a child process is told
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Measure every case in a child process and print the tables; exits with a line where cases failed."""
    family = family_named(args.family)
    if args.case:
        print(json.dumps(asdict(family.measure(family.case(**json.loads(args.case)), args.repeats))))
        return
    import torch

    from resdiff.devices import default_dtype, find_cpp_compiler

    best = str(default_dtype(torch.device("cpu"))).removeprefix("torch.")
    compiler = find_cpp_compiler() is not None
    cuda = torch.cuda.is_available()
    print(f"torch {torch.__version__}, {args.threads} threads, best CPU dtype {best}")
    figures, failed = [], []
    for title, cases in family.groups(best, cuda, compiler).items():
        if args.only.lower() not in title.lower():
            continue
        results = []
        for case in cases:
            try:
                results.append((case, in_a_new_process(args.family, case, args.repeats, args.threads)))
            except subprocess.CalledProcessError:  # it has said why; the others need not suffer
                failed.append(case.label)
                continue
            print(f"{case.label}: {results[-1][1].wall_seconds:.3g} s", file=sys.stderr)
        print(f"\n### {title}\n\n{table(results, family.target)}", flush=True)
        figures += [{"group": title} | asdict(case) | asdict(m) for case, m in results]
    for line in family.left_out(cuda, compiler):
        print(f"\nNot measured: {line}.")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main(parse_args())
