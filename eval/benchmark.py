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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from resdiff.devices import check_device, check_dtype
from resdiff.eval.harness.cost import held_mib
from resdiff.eval.harness.document import make_document
from resdiff.eval.harness.planning import Plan, make_plan
from resdiff.eval.harness.profiling import profile
from resdiff.eval.harness.running import Share, Task, list_tasks, measure, restore, write_lr
from resdiff.eval.harness.tables import summary, write_tables
from resdiff.eval.report import write_report
from resdiff.runs.json_files import write_json
from resdiff.runs.launcher import local_device, share_cores
from resdiff.runs.restorer import Restorer, load_pipeline
from resdiff.runs.resume import remove_leftovers
from resdiff.train.launch import run_script

METRICS = "psnr_y,ssim_y,lpips,clip_iqa,niqe"


def restore_all(plan: Plan, tasks: Sequence[Task], share: Share, device: torch.device) -> dict[str, Any]:
    """Make the images that are missing, model by model; return what stands for each model's weights.

    Raises ValueError when a model is not the one that made the images of an earlier run.
    """
    records = {}
    for model in plan.models:
        own = [task for task in tasks if task.model == model]
        record: dict[str, Any] = {"kind": "results"}
        if model.settings is not None:
            before = held_mib(device)
            restorer = Restorer(load_pipeline(model.settings), model.settings)
            record = restorer.record()
            record["weights"] = record.pop("weights")  # last: of several differences the first is told
        settings = plan.folder.begin(plan.settings | {"models": {model.name: record}})
        if share.index == 0:
            plan.folder.write(settings)
        if model.settings is not None:
            restore(own, restorer, share, before)
            del restorer
        records[model.name] = record
    return records


def finish(
    args: argparse.Namespace, plan: Plan, tasks: Sequence[Task], records: Mapping[str, Any], settings: dict[str, Any]
) -> dict[str, Any]:
    """Profile if asked, write the documents, and return the first of them."""
    profiled: list[dict[str, Any]] = []
    if args.profile:
        running = [model for model in plan.models if model.settings is not None]
        baseline = args.baseline or running[0].name
        profiled = profile(running, plan.testsets, baseline=baseline, repeats=args.repeats, count=args.profile_images)
    document = make_document(
        plan.folder,
        tasks,
        plan.suite,
        protocol=plan.protocol,
        settings=settings,
        weights={
            name: {"networks": record["weights"]} if "weights" in record else {} for name, record in records.items()
        },
        digests=plan.digests,
        profile=profiled,
    )
    write_json(plan.folder.root / "benchmark.json", document)
    write_tables(document, plan.folder.root)
    write_report(plan.folder.root)
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
    add("--baseline", help="model that the ratios of --profile refer to [the first]")
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


def main(args: argparse.Namespace) -> dict[str, Any] | None:
    """Run the benchmark; the main process returns the document that it wrote, the others None."""
    device = check_device(local_device(args.device, os.environ))
    state = PartialState(cpu=device.type == "cpu")
    share = Share(state.process_index, state.num_processes)
    share_cores(os.environ)
    try:
        plan = make_plan(args, device)
    except (ValueError, OSError):
        if share.index > 0:
            raise SystemExit(2) from None  # the main process says why
        raise
    try:
        return carry_out(args, plan, state, share, device)
    except (ValueError, OSError) as error:
        if share.index > 0:
            print(f"error: in process {share.index}: {error}", file=sys.stderr)
        raise


def carry_out(
    args: argparse.Namespace, plan: Plan, state: PartialState, share: Share, device: torch.device
) -> dict[str, Any] | None:
    """Do this process's share of `plan`; the main process returns the document."""
    if share.index == 0:
        plan.folder.write(plan.folder.begin(plan.settings))
        remove_leftovers(path for path in plan.folder.root.rglob("*") if path.is_dir())
    state.wait_for_everyone()
    testsets = [write_lr(testset, plan.folder, share) for testset in plan.testsets]
    state.wait_for_everyone()
    tasks = list_tasks(plan.folder, testsets, plan.models)
    records = restore_all(plan, tasks, share, device)
    state.wait_for_everyone()
    measure(tasks, plan.suite, plan.protocol, share)
    state.wait_for_everyone()
    document = None
    if share.index == 0:
        settings = {
            "scale": args.scale,
            "seed": args.seed,
            "dtype": str(check_dtype(args.dtype, device)).removeprefix("torch."),
            "device": device.type,
            "tile": args.tile,
            "num_processes": share.count,
            "threads": torch.get_num_threads(),
        }
        document = finish(args, plan, tasks, records, settings)
        print(summary(document))
    state.wait_for_everyone()
    return document


if __name__ == "__main__":
    sys.exit(run_script(lambda: main(parse_args()), "interrupted; the same command goes on where it stopped"))
