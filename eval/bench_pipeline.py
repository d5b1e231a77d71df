"""Time and memory of whole calls, each case in a process of its own, as ratios within one run.

    python eval/bench_pipeline.py                    # the bundled model and the full-size network, on this machine
    python eval/bench_pipeline.py --json bench.json

Cases: the bundled model 256x256 -> 1024x1024 at four steps in float32 and in the machine's best dtype; the full-size
ResShift (random weights: the cost is that of the published ones) 64x64 -> 256x256 at four steps in both; on a GPU also
128x128 -> 512x512 at 1, 4 and 15 steps. Memory is the peak above the resident size after import (on a GPU: the peak of
the allocator). Times of one machine say little about another; the ratios say more.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One measurement."""

    model: str  # "small": the bundled model; "full": the published architecture
    side: int  # of the square input, px
    steps: int
    dtype: str  # float32 or bfloat16
    device: str = "cpu"

    @property
    def label(self) -> str:
        """How the case is called in the table."""
        name = {"small": "resdiff-small", "full": "ResShift, full size"}[self.model]
        return f"{name} {self.side}->{4 * self.side}, {self.steps} steps, {self.device} {self.dtype}"


@dataclass(frozen=True)
class Measurement:
    """What a case cost; seconds are the fastest of the repeats."""

    load_seconds: float
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float


def cases(best: str, cuda: bool) -> list[Case]:
    """Return what is measured on a machine whose best CPU dtype is `best`."""
    dtypes = ["float32"] if best == "float32" else ["float32", best]
    found = [Case("small", 256, 4, dtype) for dtype in dtypes] + [Case("full", 64, 4, dtype) for dtype in dtypes]
    if "bfloat16" not in dtypes:  # shown all the same: it is the reason why float32 is chosen
        found += [Case("small", 256, 4, "bfloat16"), Case("full", 64, 4, "bfloat16")]
    if cuda:
        found += [Case("full", 128, s, dtype, "cuda") for s in (1, 4, 15) for dtype in ("float32", "bfloat16")]
        found += [Case("small", 256, 4, dtype, "cuda") for dtype in ("float32", "bfloat16")]
    return found


def resident_mib(field: str) -> float:
    """Return a size of this process in MiB: VmRSS now, or VmHWM its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def reset_peak() -> None:
    """Let VmHWM start again from here, where the kernel allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        print("the peak of the import cannot be reset here and is counted", file=sys.stderr)


def full_size_pipeline(steps: int, dtype: Any) -> Any:
    """Return the published architecture with random weights of torch's `dtype`, scheduled for `steps`."""
    from resdiff.models.swin_unet import SwinUNet
    from resdiff.models.vq import VQAutoencoder
    from resdiff.pipelines.resshift import ResShiftPipeline
    from resdiff.schedulers.resshift import ResShiftScheduler

    scheduler = ResShiftScheduler(num_train_timesteps=max(steps, 4))
    networks = (network.eval().to(dtype) for network in (SwinUNet(lq_size=64), VQAutoencoder()))
    return ResShiftPipeline(*networks, scheduler)


def measure(case: Case, repeats: int) -> Measurement:
    """Run one case in this process."""
    import torch

    from resdiff import SRPipeline

    if case.model == "full":
        from resdiff.models import swin_unet, vq  # noqa: F401  (counted as import, not as load)
    baseline = resident_mib("VmRSS")
    reset_peak()
    started = time.perf_counter()
    dtype = getattr(torch, case.dtype)
    small = case.model == "small"
    pipe = SRPipeline.from_pretrained(dtype=dtype) if small else full_size_pipeline(case.steps, dtype)
    pipe.to(case.device)
    load = time.perf_counter() - started
    pipe.set_progress_bar_config(disable=True)

    photo = torch.rand(1, 3, case.side, case.side, generator=torch.Generator().manual_seed(0))
    walls, cpus = [], []
    for _ in range(repeats):
        started, cpu = time.perf_counter(), time.process_time()
        pipe(photo, num_inference_steps=case.steps, generator=torch.Generator().manual_seed(0), output_type="pt")
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - cpu)
    peak = resident_mib("VmHWM") - baseline
    if case.device == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    return Measurement(load, min(walls), min(cpus), peak)


def table(results: list[tuple[Case, Measurement]]) -> str:
    """Return the Markdown table; the ratio is against float32 of the same model, size, steps and device."""
    rows = ["| case | wall s | CPU s | against float32 | load s | peak MiB |", "|---|---|---|---|---|---|"]
    base = {(c.model, c.side, c.steps, c.device): m.wall_seconds for c, m in results if c.dtype == "float32"}
    for case, m in results:
        ratio = m.wall_seconds / base[case.model, case.side, case.steps, case.device]
        rows.append(
            f"| {case.label} | {m.wall_seconds:.2f} | {m.cpu_seconds:.2f} | {ratio:.2f}x | "
            f"{m.load_seconds:.2f} | {m.peak_mib:.0f} |"
        )
    return "\n".join(rows)


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2, help="calls per case; the fastest counts")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case as JSON: how a child process is told
    return parser.parse_args(input_args)


def main(args: argparse.Namespace) -> None:
    """Measure every case in a child process and print the table."""
    if args.case:
        print(json.dumps(asdict(measure(Case(**json.loads(args.case)), args.repeats))))
        return
    import torch

    from resdiff.devices import default_dtype

    best = str(default_dtype(torch.device("cpu"))).removeprefix("torch.")
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    results = []
    for case in cases(best, torch.cuda.is_available()):
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case)), "--repeats", str(args.repeats)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        results.append((case, Measurement(**json.loads(done.stdout.splitlines()[-1]))))
        print(f"{case.label}: {results[-1][1].wall_seconds:.2f} s", file=sys.stderr)
    print(f"torch {torch.__version__}, {args.threads} threads, best CPU dtype {best}\n")
    print(table(results))
    if args.json:
        args.json.write_text(json.dumps([asdict(c) | asdict(m) for c, m in results], indent=1))


if __name__ == "__main__":
    main(parse_args())
