"""Speed of training on this machine, every comparison side by side in one run, as Markdown tables.

    python eval/bench_training.py --json bench.json                       # photos: random ones
    python eval/bench_training.py --train_data_dir photos --compile

1. The full-size v1 recipe (train/recipes/realsr_v1.yaml; random weights, whose cost is that of trained ones) through
   the training script's own networks, data, degradation, loss, update and EMA: images/s, share of the time spent
   waiting for data, achieved TFLOP/s against the counted cost of one image, peak memory.
2. Its frozen encoder: HR and enlarged LR in one bfloat16 call, against two calls in float32.
3. Degradation: one batched call on the device, against one call per sample. Reading: what one data worker takes.
4. The bundled model's recipe: the precision that is chosen automatically, against float32.
5. Distilling (train/recipes/distill) by each method, against training of the same network on the same batch: the small
   recipes, on CUDA the full-size ones too, with a random teacher. FLOPs and memory of the full-size ones are counted.

Each training case runs in a process of its own. What is compared alternates, and a figure is the median of its
repetitions; ratios say more than times, which belong to one machine and what else it did. The first steps do not count:
they compile, tune, and use up what data workers have read ahead, which would hide that reading is too slow.
"""

import argparse
import json
import multiprocessing
import platform
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from resdiff.devices import default_dtype
from resdiff.eval.distillation_cost import (
    FULL_RECIPES,
    SMALL_RECIPES,
    Distilling,
    measure_alike,
    measure_distilling,
)
from resdiff.eval.distillation_counts import Counted, count_recipes
from resdiff.eval.training_cost import (
    PLACE,
    SMALL,
    V1,
    Case,
    Cost,
    Settings,
    Training,
    counted_cost,
    measure_training,
    together,
    training_arguments,
)
from resdiff.eval.training_parts import Comparison, Parts, measure_parts

SPECIFIED_TFLOP = 0.99  # per 256 px image of the v1 recipe
TARGET_IMAGES, TARGET_WAIT = 280, 0.05  # of the v1 recipe on an H200: images/s, and the share of waiting it stays below
Result = TypeVar("Result")
Launch = Callable[..., Any]  # (function, *arguments) -> what the function returns


