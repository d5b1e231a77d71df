"""What a benchmark is going to do, checked before the first image: every mistake is told at once and in one line."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from resdiff import __version__
from resdiff.eval.harness.models import Model, parse_models
from resdiff.eval.harness.run_folder import RunFolder
from resdiff.eval.harness.running import Task, list_tasks, with_lr
from resdiff.eval.harness.testsets import TestSet, digest, open_testsets, restored_size, some
from resdiff.metrics.protocols import Protocol, protocol
from resdiff.metrics.suite import Suite
from resdiff.names import remedy
from resdiff.runs.restorer import Settings


@dataclass(frozen=True)
class Plan:
    """What is going to be done; the same in every process."""

    folder: RunFolder
    models: list[Model]
    testsets: list[TestSet]
    tasks: list[Task]
    digests: dict[str, str]  # set -> SHA-256 of its files
    protocol: Protocol
    suite: Suite
    baseline: str  # the model that comparisons and ratios refer to
    conditions: dict[str, Any]  # what a resumed run must agree with, see `RunFolder.begin`


def make_plan(args: argparse.Namespace, device: torch.device) -> Plan:
    """Check everything that can be checked before the first image; nothing is written.

    Raises ValueError or OSError in one line.
    """
    folder = RunFolder(args.out)
    folder.check()
    defaults = Settings(device=str(device), dtype=args.dtype, scale=args.scale, seed=args.seed, tile=args.tile)
    models = parse_models(args.model, args.results, defaults)
    chosen = protocol(args.protocol)
    testsets = open_testsets(args.data, args.scale)
    suite = Suite(
        args.metrics,
        chosen,
        scale=args.scale,
        device=device,
        weights_dir=args.weights_dir,
        skip_missing=args.skip_missing,
    )
    for testset in testsets:
        check_protocol(testset, chosen)
        if not args.skip_missing:
            check_figures(testset, suite)
    baseline = check_baseline(args, models)
    digests = {testset.name: digest(testset) for testset in testsets}
    testsets = [with_lr(testset, folder) for testset in testsets]
    conditions = {
        "protocol": asdict(chosen),
        "scale": args.scale,
        "seed": args.seed,
        "resdiff": __version__,
        "torch": torch.__version__,
        "sets": {t.name: {"digest": digests[t.name], "degradation": t.preset, "seed": t.seed} for t in testsets},
        "figures": {
            name: {"variant": column.variant, "weights": column.weights}
            for name, column in suite.columns.items()
            if column.missing is None
        },
        "models": {},
    }
    tasks = list_tasks(folder, testsets, models)
    return Plan(folder, models, testsets, tasks, digests, chosen, suite, baseline, conditions)


def check_protocol(testset: TestSet, chosen: Protocol) -> None:
    """Raise ValueError unless the HR images of a set have the size that the protocol is about."""
    side = chosen.hr_size
    if side is None:
        return
    sizes = {sample.name: restored_size(sample, testset.scale) for sample in testset.samples}
    wrong = [f"{name} ({width}x{height})" for name, (height, width) in sizes.items() if (height, width) != (side, side)]
    if wrong:
        raise ValueError(
            f"protocol {chosen.name} compares images of {side}x{side}; {len(wrong)} of {testset.name} have another "
            f"size: {some(wrong)}; use --protocol full-size, or crop them with eval/make_testset.py --crop_size {side}"
        )


def check_figures(testset: TestSet, suite: Suite) -> None:
    """Raise ValueError when a figure is not defined for an image of a set."""
    sizes = {sample.name: restored_size(sample, testset.scale) for sample in testset.samples}
    for name, column in suite.columns.items():
        figure = column.figure
        if figure.needs_hr and not testset.has_hr:
            raise ValueError(
                f"{name} compares with HR, and {testset.name} has none; leave it out, or pass --skip_missing for n/a"
            )
        small = [
            f"{image} ({width}x{height})" for image, (height, width) in sizes.items() if not figure.fits(height, width)
        ]
        if small:
            shorter, longer = figure.smallest
            raise ValueError(
                f"{name} needs images of {shorter}x{longer}; {len(small)} of {testset.name} are smaller: {some(small)}; "
                "leave it out, or pass --skip_missing for n/a"
            )
        if figure.of_set and len(testset.samples) < 2:
            raise ValueError(f"{name} compares sets, and {testset.name} is one image; leave it out")


def check_baseline(args: argparse.Namespace, models: Sequence[Model]) -> str:
    """Return the model that comparisons and ratios refer to. Raises ValueError when it is not there, or has no speed."""
    names = [model.name for model in models]
    running = [model.name for model in models if model.settings is not None]
    baseline = args.baseline or (running if args.profile and running else names)[0]
    if baseline not in names:
        raise ValueError(f"--baseline {baseline!r} is not among the models; {remedy(baseline, names)}")
    if args.profile and baseline not in running:
        raise ValueError(
            f"--profile compares speed, and {baseline} is a folder of results; name a --model as --baseline"
        )
    return baseline
