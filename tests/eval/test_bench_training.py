"""The benchmark of training: what it runs, counts and reports; never how fast it is."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from resdiff.eval import bench_training
from resdiff.eval.bench_training import in_a_new_process, measure_all, parse_command, report, settings_from, verdict
from resdiff.eval.distillation_cost import FULL_RECIPES, SMALL_RECIPES, measure_alike, measure_distilling
from resdiff.eval.training_cost import (
    SMALL,
    SMALL_TEACHER,
    V1,
    Case,
    Settings,
    Training,
    counted_cost,
    make_files,
    measure_training,
    together,
    training_arguments,
)
from resdiff.eval.training_parts import Comparison, Parts, alternate, measure_parts

CPU = settings_from(parse_command([]), cuda=False)
GPU = settings_from(parse_command([]), cuda=True)


def training(case: Case, device: str = "cpu", seconds: float = 0.5, waited: float = 0.1) -> Training:
    return Training(
        case=case,
        device=device,
        precision="bf16",
        threads=1,
        batch=100,
        steps=10,
        seconds=[10 * seconds] * 3,
        waited=[10 * waited] * 3,
        peak_mib=7.0,
    )


def parts() -> Parts:
    comparison = Comparison(name="RESSHIFT", device="cpu", images=2, ours=[0.1, 0.3, 0.2], other=[0.5, 0.4, 0.9])
    return Parts(encoder=comparison, degradations=[comparison], reading={"memory": 1.0, "disk": 9.0})


def launched(settings: Settings, compiled: bool, cuda: bool) -> list[tuple]:
    """What would be measured, in order: the function and its case or recipe."""
    seen = []

    def launch(function, *arguments):
        if function is measure_parts:
            return parts()
        seen.append((function, arguments[0]))
        return training(Case(recipe=V1))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_training, "count_recipes", lambda settings: [])  # takes seconds
        measure_all(replace(settings, smoke=True), compiled, cuda, launch)
    return seen


def cases(settings: Settings, compiled: bool, cuda: bool) -> list[Case]:
    """The trainings among them."""
    return [case for function, case in launched(settings, compiled, cuda) if function is measure_training]


def distillations(settings: Settings, cuda: bool) -> list[tuple]:
    """What comes after them."""
    return [pair for pair in launched(settings, False, cuda) if pair[0] is not measure_training]


@pytest.fixture
def fresh_accelerator() -> Iterator[None]:
    """Leave threads and accelerate's process-wide state as they were before."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_step_of_the_v1_recipe_costs_what_the_specification_counted() -> None:
    cost = counted_cost(training_arguments(Case(recipe=V1), CPU, Path("unused")))
    assert cost.tflop == pytest.approx(0.99, abs=0.005)
    assert cost.encoder / 1e12 == pytest.approx(0.69 * 0.99, rel=0.015)
    assert cost.unet / 1e9 == pytest.approx(3 * 405 / 4, rel=0.005)  # 405 GFLOP forward at 512 px, backward twice that


def test_the_recipe_runs_with_the_batch_that_was_asked_for_and_its_pool_of_ten() -> None:
    args = training_arguments(Case(recipe=V1), GPU, Path("unused"))
    assert (args.train_batch_size, args.accumulation(1), args.pair_pool) == (64, 1, 640)
    assert args.mixed_precision == "auto" and args.crop == (256, 256) and args.degradation == "resshift"
    assert training_arguments(Case(recipe=V1), CPU, Path("unused")).train_batch_size == 2
    assert training_arguments(Case(recipe=SMALL), GPU, Path("unused")).train_batch_size == 12


def test_precisions_take_turns_and_a_gpu_adds_photos_in_files() -> None:
    small = [Case(recipe=SMALL, precision="no"), Case(recipe=SMALL)]
    assert cases(replace(CPU, repeats=2), compiled=False, cuda=False) == [Case(recipe=V1), *small, *small]
    full = [c for c in cases(GPU, compiled=True, cuda=True) if c.recipe == V1]
    assert [(c.photos_in, c.compile) for c in full] == [
        ("memory", False), ("disk", False), ("memory", True), ("disk", True),
    ]  # fmt: skip


def test_distilling_and_training_take_turns_and_a_gpu_adds_the_full_size() -> None:
    turns = [(measure_alike, "sinsr_small"), (measure_distilling, "sinsr_small")]
    found = distillations(replace(CPU, repeats=2), cuda=False)
    assert found[:4] == [*turns, *turns]
    assert [recipe for _, recipe in found] == [recipe for recipe in SMALL_RECIPES for _ in range(4)]
    on_a_gpu = distillations(replace(GPU, repeats=1), cuda=True)
    assert [recipe for _, recipe in on_a_gpu] == [recipe for recipe in SMALL_RECIPES + FULL_RECIPES for _ in range(2)]


