"""Time and memory of whole calls, each case in a process of its own, as ratios within one run.

    python eval/bench_pipeline.py                    # the bundled model and the full-size network, on this machine
    python eval/bench_pipeline.py --json bench.json
    python eval/bench_pipeline.py --only folder      # the groups whose title has this word

Groups: the machine's best dtype against float32; a folder through `resdiff upscale` against a loop that reads, calls
and saves; tiles one, two, four at once; blocks compiled against plain ones. On a GPU also 128x128 -> 512x512 at 1, 4
and 15 steps, plain, compiled and as CUDA graphs, beside what is expected of an H200, and offloaded networks. Full-size
networks have random weights: their cost is that of the published ones.

Within a group the ratio is against its first case. Seconds are the fastest of the repeats after a first call, which is
shown apart: it tunes and compiles. Memory is the peak above the resident size after import; on a GPU the peak of the
allocator. Times of one machine say little about another; the ratios say more.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from resdiff.eval.bench_cases import FULL, SMALL, Case, Measurement, measure

Groups = dict[str, list[Case]]  # title -> cases, the one to compare with first
TARGET_MS = {4: 40, 15: 80}  # of 128 -> 512 px on an H200, bf16, compiled, by steps
TARGET_MIB = 4096
PHOTOS = 12


def groups(best: str, cuda: bool, compiler: bool) -> Groups:
    """Return what is measured on a machine whose best CPU dtype is `best`."""
    other = "bfloat16" if best == "float32" else best  # shown even where it is slower: it is why float32 is chosen
    small, full = Case(SMALL, 256, 4, "float32"), Case(FULL, 64, 4, "float32")
    folder = Case(SMALL, 128, 4, best, photos=PHOTOS)
    tiled = Case(SMALL, 384, 1, best, tile=192)
    found = {
        "Precision of the bundled model": [small, replace(small, dtype=other)],
        "Precision of the full-size network": [full, replace(full, dtype=other)],
        "A folder": [replace(folder, way="loop"), replace(folder, way="command")],
        "Tiles at once": [replace(tiled, tile_batch=count) for count in (1, 2, 4)],
    }
    if compiler:
        plain = replace(small, dtype=best)
        found["Compiled blocks"] = [plain, replace(plain, way="compiled")]
    if cuda:
        for steps in (1, 4, 15):
            plain = Case(FULL, 128, steps, "bfloat16", "cuda")
            ways = [replace(plain, way=way) for way in ("compiled", "graphs", "compiled, graphs")]
            found[f"GPU, {steps} steps"] = [replace(plain, dtype="float32"), plain, *(ways if compiler else ways[1:2])]
        plain = Case(FULL, 128, 4, "bfloat16", "cuda")
        offloads = [replace(plain, way=f"{what} offload") for what in ("model", "group", "sequential")]
        found["GPU, offloaded"] = [plain, *offloads]
        tiled = replace(plain, side=512, tile=128)
        found["GPU, tiles at once"] = [replace(tiled, tile_batch=count) for count in (1, 4, 8)]
        folder = Case(SMALL, 128, 4, "bfloat16", "cuda", photos=10 * PHOTOS)
        found["GPU, a folder"] = [replace(folder, way="loop"), replace(folder, way="command")]
    return found


def left_out(cuda: bool, compiler: bool) -> list[str]:
    """Return a line for each kind of case that this machine cannot run."""
    lines = []
    if not compiler:
        lines.append("compiled blocks: no C++ compiler was found")
    if not cuda:
        lines.append("CUDA graphs, offloading, 128 -> 512 px at 1, 4 and 15 steps: there is no CUDA device")
    return lines


def target(case: Case, result: Measurement) -> str:
    """Return what is expected of the case and whether it is met; empty where nothing is."""
    expected = case.device == "cuda" and case.model == FULL and case.way.startswith("compiled")
    if not expected or case.side != 128 or case.steps not in TARGET_MS:
        return ""
    met = result.wall_seconds <= TARGET_MS[case.steps] / 1000 and result.peak_mib <= TARGET_MIB
    return f"{TARGET_MS[case.steps]} ms, {TARGET_MIB} MiB on an H200: {'met' if met else 'not met'}"


def table(results: list[tuple[Case, Measurement]]) -> str:
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


def in_a_new_process(case: Case, repeats: int, threads: int) -> Measurement:
    """Measure a case in a process of its own, so that neither memory nor settings of another case matter."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment |= {"DIFFUSERS_VERBOSITY": "error"}  # it warns of casts that are meant
    command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--repeats", str(repeats)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="calls per case after the first; the fastest counts")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--only", default="", metavar="WORD", help="groups whose title has this word")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case as JSON: how a child process is told
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Measure every case in a child process and print the tables."""
    if args.case:
        print(json.dumps(asdict(measure(Case(**json.loads(args.case)), args.repeats))))
        return
    import torch

    from resdiff.devices import default_dtype, find_cpp_compiler

    best = str(default_dtype(torch.device("cpu"))).removeprefix("torch.")
    compiler = find_cpp_compiler() is not None
    cuda = torch.cuda.is_available()
    print(f"torch {torch.__version__}, {args.threads} threads, best CPU dtype {best}")
    figures = []
    for title, cases in groups(best, cuda, compiler).items():
        if args.only.lower() not in title.lower():
            continue
        results = []
        for case in cases:
            results.append((case, in_a_new_process(case, args.repeats, args.threads)))
            print(f"{case.label}: {results[-1][1].wall_seconds:.3g} s", file=sys.stderr)
        print(f"\n### {title}\n\n{table(results)}", flush=True)
        figures += [{"group": title} | asdict(case) | asdict(m) for case, m in results]
    for line in left_out(cuda, compiler):
        print(f"\nNot measured: {line}.")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main(parse_args())
