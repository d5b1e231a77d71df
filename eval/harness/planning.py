"""What a benchmark is going to do, checked before the first image: every mistake is told at once and in one line."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from resdiff.eval.harness.models import Model, parse_models
from resdiff.eval.harness.run_folder import RunFolder
from resdiff.eval.harness.specs import remedy
from resdiff.eval.harness.testsets import TestSet, digest, open_testsets, restored_size, some
from resdiff.metrics.protocols import Protocol, protocol
from resdiff.metrics.suite import Suite
from resdiff.runs.restorer import Settings


@dataclass(frozen=True)
class Plan:
    """What is going to be done; the same in every process."""

    folder: RunFolder
    models: list[Model]
    testsets: list[TestSet]
    digests: dict[str, str]  # set -> SHA-256
    protocol: Protocol
    suite: Suite
    settings: dict[str, Any]  # of run.json


def make_plan(args: argparse.Namespace, device: torch.device) -> Plan:
    """Check everything that can be checked before the first image; nothing is written.

    Raises ValueError or OSError in one line.
    """
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
    if args.profile:
        check_baseline(args.baseline, models)
    digests = {testset.name: digest(testset) for testset in testsets}
    settings = {
        "protocol": asdict(chosen),
        "scale": args.scale,
        "seed": args.seed,
        "torch": torch.__version__,
        "sets": {t.name: {"digest": digests[t.name], "degradation": t.degradation, "seed": t.seed} for t in testsets},
        "figures": {
            name: {"variant": column.variant, "weights": column.weights}
            for name, column in suite.columns.items()
            if column.missing is None
        },
        "models": {},
    }
    return Plan(RunFolder(args.out), models, testsets, digests, chosen, suite, settings)


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
    for name, column in suite.columns.items():
        figure = column.figure
        if figure.needs_hr and not testset.has_hr:
            raise ValueError(
                f"{name} compares with HR, and {testset.name} has none; leave it out, or pass --skip_missing for n/a"
            )
        sizes = {sample.name: sorted(restored_size(sample, testset.scale)) for sample in testset.samples}
        small = [f"{n} ({a}x{b})" for n, (a, b) in sizes.items() if a < figure.smallest[0] or b < figure.smallest[1]]
        if small:
            raise ValueError(
                f"{name} needs images of {figure.smallest[0]}x{figure.smallest[1]}; {len(small)} of {testset.name} are "
                f"smaller: {some(small)}; leave it out, or pass --skip_missing for n/a"
            )
        if figure.of_set and len(testset.samples) < 2:
            raise ValueError(f"{name} compares sets, and {testset.name} is one image; leave it out")


def check_baseline(name: str | None, models: Sequence[Model]) -> None:
    """Raise ValueError unless the model that ratios refer to is one that runs here."""
    running = [model.name for model in models if model.settings is not None]
    if not running:
        raise ValueError("--profile needs a --model; results of other tools have no speed here")
    if name is not None and name not in running:
        raise ValueError(f"--baseline {name!r} is not among the models; {remedy(name, running)}")
