"""The recorded vectors pass, and the runner notices when they should not.

The vectors lie beside the checkout (../shared/conformance) or in $RESDIFF_CONFORMANCE; without them only the runner's
own rules are tested, on files made here.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the runner is a script beside this file, not a package

import run  # noqa: E402
from case import Case, NotCompared, Tolerance, compare, judge, read_case  # noqa: E402

VECTORS = Path(os.environ.get("RESDIFF_CONFORMANCE", HERE.parents[2] / "shared" / "conformance"))
FILES = [path for path in run.vector_files(VECTORS) if run.kind_of(path) != run.PARTS] if VECTORS.is_dir() else []
NONE = pytest.param(None, marks=pytest.mark.skip(reason=f"no conformance vectors in {VECTORS}"))


def smallest_of_each_kind() -> dict[str, Path]:
    by_size = sorted(FILES, key=lambda path: path.stat().st_size, reverse=True)
    return {kind: path for path in by_size if (kind := run.kind_of(path)) in run.KINDS}


def perturbed(x: Tensor) -> Tensor:
    """The tensor with one value beyond every tolerance."""
    x = x.clone()
    if x.is_floating_point():
        finite = x[x.isfinite()]
        x.view(-1)[0] += 1e-3 + 1e-2 * float(finite.abs().max() if len(finite) else 0)
    else:
        x.view(-1)[0] = x.view(-1)[0] ^ 2
    return x


def copy_with(source: Path, target: Path, changes: dict[str, Tensor]) -> Path:
    """Write a copy of a vector file with some tensors replaced or added."""
    with safe_open(source, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        save_file(tensors | changes, target, metadata=file.metadata())
    return target


# --- the recorded vectors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", FILES or [NONE], ids=lambda path: f"{path.parent.name}/{path.stem}" if path else "none"
)
def test_recorded_vector_is_reproduced(path: Path) -> None:
    result = run.run_file(path, run.kind_of(path))
    assert result.status == "PASS", result.line()
    assert result.compared == result.total


@pytest.mark.parametrize("kind", smallest_of_each_kind() or [NONE])
def test_every_perturbed_output_of_a_kind_fails(kind: str) -> None:
    case = read_case(smallest_of_each_kind()[kind])
    handler, tolerances = run.KINDS[kind]
    outputs = handler(case)
    assert not judge(outputs, case.expected, tolerances).problem
    for name, theirs in case.expected.items():
        verdict = judge(outputs, case.expected | {name: perturbed(theirs)}, tolerances)
        assert name in verdict.problem


@pytest.mark.parametrize("kind", smallest_of_each_kind() or [NONE])
def test_a_file_with_one_perturbed_output_fails(kind: str, tmp_path: Path) -> None:
    source = smallest_of_each_kind()[kind]
    expected = read_case(source).expected
    name = sorted(expected)[-1]
    path = copy_with(source, tmp_path / source.name, {f"out/{name}": perturbed(expected[name])})
    assert run.run_file(path, kind).status == "FAIL"


@pytest.mark.parametrize("change", ["dtype", "shape", "NaN", "unknown output"])
@pytest.mark.parametrize("kind", ["resshift/chop"] if "resshift/chop" in smallest_of_each_kind() else [NONE])
def test_a_file_that_cannot_be_compared_fails(kind: str, change: str, tmp_path: Path) -> None:
    source = smallest_of_each_kind()[kind]
    y = read_case(source).expected["y"]
    changes = {
        "dtype": {"out/y": y.double()},
        "shape": {"out/y": y[..., 1:].contiguous()},
        "NaN": {"out/y": y.index_fill(-1, torch.tensor([0]), float("nan"))},
        "unknown output": {"out/z": y},
    }
    path = copy_with(source, tmp_path / source.name, changes[change])
    assert run.run_file(path, kind).status == "FAIL"


@pytest.mark.parametrize("kind", ["resshift/diffusion"] if "resshift/diffusion" in smallest_of_each_kind() else [NONE])
def test_arguments_at_the_references_default_may_be_missing(kind: str) -> None:
    handler, tolerances = run.KINDS[kind]
    defaults = run.diffusion.DIFFUSION_DEFAULTS
    cases = [read_case(path) for path in FILES if run.kind_of(path) == kind]
    missing: set[str] = set()
    for case in cases:
        config = {name: value for name, value in case.config.items() if defaults.get(name, "none") != value}
        missing |= case.config.keys() - config.keys()
        assert not judge(handler(replace(case, config=config)), case.expected, tolerances).problem
    assert {"sf", "weighted_mse", "predict_type", "timestep_respacing", "latent_flag"} <= missing


@pytest.mark.parametrize(
    "kind", ["resshift/sinsr_distill"] if "resshift/sinsr_distill" in smallest_of_each_kind() else [NONE]
)
def test_loss_options_that_are_off_are_accepted_and_those_that_do_not_exist_refused(kind: str) -> None:
    case, (handler, tolerances) = read_case(smallest_of_each_kind()[kind]), run.KINDS[kind]
    off = case.config["loss_args"] | {"distill_ddpm": False, "xT_cov_loss": 0, "uncertainty_num_aux": 2}
    outputs = handler(replace(case, config=case.config | {"loss_args": off}))
    assert not judge(outputs, case.expected, tolerances).problem
    with pytest.raises(ValueError, match="loss_args has distill_ddpm"):
        handler(replace(case, config=case.config | {"loss_args": off | {"distill_ddpm": True}}))


# --- the runner on files made here -------------------------------------------------------------------------------


def identity(case: Case) -> dict[str, Tensor]:
    """Return the inputs as the outputs."""
    return dict(case.inputs)


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict]:
    """A runner that knows one kind, test/identity, besides its own."""
    monkeypatch.setitem(run.KINDS, "test/identity", (identity, run.FORWARD))
    yield run.KINDS


def vector_file(path: Path, ours: dict[str, Tensor], theirs: dict[str, Tensor], kind: str = "test/identity") -> Path:
    tensors = {f"in/{k}": v for k, v in ours.items()} | {f"out/{k}": v for k, v in theirs.items()}
    tensors = {k: v.clone() for k, v in tensors.items()}  # safetensors refuses shared memory
    save_file(tensors, path, metadata={"kind": kind, "config": "{}"})
    return path


def test_one_line_a_case_and_the_counts_last(kinds: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.ones(3)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    good = vector_file(tmp_path / "deep" / "er" / "good.safetensors", {"x": x, "y": x}, {"x": x, "y": x})
    bad = vector_file(tmp_path / "bad.safetensors", {"x": x}, {"x": x + 1})
    vector_file(tmp_path / "weights.safetensors", {}, {"x": x}, kind=run.PARTS)
    assert run.main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"FAIL test/identity {bad} 5.00e-01 1e-04 1/1 x: error")
    assert lines[1] == f"PASS test/identity {good} 0.00e+00 1e-04 2/2"
    assert lines[2:] == ["1 passed, 1 failed, 0 skipped"]


def test_everything_passed_exits_with_0(kinds: dict, tmp_path: Path) -> None:
    path = vector_file(tmp_path / "a.safetensors", {"x": torch.ones(3)}, {"x": torch.ones(3)})
    assert run.main([str(path)]) == 0


def test_a_damaged_file_fails_and_the_others_run(
    kinds: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = vector_file(tmp_path / "a.safetensors", {"x": torch.ones(99)}, {"x": torch.ones(99)})
    (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:300])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    save_file({"out/x": torch.ones(1)}, tmp_path / "no_kind.safetensors")
    assert run.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 3 failed, 0 skipped"


@pytest.mark.parametrize("kind", ["resshift/unknown", "seesr/unknown", "unknown/unet", "unknown"])
def test_an_unknown_kind_fails(kind: str, tmp_path: Path) -> None:
    path = vector_file(tmp_path / "a.safetensors", {}, {"x": torch.ones(1)}, kind=kind)
    result = run.run_file(path, kind)
    assert result.status == "FAIL"
    assert "unknown" in result.reason


def test_an_exception_in_a_handler_fails_in_one_line(kinds: dict, tmp_path: Path) -> None:
    def broken(case: Case) -> dict[str, Tensor]:
        raise RuntimeError("first\nsecond")

    kinds["test/identity"] = (broken, run.FORWARD)
    path = vector_file(tmp_path / "a.safetensors", {}, {"x": torch.ones(1)})
    assert run.run_file(path, "test/identity").line().endswith("RuntimeError: first second")


def test_nothing_to_run_exits_with_2_and_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifest_x.json").write_text("{}")
    assert run.main([str(tmp_path)]) == 2
    assert run.main([str(tmp_path / "missing")]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert len(err.splitlines()) == 2


def test_kinds_are_chosen_by_pattern(kinds: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector_file(tmp_path / "a.safetensors", {"x": torch.ones(1)}, {"x": torch.ones(1)})
    vector_file(tmp_path / "b.safetensors", {}, {"x": torch.ones(1)}, kind="resshift/chop")
    assert run.main([str(tmp_path), "--kind", "test/*"]) == 0
    assert capsys.readouterr().out.endswith("1 passed, 0 failed, 0 skipped\n")
    assert run.main([str(tmp_path), "--kind", "other/*"]) == 2


def test_json_holds_the_same_results(kinds: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = vector_file(tmp_path / "a.safetensors", {"x": torch.ones(1)}, {"x": torch.full((1,), float("nan"))})
    report = tmp_path / "report.json"
    assert run.main([str(path), "--json", str(report)]) == 1
    capsys.readouterr()
    for arguments in ([str(path), "--json"], ["--json", str(path)], ["--json", "-", str(path)]):
        assert run.main(arguments) == 1
        assert json.loads(capsys.readouterr().out) == json.loads(report.read_text())
    written = json.loads(report.read_text())
    assert written["failed"] == 1
    assert written["cases"][0]["status"] == "FAIL"
    assert written["cases"][0]["error"] is None


def test_the_script_runs_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"nothing")
    done = subprocess.run(
        [sys.executable, HERE / "run.py", "."], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed, 0 skipped"


def test_weights_are_float32_whatever_they_were_stored_as(tmp_path: Path) -> None:
    tensors = {
        "state/half": torch.tensor([0.5], dtype=torch.float16),
        "state/eighth": torch.tensor([0.5]).to(torch.float8_e4m3fn),
        "state/index": torch.tensor([3]),
        "out/x": torch.tensor([1.0], dtype=torch.float64),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"kind": "a/b", "config": '{"n": 2}'})
    case = read_case(tmp_path / "a.safetensors")
    assert case.config == {"n": 2}
    assert {name: x.dtype for name, x in case.state.items()} == {
        "half": torch.float32,
        "eighth": torch.float32,
        "index": torch.int64,
    }
    assert case.state["eighth"].item() == 0.5
    assert case.expected["x"].dtype == torch.float64


# --- the rules of comparison -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "error", "relative", "agrees"),
    [
        (torch.tensor([0.01, 10.0]), 0.9e-3, False, True),  # 1e-4 of the largest value
        (torch.tensor([0.01, 10.0]), 1.1e-3, False, False),
        (torch.tensor([0.01, 0.1]), 0.9e-4, False, True),  # never less than 1e-4 of one
        (torch.tensor([0.01, 0.1]), 0.9e-4, True, False),
        (torch.tensor([0.01, 0.1]), 0.9e-5, True, True),
        (torch.tensor([0.0, 2e-9]), 0.9e-9, True, True),  # rounding noise in place of a zero
        (torch.tensor([0.5, 1.0], dtype=torch.float64), 0.9e-12, False, True),
        (torch.tensor([0.5, 1.0], dtype=torch.float64), 1.1e-12, False, False),
    ],
)
def test_floats_agree_within_the_tolerance(theirs: Tensor, error: float, relative: bool, agrees: bool) -> None:
    ours = theirs.clone()
    ours[0] += error
    assert (compare("x", ours, theirs, Tolerance(1e-4, relative)).excess <= 1) is agrees


@pytest.mark.parametrize(
    ("levels", "values", "agrees"), [(1, 2, True), (1, 3, False), (1.1, 1, False), (0.02, 999, True)]
)
def test_rounded_images_agree_but_for_a_share_that_is_one_level_off(levels: float, values: int, agrees: bool) -> None:
    theirs = torch.linspace(0, 1, 1000)
    ours = theirs.clone()
    ours[:values] += levels / 255
    assert (compare("x", ours, theirs, Tolerance(1e-4, share=0.002)).excess <= 1) is agrees
    assert (compare("x", ours, theirs, Tolerance(1e-4)).excess <= 1) is (levels < 1)


def test_integers_agree_exactly() -> None:
    theirs = torch.tensor([2**62, 5])
    assert compare("x", theirs.clone(), theirs, Tolerance(9.0)).excess == 0
    assert compare("x", theirs + torch.tensor([1, 0]), theirs, Tolerance(9.0)).excess == float("inf")


@pytest.mark.parametrize(("levels", "values", "agrees"), [(1, 9, True), (1, 10, False), (2, 1, False)])
def test_bytes_agree_within_one_level_in_less_than_a_hundredth(levels: int, values: int, agrees: bool) -> None:
    theirs = torch.full((1000,), 255, dtype=torch.uint8)
    ours = theirs.clone()
    ours[:values] -= levels
    assert (compare("x", ours, theirs, Tolerance(9.0)).excess <= 1) is agrees


def test_only_equal_infinities_agree() -> None:
    infinite, large = torch.tensor([float("inf"), 1.0]), torch.tensor([1e30, 1.0])
    assert compare("x", infinite, infinite, Tolerance(1e-4)).excess == 0
    assert compare("x", large, infinite, Tolerance(1e-4)).excess > 1
    assert compare("x", infinite, large, Tolerance(1e-4)).excess > 1


def test_names_must_be_the_same_on_both_sides() -> None:
    x, tolerances = torch.ones(2), {"*": Tolerance(1e-4)}
    assert judge({"a": x}, {"a": x}, tolerances).problem == ""
    assert judge({"a": x}, {"a": x, "b": x}, tolerances).problem == "b: not computed"
    assert judge({"a": x, "b": x}, {"a": x}, tolerances).problem == "b: computed but not in the file"


def test_a_tensor_is_left_out_only_with_a_reason_and_never_all_of_them() -> None:
    x, tolerances = torch.ones(2), {"*": Tolerance(1e-4)}
    verdict = judge({"a": x, "b": NotCompared("needs a GPU")}, {"a": x, "b": x}, tolerances)
    assert (verdict.problem, verdict.compared, verdict.total) == ("", 1, 2)
    assert verdict.left_out == {"b": "needs a GPU"}
    assert judge({"b": NotCompared("needs a GPU")}, {"b": x}, tolerances).problem == "nothing was compared"


def test_the_tightest_comparison_is_the_one_reported() -> None:
    x = torch.zeros(1)
    tolerances = {"term/*": Tolerance(1e-3), "*": Tolerance(1e-1)}
    verdict = judge({"term/loss": x + 5e-4, "image": x + 1e-2}, {"term/loss": x, "image": x}, tolerances)
    assert verdict.limit == 1e-3
    assert verdict.error == pytest.approx(5e-4)
