"""The benchmark of whole calls: what it measures and how it reports; never how long it takes."""

import json
import subprocess
from dataclasses import asdict, replace

import pytest

from resdiff.eval import bench_pipeline
from resdiff.eval.bench_cases import Case, Measurement, fastest, groups, left_out, measure, target, timed
from resdiff.eval.bench_pipeline import FAMILIES, Family, family_named, main, parse_args, table
from resdiff.eval.harness.cost import resident_mib


@pytest.mark.parametrize("best", ["float32", "bfloat16"])
def test_float32_and_bfloat16_are_both_shown_whatever_the_machine_prefers(best) -> None:
    found = groups(best, cuda=False, compiler=False)
    for model in ("bundled model", "full-size network"):
        cases = found[f"Precision of the {model}"]
        assert [case.dtype for case in cases] == ["float32", "bfloat16"]
        assert replace(cases[0], dtype="bfloat16") == cases[1]


def test_a_group_compares_one_thing() -> None:
    for title, cases in groups("bfloat16", cuda=True, compiler=True).items():
        assert len(cases) > 1 and len({case.label for case in cases}) == len(cases), title
        for field in ("model", "side", "steps", "device", "photos"):
            assert len({getattr(case, field) for case in cases}) == 1, title


def test_a_gpu_adds_the_published_numbers_of_steps_offloading_and_graphs() -> None:
    found = groups("float32", cuda=True, compiler=True)
    on_gpu = [case for cases in found.values() for case in cases if case.device == "cuda"]
    assert {case.steps for case in on_gpu if case.side == 128 and case.model == "full"} == {1, 4, 15}
    assert {case.way for case in on_gpu} == {
        "plain", "compiled", "graphs", "compiled, graphs", "model offload", "group offload", "sequential offload",
        "loop", "command",
    }  # fmt: skip


def test_what_a_machine_cannot_run_is_left_out_and_said() -> None:
    found = groups("float32", cuda=False, compiler=False)
    assert all(case.device == "cpu" and "compiled" not in case.way for cases in found.values() for case in cases)
    assert any("no C++ compiler" in line for line in left_out(False, False))
    assert any("no CUDA device" in line for line in left_out(False, True))
    assert left_out(True, True) == []


def test_ratios_are_against_the_first_case_of_the_group() -> None:
    case = Case("small", 256, 4, "float32")
    slow, fast = Measurement(0.1, 5.0, 3.0, 5.0, 90.0), Measurement(0.1, 2.5, 1.5, 4.0, 100.0)
    text = table([(case, slow), (replace(case, dtype="bfloat16"), fast)], target)
    assert "cpu float32 | 3 | 5 | 1.00x | 5 | 0.10 | 90 |" in text
    assert "cpu bfloat16 | 1.5 | 4 | 0.50x | 2.5 | 0.10 | 100 |" in text


def test_the_targets_of_an_h200_stand_beside_the_compiled_cases() -> None:
    case = Case("full", 128, 4, "bfloat16", "cuda", "compiled")
    good = Measurement(1, 1, 0.040, 0.040, 4000)
    assert target(case, good) == "40 ms, 4096 MiB on an H200: met"
    assert target(case, replace(good, wall_seconds=0.041)).endswith("not met")
    assert target(replace(case, steps=15), replace(good, wall_seconds=0.08, peak_mib=4097)).endswith("not met")
    assert target(replace(case, way="plain"), good) == target(replace(case, steps=1), good) == ""


def test_labels_say_what_differs() -> None:
    case = Case("small", 128, 4, "float32", photos=12, way="command")
    assert case.label == "resdiff upscale: 12 photos, resdiff-small 128->512, 4 steps, cpu float32"
    assert Case("small", 384, 1, "float32", tile=192, tile_batch=2).label.endswith("tiles of 192, 2 at once")
    assert Case("full", 64, 4, "float32", way="compiled").label.endswith("cpu float32, compiled")


@pytest.mark.usefixtures("command_environment")
@pytest.mark.parametrize("way", ["loop", "command", "plain"])
def test_a_small_case_runs_and_costs_something(way) -> None:
    done = measure(Case("small", 16, 1, "float32", way=way, photos=2), repeats=1)
    assert done.wall_seconds > 0 and done.first_seconds > 0 and done.cpu_seconds > 0


def test_the_fastest_of_the_repeats_counts() -> None:
    waits = iter([0.0, 0.05, 0.0])
    wall, _ = fastest(lambda: __import__("time").sleep(next(waits)), 3)
    assert wall < 0.05


def test_without_repeats_the_first_run_counts() -> None:
    runs: list[int] = []
    first, wall, _ = timed(lambda: runs.append(1), 0)
    assert (len(runs), wall) == (1, first)
    timed(lambda: runs.append(1), 2)
    assert len(runs) == 4


@pytest.mark.parametrize("name", FAMILIES)
def test_cases_of_every_family_survive_the_way_to_their_process(name) -> None:
    family = family_named(name)
    for cases in family.groups("bfloat16", True, True).values():
        assert all(family.case(**json.loads(json.dumps(asdict(case)))) == case for case in cases)


def test_a_case_that_fails_is_named_and_the_others_are_measured(monkeypatch, capsys) -> None:
    good, bad = Case("small", 256, 4, "float32"), Case("small", 256, 4, "bfloat16")

    def in_a_new_process(family: str, case: Case, repeats: int, threads: int) -> Measurement:
        if case == bad:
            raise subprocess.CalledProcessError(1, "bench")
        return Measurement(0.1, 5.0, 3.0, 5.0, 90.0)

    family = Family(Case, lambda *_: {"Precision": [bad, good], "Other": [bad]}, left_out, target, measure)
    monkeypatch.setattr(bench_pipeline, "family_named", lambda _: family)
    monkeypatch.setattr(bench_pipeline, "in_a_new_process", in_a_new_process)
    with pytest.raises(SystemExit, match=bad.label):
        main(parse_args(["--only", "precision"]))
    said = capsys.readouterr().out
    assert f"| {good.label} | 3 | 5 | 1.00x |" in said and "Other" not in said


def test_resident_size_is_read_in_mebibytes() -> None:
    assert 5 < resident_mib("VmRSS") <= resident_mib("VmHWM") * 1.01 < 50_000