def in_a_new_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call `function` in a process of its own, so that neither memory nor settings of another case matter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that was measured."""

    cost: Cost
    full: list[Training]  # v1 recipe
    small: list[Training]  # bundled recipe: float32, then automatic precision
    parts: Parts
    distilling: list[Distilling]
    distilling_counted: list[Counted]  # full-size recipes


def measure_all(settings: Settings, compiled: bool, cuda: bool, launch: Launch = in_a_new_process) -> Results:
    """Measure every case, telling the standard error what is under way."""

    def run(case: Case) -> Training:
        print(f"training {case.label}, precision {case.precision} ...", file=sys.stderr)
        return launch(measure_training, case, settings)

    def distil(recipe: str) -> Distilling:
        print(f"distilling {recipe} ...", file=sys.stderr)
        measured = (measure_alike, measure_distilling)
        turns = [[launch(measure, recipe, settings) for measure in measured] for _ in range(settings.repeats)]
        training, distilling = (together(runs) for runs in zip(*turns, strict=True))
        return Distilling(recipe=recipe, training=training, distilling=distilling)

    full = [Case(recipe=V1), Case(recipe=V1, photos_in="disk")] if cuda else [Case(recipe=V1)]
    if compiled:
        full += [replace(case, compile=True) for case in full]
    small = [Case(recipe=SMALL, precision="no"), Case(recipe=SMALL)]
    arguments = training_arguments(full[0], settings, Path("unused"))
    full_runs = [run(case) for case in full]
    small_runs = [[run(case) for case in small] for _ in range(settings.repeats)]
    print("encoder, degradations, reading ...", file=sys.stderr)
    return Results(
        cost=counted_cost(arguments),
        full=full_runs,
        small=[together(runs) for runs in zip(*small_runs, strict=True)],
        parts=launch(measure_parts, settings),
        distilling=[distil(recipe) for recipe in (*SMALL_RECIPES, *(FULL_RECIPES if cuda else ()))],
        distilling_counted=count_recipes(settings),
    )


def machine(threads: int) -> str:
    """Return one line about the machine and torch."""
    info = Path("/proc/cpuinfo")  # absent outside Linux
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    fast = str(default_dtype("cpu")).removeprefix("torch.")
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB"
    gpu = "no CUDA device"
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        gpu = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    cores = f"{psutil.cpu_count()} cores of {cpu} (fastest in {fast}), {threads} used by torch"
    return f"{cores}, {memory}; {gpu}; torch {torch.__version__}"


def verdict(full: Sequence[Training]) -> str:
    """Say how the v1 recipe stands to the targets for an H200, or that they were not measured."""
    targets = f"{TARGET_IMAGES} images/s of 256 px, data wait below {TARGET_WAIT:.0%}"
    if full[0].device != "cuda":
        return (
            f"No CUDA device was at hand: everything here ran on the {full[0].device.upper()}, and the targets for an "
            f"H200 ({targets}) were NOT measured."
        )
    lines = [f"Everything here ran on the CUDA device named above. Targets for an H200: {targets}."]
    for run in full:
        met = run.images_per_second >= TARGET_IMAGES and run.data_wait < TARGET_WAIT
        figures = f"{run.images_per_second:.0f} images/s, data wait {run.data_wait:.1%}"
        lines.append(f"- {run.case.label}: {figures}: {'met' if met else 'not met'}")
    return "\n".join(lines)


def report(results: Results, smoke: bool) -> str:
    """Return everything as Markdown."""
    warning = "**Smoke run with tiny networks and crops: the figures mean nothing.**"
    paragraphs = [machine(results.full[0].threads), *([warning] if smoke else []), verdict(results.full)]
    sections = full_section(results.full, results.cost), parts_section(results.parts), small_section(results.small)
    return "\n\n".join([*paragraphs, *sections, distilling_section(results.distilling, results.distilling_counted)])


def table(*rows: Sequence[str]) -> str:
    """Return rows, the first of them the heads, as a Markdown table."""
    head, *others = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *others])


def full_section(full: Sequence[Training], cost: Cost) -> str:
    """Return the section on the v1 recipe."""
    counted = (
        f"Counted for one image: encoder (HR and enlarged LR) {cost.encoder / 1e9:.0f} GFLOP, UNet forward and "
        f"backward {cost.unet / 1e9:.0f} GFLOP, together {cost.tflop:.3f} TFLOP; the specification says {SPECIFIED_TFLOP} for 256 px."
    )
    rows = [
        (
            run.case.label,
            run.device,
            run.precision,
            str(run.batch),
            f"{run.images_per_second:.3g}",
            f"{run.data_wait:.2%}",
            f"{run.images_per_second * cost.tflop:.3g}",
            f"{run.peak_mib:.0f}",
        )
        for run in full
    ]
    heads = ("case", "device", "precision", "batch", "images/s", "data wait", "TFLOP/s", "peak MiB")
    steps = f"{full[0].steps} steps: waiting for data, degradation, pair pool, encoder, UNet, AdamW, EMA."
    return "\n\n".join(["## Training the full-size v1 recipe (random weights)", counted, table(heads, *rows), steps])


def parts_section(parts: Parts) -> str:
    """Return the section on encoder, degradation and reading."""

    def row(what: str, c: Comparison, other: str) -> Sequence[str]:
        ours, theirs = (f"{c.milliseconds(seconds):.4g}" for seconds in (c.ours, c.other))
        return what, c.device, str(c.images), ours, other, theirs, f"{c.ratio:.2f}x"

    rows = [
        row("VQ encoder: HR and LR in one call, bf16, channels last", parts.encoder, "two calls, fp32"),
        *(row(f"{c.name}: one call", c, "one call per sample") for c in parts.degradations),
    ]
    heads = ("what", "device", "images", "ms per image", "against", "ms per image", "faster by")
    repeats = f"Medians of {len(parts.encoder.ours)} calls of each, in turns."
    places = ", ".join(f"{ms:.1f} ms from photos {PLACE[place]}" for place, ms in parts.reading.items())
    reading = f"A data worker (one process on the CPU) reads, crops and draws a sample of the v1 recipe in {places}."
    return "\n\n".join(["## Frozen encoder, degradation, reading", table(heads, *rows), repeats, reading])


def small_section(small: Sequence[Training]) -> str:
    """Return the section on the bundled recipe."""
    rows = [
        (
            "float32" if run.case.precision == "no" else f"auto: {run.precision}",
            run.device,
            str(run.batch),
            f"{run.images_per_second:.3g}",
            f"{run.data_wait:.2%}",
            f"{run.images_per_second / small[0].images_per_second:.2f}x",
        )
        for run in small
    ]
    heads = ("precision", "device", "batch", "images/s", "data wait", "against float32")
    steps = f"Median of {len(small[0].seconds)} runs of {small[0].steps} steps of each, in turns."
    return "\n\n".join(["## Training the bundled recipe", table(heads, *rows), steps])


def distilling_section(measured: Sequence[Distilling], counted: Sequence[Counted]) -> str:
    """Return the section on distillation."""
    tflop = {count.recipe: count.tflop for count in counted}

    def row(run: Distilling) -> Sequence[str]:
        ours, alike = run.distilling, run.training
        speed = "-"
        if run.recipe in tflop:  # counted for each image of the batch, of which rsd takes several to a step
            speed = f"{tflop[run.recipe] * alike.batch / ours.step_seconds:.3g}"
        times = f"{ours.step_seconds:.3g}", f"{ours.images_per_second:.3g}", f"{ours.data_wait:.2%}"
        peak = f"{ours.peak_mib:.0f}"
        return run.recipe, ours.device, ours.precision, str(ours.batch), *times, speed, peak, f"{run.ratio:.2f}x"

    heads = ("recipe", "device", "precision", "images", "s", "images/s", "data wait", "TFLOP/s", "peak MiB")
    repeats = (
        f"One step, of so many images: medians of {len(measured[0].distilling.seconds)} runs, in turns with "
        "train/resshift.py on the same network, batch and crops, whose step is what the last column compares with."
    )
    counts = [
        (c.recipe, f"{c.tflop:.2f}", f"{c.ratio:.2f}x", f"{c.held / 2**30:.2f}", f"{c.saved / 2**20:.0f}")
        for c in counted
    ]
    about = (
        "Counted, not measured: FLOPs for each image of the student's batch, and against training; GiB of weights, "
        "gradients, optimizers and average; MiB of activations for the backward pass, for each image of a micro-batch."
    )
    counted_heads = ("recipe", "TFLOP per image", "against training", "held, GiB", "activations per image, MiB")
    measured_table = table((*heads, "against training"), *map(row, measured))
    return "\n\n".join(["## Distilling", measured_table, repeats, table(counted_heads, *counts), about])


def parse_command(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train_data_dir", type=Path, help="folder of photos [random ones, in a temporary folder]")
    parser.add_argument("--train_batch_size", type=int, help="of the v1 recipe [64 on CUDA, 2 on a CPU]")
    parser.add_argument("--steps", type=int, help="that count, of the v1 recipe [100 on CUDA, 3 on a CPU]")
    parser.add_argument("--repeats", type=int, default=3, help="of what is compared [3]")
    parser.add_argument("--compile", action="store_true", help="measure the v1 recipe with --compile too")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--smoke", action="store_true", help="tiny networks, one step: does the script run?")
    args = parser.parse_args(input_args)
    for name in ("train_batch_size", "steps", "repeats"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} {value} must be at least 1")
    return args


def settings_from(args: argparse.Namespace, cuda: bool) -> Settings:
    """Return the settings for a machine with or without CUDA."""
    if args.smoke:
        return Settings(
            train_data_dir=args.train_data_dir, batch=2, degradation_batch=2, steps=1, warmup=0, repeats=1, smoke=True
        )
    return Settings(
        train_data_dir=args.train_data_dir,
        batch=args.train_batch_size or (64 if cuda else 2),
        degradation_batch=64 if cuda else 16,
        steps=args.steps or (100 if cuda else 3),
        warmup=40 if cuda else 1,  # up to 8 workers read 4 batches ahead each
        repeats=args.repeats,
        smoke=False,
    )


def main(args: argparse.Namespace) -> None:
    """Measure, print, and write the figures if asked for."""
    cuda = torch.cuda.is_available()
    results = measure_all(settings_from(args, cuda), args.compile, cuda)
    print(report(results, args.smoke))
    if args.json:
        args.json.write_text(json.dumps({"machine": machine(results.full[0].threads)} | asdict(results), indent=1))


if __name__ == "__main__":
    try:
        main(parse_command())
    except ValueError as error:
        sys.exit(f"error: {error}")
