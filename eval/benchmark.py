"""Models x data sets x metrics under a named protocol: one command, a table that can be made again.

    accelerate launch eval/benchmark.py --model bicubic --model "resdiff-small num_inference_steps=1" \\
        --data DATA/set5 --data DATA/set14 --metrics psnr_y,ssim_y,lpips,clip_iqa,niqe --protocol classic-y \\
        --skip_missing --out runs/b1

What is compared: anything the pipeline opens (--model "NAME key=value ...", keys as of `resdiff upscale`), and folders of
images that other tools have made (--results NAME=DIR). On what: folders of LR, of LR and HR, or of HR with a degradation
(--data "DIR degradation=bicubic-matlab seed=0"). eval/README.md explains sets, metrics, protocols and their traps.

OUT gets the images, benchmark.json (all figures with everything they depend on), images.csv, benchmark.md and
report.html. Several processes (`accelerate launch`, `torchrun`) share the images and give the same numbers. Started
again, the command computes what is missing; more models, sets and metrics may be added to the same OUT.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from resdiff.devices import check_device, check_dtype
from resdiff.eval.harness.cost import held_mib
from resdiff.eval.harness.document import Document, write_document
from resdiff.eval.harness.gathering import make_document
from resdiff.eval.harness.models import Model
from resdiff.eval.harness.planning import Plan, make_plan
from resdiff.eval.harness.profiling import profile
from resdiff.eval.harness.running import restore, score, write_lr
from resdiff.eval.harness.tables import summary, write_tables
from resdiff.eval.report import write_report
from resdiff.runs.jobs import Shard
from resdiff.runs.launcher import local_device, run_script, share_cores
from resdiff.runs.restorer import Restorer, load_pipeline
from resdiff.runs.resume import remove_leftovers

METRICS = "psnr_y,ssim_y,lpips,clip_iqa,niqe"


def carry_out(plan: Plan, args: argparse.Namespace, state: PartialState) -> Document | None:
    """Do this process's share of `plan`; the main process writes the documents and returns the first of them."""
    shard = Shard(state.process_index + 1, state.num_processes)
    if state.is_main_process:
        plan.folder.write(plan.folder.begin(plan.conditions))
        remove_leftovers(path for path in plan.folder.root.rglob("*") if path.is_dir())
    state.wait_for_everyone()
    for testset in plan.testsets:
        write_lr(testset, shard)
    state.wait_for_everyone()
    records = {model.name: restore_all(plan, model, shard) for model in plan.models}
    state.wait_for_everyone()
    score(plan.tasks, plan.suite, plan.protocol, shard)
    state.wait_for_everyone()
    document = finish(plan, args, records, state) if state.is_main_process else None
    state.wait_for_everyone()
    return document


def restore_all(plan: Plan, model: Model, shard: Shard) -> dict[str, Any]:
    """Make the images of a model that are missing; return what decides their pixels.

    Raises ValueError when the model is not the one that made the images of an earlier run.
    """
    device = plan.suite.device
    before = held_mib(device)
    restorer = None if model.settings is None else Restorer(load_pipeline(model.settings), model.settings)
    record = {"kind": "results"} if restorer is None else restorer.record()
    conditions = plan.folder.begin(plan.conditions | {"models": {model.name: record}})
    if shard.index == 1:
        plan.folder.write(conditions)
    if restorer is not None:
        restore([task for task in plan.tasks if task.model == model], restorer, shard, before)
    return record


def finish(plan: Plan, args: argparse.Namespace, records: Mapping[str, Any], state: PartialState) -> Document:
    """Profile if asked, write all documents, and print the tables."""
    profiled: list[dict[str, Any]] = []
    if args.profile:
        running = [model for model in plan.models if model.settings is not None]
        profiled = profile(
            running, plan.testsets, baseline=plan.baseline, repeats=args.repeats, count=args.profile_images
        )
    settings = {
        "scale": args.scale,
        "seed": args.seed,
        "dtype": str(check_dtype(args.dtype, plan.suite.device)).removeprefix("torch."),
        "device": plan.suite.device.type,
        "tile": args.tile,
        "num_processes": state.num_processes,
        "threads": torch.get_num_threads(),
    }
    document = make_document(plan, settings=settings, records=records, profile=profiled)
    write_document(document, plan.folder.root)
    write_tables(document, plan.folder.root)
    write_report(plan.folder.root)
    print(summary(document))
    return document


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or `input_args` in its place."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", action="append", default=[], metavar='"NAME key=value ..."', help="a model; repeat for more")
    add("--results", action="append", default=[], metavar="NAME=DIR", help="images another tool made; repeat for more")
    add("--data", action="append", required=True, metavar='"DIR key=value ..."', help="a data set; repeat for more")
    add("--metrics", type=_names, default=_names(METRICS), metavar="A,B", help=f"columns [{METRICS}]")
    add("--protocol", default="classic-y", help="classic-y, basicsr-y, stablesr-crop512, full-size, ...")
    add("--out", type=Path, required=True, help="folder of this benchmark; one that exists is gone on with")
    add("--scale", type=int, default=4, help="HR side over LR side")
    add("--seed", type=int, default=0, help="of the noise, the same for every image")
    add("--device", help="cpu, cuda, ... [cuda where there is one]")
    add("--dtype", default="float32", help="of the models: float32, float16 or bfloat16; metrics keep their own")
    add("--tile", type=_tile, default="auto", help="auto, off, or a size in px of LR, for models that do not say")
    add("--weights_dir", type=Path, help="folder with the metrics' weights [$RESDIFF_CACHE, other caches, publishers]")
    add("--skip_missing", action="store_true", help="n/a for what cannot be computed: no weights, no HR, too small")
    add("--profile", action="store_true", help="also measure speed and memory side by side")
    add("--baseline", help="model that differences and the ratios of --profile refer to [the first]")
    add("--repeats", type=int, default=5, help="of --profile, after a warm-up; medians count")
    add("--profile_images", type=int, default=4, help="of --profile: the first ones of each set")
    args = parser.parse_args(input_args)
    for name in ("scale", "repeats", "profile_images"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} is {getattr(args, name)}, it must be at least 1")
    return args


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _tile(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def main(args: argparse.Namespace) -> Document | None:
    """Run the benchmark; the main process returns the document that it wrote, the others None."""
    device = check_device(local_device(args.device, os.environ))
    # processes that are done early wait for the slowest
    state = PartialState(cpu=device.type == "cpu", timeout=timedelta(days=7))
    share_cores(os.environ)
    try:
        return carry_out(make_plan(args, device), args, state)
    except (ValueError, OSError) as error:
        if not state.is_main_process:  # which speaks for itself
            print(f"error: in process {state.process_index}: {error}", file=sys.stderr)
        raise


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse_args()), "interrupted; the same command goes on where it stopped"))