def test_enough_steps_pass_on_a_gpu_to_use_up_what_workers_read_ahead() -> None:
    assert GPU.warmup > 8 * 4 and GPU.steps >= 100


def test_each_case_has_a_process_of_its_own() -> None:
    assert len({os.getpid(), in_a_new_process(os.getpid), in_a_new_process(os.getpid)}) == 3


def test_speed_is_that_of_the_median_repetition_and_waiting_that_of_all() -> None:
    run = replace(training(Case(recipe=V1)), seconds=[5.0, 5.0, 30.0], waited=[0.0, 1.0, 3.0])
    assert run.images_per_second == pytest.approx(200)  # 10 steps of 100 images in 5 s
    assert run.data_wait == pytest.approx(0.1)
    pooled = together([run, replace(run, seconds=[2.5] * 4, waited=[1.0] * 4, peak_mib=9.0)])
    assert pooled.images_per_second == pytest.approx(400)
    assert pooled.data_wait == pytest.approx(8 / 50)
    assert pooled.peak_mib == 9.0


def test_what_is_compared_alternates_after_a_call_of_each_that_does_not_count() -> None:
    called: list[str] = []
    ours, other = alternate(lambda: called.append("a"), lambda: called.append("b"), 3, torch.device("cpu"))
    assert "".join(called) == "abababab"
    assert len(ours) == len(other) == 3


def test_a_ratio_is_that_of_the_medians() -> None:
    comparison = parts().encoder
    assert comparison.ratio == pytest.approx(0.5 / 0.2)
    assert comparison.milliseconds(comparison.ours) == pytest.approx(100)


def test_targets_are_judged_on_cuda_alone() -> None:
    assert "NOT measured" in verdict([training(Case(recipe=V1))])
    assert "280 images/s" in verdict([training(Case(recipe=V1))])
    fast = training(Case(recipe=V1), "cuda", seconds=0.25, waited=0.01)
    waiting = training(Case(recipe=V1, photos_in="disk"), "cuda", seconds=0.25, waited=0.02)
    slow = training(Case(recipe=V1, compile=True), "cuda", seconds=0.5, waited=0.01)
    assert [line.rsplit(": ")[-1] for line in verdict([fast, waiting, slow]).splitlines()[1:]] == [
        "met", "not met", "not met",
    ]  # fmt: skip


@pytest.mark.parametrize("flag", ["--steps", "--repeats", "--train_batch_size"])
def test_counts_below_one_are_refused_in_one_line(flag, capsys) -> None:
    with pytest.raises(SystemExit):
        parse_command([flag, "0"])
    assert f"{flag} 0 must be at least 1" in capsys.readouterr().err


@pytest.mark.usefixtures("fresh_accelerator")
def test_a_smoke_run_trains_both_recipes_and_reports_every_part(tmp_path) -> None:
    def launch(function, *arguments):
        AcceleratorState._reset_state(reset_partial_state=True)  # as in a new process
        return function(*arguments)

    settings = settings_from(parse_command(["--smoke"]), cuda=False)
    args = training_arguments(Case(recipe=SMALL), settings, tmp_path)
    make_files(args, settings)  # once for all
    settings = replace(settings, train_data_dir=args.train_data_dir)
    results = measure_all(settings, compiled=False, cuda=False, launch=launch)
    assert [run.precision for run in results.small] == ["no", results.full[0].precision]
    assert [(run.steps, len(run.seconds)) for run in (*results.full, *results.small)] == [(1, 1), (10, 1), (10, 1)]
    assert [run.recipe for run in results.distilling] == list(SMALL_RECIPES)
    for distilled, batches in zip(results.distilling, (1, 4, 1), strict=True):  # rsd's fake has its own
        ours, alike = distilled.distilling, distilled.training
        assert (ours.case.recipe, alike.case.recipe) == (f"distill/{distilled.recipe}", SMALL_TEACHER)
        assert ours.batch == batches * alike.batch and ours.steps == alike.steps == 4
    distillings = [run for distilled in results.distilling for run in (distilled.distilling, distilled.training)]
    for run in (*results.full, *results.small, *distillings):
        assert 0 < sum(run.waited) < sum(run.seconds)
    text = report(results, smoke=True)
    assert "the figures mean nothing" in text and "NOT measured" in text
    for row in (
        "| realsr_v1, photos in memory | cpu |",
        "| VQ encoder",
        "| RESSHIFT: ",
        "| REALESRGAN: ",
        "| float32 |",
        "## Distilling",
        *(f"| {recipe} | " for recipe in SMALL_RECIPES + FULL_RECIPES),
    ):
        assert row in text
    assert json.loads(json.dumps(asdict(results)))["full"][0]["batch"] == 2
