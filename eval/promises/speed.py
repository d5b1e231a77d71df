"""Speed and size: seconds of 256 -> 1024 px in four steps, of loading after import, and bytes on disk.

Every dtype in a process of its own, the fastest of some calls after a first one:

    python -m resdiff.eval.promises.speed float32 --repeats 3
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

from resdiff.eval.promises.promise import Promise, at_most

SIDE, STEPS = 256, 4
SECONDS = {"float32": 5.0, "bfloat16": 2.0}
LOAD_SECONDS = 1.0
FILE_MIB = 16.0


def measure(model: str | None, threads: int, repeats: int) -> dict[str, float]:
    """Return the figures of both dtypes; `repeats` calls each."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    figures: dict[str, float] = {}
    for dtype in SECONDS:
        command = [sys.executable, "-m", "resdiff.eval.promises.speed", dtype, "--repeats", str(repeats)]
        command += [] if model is None else ["--model", model]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        figures |= {f"{name} {dtype}": value for name, value in json.loads(done.stdout.splitlines()[-1]).items()}
    return figures | {"MiB": file_mib(model)}


def promises(figures: dict[str, float]) -> list[Promise]:
    """Judge the figures; bfloat16 only where the processor has AMX."""
    import torch

    has_amx = bool(torch.cpu.get_capabilities().get("amx_bf16", False))
    found = []
    for dtype, bound in SECONDS.items():
        name, seconds = f"{SIDE} -> {4 * SIDE} px, {STEPS} steps, {dtype}, s", figures[f"seconds {dtype}"]
        if dtype == "float32" or has_amx:
            found.append(at_most(name, "", seconds, bound))
        else:
            found.append(Promise(name=name, where="", measured=seconds, remark="(no AMX here)"))
    return [
        *found,
        at_most("loading after import, s", "", figures["load float32"], LOAD_SECONDS),
        at_most("files with weights, MiB", "", figures["MiB"], FILE_MIB),
        Promise(name="parameters, millions", where="", measured=figures["parameters float32"] / 1e6),
    ]


def file_mib(model: str | None) -> float:
    """Return the size of a saved model's weights, NaN where the model is not a folder."""
    from resdiff.checkpoints.known import bundled_folder

    folder = bundled_folder() if model is None else Path(model)
    if not folder.is_dir():
        return math.nan
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / 2**20


def measure_here(model: str | None, dtype: str, repeats: int) -> dict[str, float]:
    """Return the figures of one dtype, measured in this process."""
    import torch

    import resdiff.pipelines.resshift  # noqa: F401  (counted as import, not as load)
    from resdiff import SRPipeline
    from resdiff.eval.bench_cases import fastest

    started = time.perf_counter()
    pipe = SRPipeline.from_pretrained(model, dtype=getattr(torch, dtype))
    loading = time.perf_counter() - started
    pipe.set_progress_bar_config(disable=True)
    photo = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def call() -> None:
        pipe(photo, num_inference_steps=STEPS, generator=torch.Generator().manual_seed(0), output_type="pt")

    call()
    seconds, _ = fastest(call, repeats)
    parameters = sum(p.numel() for network in pipe.networks for p in network.parameters())
    return {"seconds": seconds, "load": loading, "parameters": float(parameters)}


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dtype", choices=SECONDS)
    parser.add_argument("--model", help="default: the bundled model")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args(input_args)


if __name__ == "__main__":
    args = parse_args()
    print(json.dumps(measure_here(args.model, args.dtype, args.repeats)))
