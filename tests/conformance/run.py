"""Compare resdiff with tensors recorded from the published implementations.

    python tests/conformance/run.py DIR...                     every case in the folders (or files) given
    python tests/conformance/run.py DIR --kind "resshift/*"    only these kinds
    python tests/conformance/run.py DIR --json report.json     also as JSON (without a file: on stdout, lines on stderr)

Prints a line for each case, `PASS|FAIL kind file max_error tolerance compared/total`, then the counts. The error is
that of the tensor nearest to its tolerance (`case.py` has the rules). Exits with 1 when a case failed, 2 when there is
nothing to run. A kind that nobody knows fails; nothing is skipped.
"""

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # the handlers lie beside this script and are no package

import addsr
import addsr_step
import colour
import degradation
import degradation_pipeline
import diffusion
import metrics_clip
import metrics_deep
import metrics_pixel
import networks
import sampling
import seesr
import seesr_ram
import seesr_vae
import stablesr
import stablesr_loops
import stablesr_schedule
import stablesr_vae
from case import Handler, Tolerance, Tolerances, judge, read_case, read_kind

FORWARD: Tolerances = {"*": Tolerance(1e-4)}
LOOP: Tolerances = {"*": Tolerance(2e-4)}
LONG_LOOP: Tolerances = {
    "train_loss": Tolerance(1e-4),
    "x_T": Tolerance(1e-4),
    "ddim_*": Tolerance(5e-5),
    "*": Tolerance(1e-3),
}
SEESR: Tolerances = {"*": Tolerance(2e-5)}
SCHEDULE: Tolerances = {"*": Tolerance(5e-5, relative=True)}  # the reference computes its tables in float32
DEGRADATION: Tolerances = {"jpeg_*": Tolerance(2 / 255), "*": Tolerance(1e-5)}  # another JPEG encoder: grey levels
PIPELINE: Tolerances = {"lq_*": Tolerance(1e-4, share=1e-3), "*": Tolerance(1e-4)}  # LQ is rounded to 8 bits
LOSSES: Tolerances = {
    "term/*": Tolerance(1e-3, relative=True),
    "grad_*": Tolerance(1e-3, relative=True),
    "*": Tolerance(2e-4),
}
ADDSR_LOSSES: Tolerances = {"logits_*": Tolerance(1e-4), "*": Tolerance(1e-3, relative=True)}
PIXELS: Tolerances = {"niqe*": Tolerance(3e-3, relative=True, double=True), "*": Tolerance(1e-6, double=True)}
DEEP: Tolerances = {"*": Tolerance(1e-6, double=True)}
CLIP_IQA: Tolerances = {"*": Tolerance(1e-5)}

KINDS: dict[str, tuple[Handler, Tolerances]] = {
    "resshift/diffusion": (diffusion.process, FORWARD),
    "resshift/chop": (diffusion.chop, FORWARD),
    "resshift/unet": (networks.unet, FORWARD),
    "resshift/swin_layer": (networks.swin_layer, FORWARD),
    "resshift/sinsr_unet": (networks.sinsr_unet, FORWARD),
    "resshift/vq": (networks.vq, FORWARD),
    "resshift/pipeline": (sampling.pipeline, LOOP),
    "resshift/sinsr_sampling": (sampling.sinsr_sampling, LOOP),
    "resshift/sinsr_distill": (sampling.sinsr_distill, LOSSES),
    "stablesr/color_adain": (colour.color_adain, FORWARD),
    "stablesr/color_wavelet": (colour.color_wavelet, FORWARD),
    "stablesr/color_pil": (colour.color_pil, FORWARD),
    "stablesr/spade": (stablesr.spade, FORWARD),
    "stablesr/resblock_dual": (stablesr.resblock_dual, FORWARD),
    "stablesr/struct_encoder": (stablesr.struct_encoder, FORWARD),
    "stablesr/unet": (stablesr.unet, FORWARD),
    "stablesr/text_encoder": (stablesr.text_encoder, FORWARD),
    "stablesr/cfw_block": (stablesr_vae.cfw_block, FORWARD),
    "stablesr/autoencoder_cfw": (stablesr_vae.autoencoder_cfw, FORWARD),
    "stablesr/schedule": (stablesr_schedule.schedule, SCHEDULE),
    "stablesr/canvas": (stablesr_schedule.canvas, FORWARD),
    "stablesr/gaussian_weights": (stablesr_schedule.gaussian_weights, FORWARD),
    "stablesr/image_tiles": (stablesr_schedule.image_tiles, FORWARD),
    "stablesr/loop_ddpm": (stablesr_loops.loop_ddpm, LONG_LOOP),
    "stablesr/loop_ddim": (stablesr_loops.loop_ddim, LONG_LOOP),
    "stablesr/pipeline": (stablesr_loops.pipeline, LONG_LOOP),
    "seesr/color_fix": (colour.color_fix, FORWARD),
    "seesr/unet": (seesr.unet, SEESR),
    "seesr/controlnet": (seesr.controlnet, SEESR),
    "seesr/loop": (seesr.loop, LOOP),
    "seesr/tile_blend": (seesr.tile_blend, SEESR),
    "seesr/gaussian_weights": (seesr.gaussian_weights, SEESR),
    "seesr/tiled_vae": (seesr_vae.tiled_vae, SEESR),
    "seesr/ram": (seesr_ram.ram, SEESR),
    "addsr/student_loop": (seesr.student_loop, LOOP),
    "addsr/time_adaptive_weights": (addsr.time_adaptive_weights, FORWARD),
    "addsr/diffaugment": (addsr.diffaugment, FORWARD),
    "addsr/dinov2": (addsr.dinov2, FORWARD),
    "addsr/discriminator": (addsr.discriminator, ADDSR_LOSSES),
    "addsr/distill_losses": (addsr_step.distill_losses, ADDSR_LOSSES),
    "degradation/kernels": (degradation.kernels, DEGRADATION),
    "degradation/filter2d_usm": (degradation.filter2d_usm, DEGRADATION),
    "degradation/resize": (degradation.resize, DEGRADATION),
    "degradation/noise": (degradation.noise, DEGRADATION),
    "degradation/diffjpeg": (degradation.diffjpeg, FORWARD),
    "degradation/pipeline": (degradation_pipeline.pipeline, PIPELINE),
    "degradation/pair_pool": (degradation_pipeline.pair_pool, DEGRADATION),
    "degradation/face_pipeline": (degradation.face_pipeline, DEGRADATION),
    "metrics/full_reference": (metrics_pixel.full_reference, PIXELS),
    "metrics/lpips": (metrics_deep.lpips, DEEP),
    "metrics/dists": (metrics_deep.dists, DEEP),
    "metrics/fid": (metrics_deep.fid, DEEP),
    "metrics/clipiqa": (metrics_clip.clipiqa, CLIP_IQA),
    "metrics/clipiqa_plus": (metrics_clip.clipiqa_plus, CLIP_IQA),
}
PARTS = "stablesr/part"  # weights of other cases, not a case


@dataclass(frozen=True)
class Result:
    """One line of the report."""

    status: str  # PASS or FAIL
    kind: str
    file: str
    error: float = math.nan
    tolerance: float = math.nan
    compared: int = 0
    total: int = 0
    reason: str = ""
    left_out: dict[str, str] | None = None  # tensor -> why the handler does not give it

    def line(self) -> str:
        """Return the line of this case; a reason follows where it did not pass."""
        fields = [self.status, self.kind, self.file, f"{self.error:.2e}", f"{self.tolerance:.0e}"]
        return " ".join([*fields, f"{self.compared}/{self.total}", self.reason]).rstrip()


def one_line(error: Exception) -> str:
    """Return an exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def vector_files(path: Path) -> list[Path]:
    """Return the vector files of a folder and all below it, sorted, or the one file that `path` is."""
    return sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]


def kind_of(path: Path) -> str:
    """Return the kind of a file, "?" where it cannot be read: running it will say why."""
    try:
        return read_kind(path)
    except Exception:  # safetensors has no common base for what it raises on a damaged file
        return "?"


def run_file(path: Path, kind: str) -> Result:
    """Run one case. Nothing is raised: whatever goes wrong inside is a failure of the case."""
    compared = total = 0
    try:
        case = read_case(path)
        total = len(case.expected)
        if kind not in KINDS:
            raise ValueError(f"kind {kind} is unknown to this runner")
        handler, tolerances = KINDS[kind]
        verdict = judge(handler(case), case.expected, tolerances)
    except Exception as error:  # a handler may fail in any way, and the other cases still have to run
        return Result("FAIL", kind, str(path), compared=compared, total=total, reason=one_line(error))
    return Result(
        status="FAIL" if verdict.problem else "PASS",
        kind=kind,
        file=str(path),
        error=verdict.error,
        tolerance=verdict.limit,
        compared=verdict.compared,
        total=verdict.total,
        reason=verdict.problem,
        left_out=verdict.left_out or None,
    )


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, metavar="DIR", help="folders (searched recursively) or files")
    parser.add_argument("--kind", default="*", metavar="PATTERN", help='only kinds that fit, e.g. "resshift/*"')
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="PATH.json",
        help="the results as JSON, into a file or on stdout (the lines then go to stderr)",
    )
    args = parser.parse_args(arguments)
    if args.json not in (None, "-") and not args.json.endswith(".json"):  # `--json DIR`: the folder is not the report
        args.paths.insert(0, Path(args.json))
        args.json = "-"
    if not args.paths:
        parser.error("name a folder with vector files")
    return args


def find_cases(paths: Sequence[Path], pattern: str) -> dict[Path, str]:
    """Return file -> kind of all cases, in order; damaged files are cases of kind "?" whatever the pattern.

    Raises ValueError for a path that does not exist or has no case.
    """
    cases: dict[Path, str] = {}
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        kinds = {file: kind_of(file) for file in vector_files(path)}
        found = {file: kind for file, kind in kinds.items() if kind == "?" or fnmatchcase(kind, pattern)}
        found = {file: kind for file, kind in found.items() if kind != PARTS}
        if not found:
            raise ValueError(f"{path} has no vector file (*.safetensors) of a kind that fits {pattern!r}")
        known = {file.resolve() for file in cases}
        cases |= {file: kind for file, kind in found.items() if file.resolve() not in known}
    return cases


def as_json(results: Sequence[Result]) -> str:
    """Return the results as JSON; a number that does not exist is null."""
    rows = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(result).items()}
        for result in results
    ]
    return json.dumps({"cases": rows, **counts(results)}, indent=2)


def counts(results: Sequence[Result]) -> dict[str, int]:
    """Return how many cases passed and failed; none is skipped, which the report says as it always did."""
    statuses = [result.status for result in results]
    return {"passed": statuses.count("PASS"), "failed": statuses.count("FAIL"), "skipped": 0}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    args = parse_args(arguments)
    try:
        cases = find_cases(args.paths, args.kind)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    results = []
    with contextlib.redirect_stdout(sys.stderr) if args.json == "-" else contextlib.nullcontext():
        for path, kind in cases.items():
            results.append(run_file(path, kind))
            print(results[-1].line(), flush=True)
        print(", ".join(f"{count} {status}" for status, count in counts(results).items()))
    if args.json == "-":
        print(as_json(results))
    elif args.json:
        Path(args.json).write_text(as_json(results) + "\n")
    return 1 if counts(results)["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
