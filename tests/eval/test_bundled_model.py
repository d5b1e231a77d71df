"""The measurement of the bundled model's promises: judging, keeping figures, and the command on two tiny images."""

import json
import math

import pytest
import torch

from resdiff.eval import bundled_model
from resdiff.eval.harness.testsets import open_testsets
from resdiff.eval.promises import detail, dial, part, photos, words
from resdiff.eval.promises.part import Work, measured
from resdiff.eval.promises.pictures import Enlarger, Place, enlarged_bicubic
from resdiff.eval.promises.promise import at_least, at_most, summary, table

from .worded import worded_pipeline, write_pairs


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    """A saved pipeline with random weights, which has heard of "sharp" and of no other word."""
    folder = tmp_path_factory.mktemp("model")
    worded_pipeline("sharp").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return str(write_pairs(tmp_path_factory.mktemp("sets") / "tiny"))


def places(data: str) -> list[Place]:
    return [Place(testset.name, sample) for testset in open_testsets([data], 4) for sample in testset.samples]


def count_calls(monkeypatch) -> list[str | None]:
    """Return a list that grows by the prompt of every call of the model."""
    called: list[str | None] = []
    call = Enlarger.__call__

    def counted(self, lr, *, steps=None, prompt=None, fidelity=None):
        called.append(prompt)
        return call(self, lr, steps=steps, prompt=prompt, fidelity=fidelity)

    monkeypatch.setattr(Enlarger, "__call__", counted)
    return called


def test_the_command_measures_every_part_and_goes_on_where_it_was_stopped(
    model, data, tmp_path, capsys, monkeypatch
) -> None:
    out = tmp_path / "run"
    arguments = ["--data", data, "--real", f"{data}/LRx4", "--out", str(out), "--model", model, "--num_workers", "1"]
    arguments += ["--parts", "detail", "dial", "words", "photos", "real"]
    bundled_model.main(bundled_model.parse_args([*arguments, "--limit", "1"]))
    assert set(json.loads((out / "dial.json").read_text())["images"]) == {"tiny/a"}
    bundled_model.main(bundled_model.parse_args(arguments))
    document = json.loads((out / "promises.json").read_text())
    rows = {(name, row["name"]): row for name, part in document["promises"].items() for row in part}
    assert {name for name, _ in rows} == {"detail", "dial", "words", "photos", "real"}
    assert rows["detail", "mean colour shift, 1/255"]["met"] in (True, False)
    assert all(row["met"] for (name, title), row in rows.items() if "largest difference" in title)
    tables = (out / "promises.md").read_text()
    assert "FAIL" in tables and "| NIQE of four steps |" in tables
    capsys.readouterr()

    called = count_calls(monkeypatch)
    before = (out / "promises.json").read_text()
    bundled_model.main(bundled_model.parse_args(arguments))
    assert called == []
    assert (out / "promises.json").read_text() == before
    assert "promises hold" in capsys.readouterr().out.splitlines()[-1]


def test_figures_of_another_model_are_not_taken_for_this_one(model, data, tmp_path) -> None:
    record = tmp_path / "dial.json"
    measured(bundled_model.part_called("dial", "cpu"), places(data)[:1], Work(model), record)
    with pytest.raises(ValueError, match="another model or seed"):
        measured(bundled_model.part_called("dial", "cpu"), places(data)[:1], Work(model, seed=1), record)


def test_prompts_of_one_meaning_are_made_once(model, data, monkeypatch) -> None:
    called = count_calls(monkeypatch)
    (figures,) = measured(bundled_model.part_called("words", "cpu"), places(data)[:1], Work(model))["tiny"]
    assert called == ["", "sharp fur", ""]  # "very sharp" and "sharp <noun>" mean the same; the last is of one step
    assert figures["sharpness soft fur"] == figures["sharpness "] != figures["sharpness sharp fur"]
    assert figures["psnr with words"] == figures["psnr without words"]


def test_the_ends_of_the_dial_are_the_chain_and_one_step(model, data) -> None:
    (figures,) = measured(bundled_model.part_called("dial", "cpu"), places(data)[:1], Work(model))["tiny"]
    assert figures["difference 0"] == figures["difference 1"] == 0
    assert figures["psnr 0"] != figures["psnr 0.5"] != figures["psnr 1"]


def test_a_set_without_hr_is_refused_by_name(model, data) -> None:
    with pytest.raises(ValueError, match="--real"):
        bundled_model.promises_of("dial", open_testsets([f"{data}/LRx4"], 4), Work(model), limit=1)


def test_a_bound_is_met_at_its_value_and_never_by_an_undefined_figure() -> None:
    assert at_least("a", "", 2.5, 2.5).met and not at_least("a", "", 2.49, 2.5).met
    assert at_most("a", "", 2.5, 2.5).met and not at_most("a", "", 2.51, 2.5).met
    undefined = at_most("a", "x", math.nan, 1)
    assert undefined.met is False and undefined.document()["measured"] is None
    assert table([undefined]).splitlines()[-1] == "| a | x | n/a | <= 1 | FAIL |"
    assert summary([undefined, at_least("b", "x", 1, 0)]) == "1 of 2 promises hold; FAIL: a (x)"


def detail_figures(**changed: float) -> dict[str, float]:
    """One image that keeps every promise of the detail."""
    figures = {"psnr bicubic": 26.0, "psnr one": 28.0, "psnr four": 27.5, "color shift four": 0.1}
    figures |= {"sharpness bicubic": 3.0, "sharpness one": 7.0, "sharpness four": 10.0, "sharpness hr": 10.0}
    figures |= {"flat noise one": 0.5, "flat noise four": 1.1, "flat noise hr": 1.0}
    figures |= {"grid four": 0.6, "correlation one": 0.5, "correlation four": 0.48}
    figures |= {"niqe bicubic": 7.5, "niqe one": 6.0, "niqe four": 4.0, "niqe hr": 3.8}
    figures |= {f"niqe unsharp {sigma:g} {amount:g}": 5.0 + amount / 10 for sigma, amount in detail.UNSHARP}
    return figures | changed


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, []),
        ({"psnr one": 27.8, "psnr four": 27.3}, ["PSNR-Y of one step, dB"]),
        ({"psnr four": 27.3}, ["PSNR-Y lost by four steps, dB"]),
        ({"sharpness bicubic": 4.1}, ["sharpness over bicubic's"]),
        ({"sharpness hr": 9.5}, ["sharpness over HR's"]),
        ({"flat noise four": 1.3}, ["flat noise over HR's"]),
        ({"grid four": 1.1}, ["power at 4 px and its harmonics over HR's"]),
        ({"correlation four": 0.45}, ["correlation with HR - bicubic, over one step's"]),
        ({"niqe bicubic": 5.9}, ["NIQE less bicubic's"]),
        ({"niqe unsharp 1.5 2": 4.6}, ["NIQE less the best unsharp mask's"]),
        ({"niqe hr": 4.4}, ["NIQE less HR's"]),
        ({"color shift four": 0.6}, ["mean colour shift, 1/255"]),
    ],
)
def test_each_fault_of_the_detail_fails_one_promise(changed, failed) -> None:
    found = detail.promises({"set14": [detail_figures(**changed)]}, "cpu")
    assert [p.name for p in found if p.met is False] == failed


def test_set5_is_judged_by_psnr_alone() -> None:
    found = detail.promises({"set5": [detail_figures(**{"psnr one": 31.4, "psnr four": 31.0})]}, "gpu")
    judged = {p.name: p.met for p in found if p.met is not None}
    assert judged == {"PSNR-Y of one step, dB": False, "PSNR-Y lost by four steps, dB": True}


def test_an_image_without_flat_pixels_is_left_out_of_the_ratio_of_flat_noise() -> None:
    rough = {name: value for name, value in detail_figures().items() if not name.startswith("flat noise")}
    found = {p.name: p for p in detail.promises({"bsd100": [detail_figures(), rough]}, "cpu")}
    assert found["flat noise over HR's"].measured == pytest.approx(1.1)
    assert found["flat noise over HR's"].remark == "(1 images)"


def test_the_dial_must_rise_and_fall_on_means() -> None:
    psnr = (27.0, 27.5, 27.8, 28.0, 28.1)
    sharp = (10.0, 9.0, 8.5, 8.0, 7.9)
    figures = {f"psnr {f:g}": p for f, p in zip(dial.FIDELITIES, psnr, strict=True)}
    figures |= {f"sharpness {f:g}": s for f, s in zip(dial.FIDELITIES, sharp, strict=True)}
    figures |= {"difference 0": 0.0, "difference 1": 0.0}
    assert [p.met for p in dial.promises({"set14": [figures]})] == [True] * 4
    assert [p.met for p in dial.promises({"set14": [figures | {"psnr 1": 27.9}]})] == [False, True, True, True]
    assert [p.met for p in dial.promises({"set14": [figures | {"sharpness 0.5": 9.0}]})] == [True, False, True, True]
    assert [p.met for p in dial.promises({"set14": [figures | {"difference 0": 1.0}]})] == [True, True, False, True]


def words_figures(**changed: float) -> dict[str, float]:
    """One image on which every word does what it says."""
    figures = {"sharpness ": 10.0, "sharpness sharp": 12.0, "sharpness very sharp": 13.0, "sharpness not sharp": 9.0}
    for noun in ("fur", *words.DRAWN):
        figures |= {f"sharpness sharp {noun}": 12.0, f"sharpness soft {noun}": 8.0}
    figures |= {"grain ": 1.0, "grain grainy photo": 1.5, "grain clean photo": 0.8}
    figures |= {"grid sharp fur": 0.9}
    return figures | {"psnr with words": 28.0, "psnr without words": 28.0, "towards hr sharp": 0.3} | changed


@pytest.mark.parametrize(
    ("changed", "failed"),
    [
        ({}, []),
        ({"sharpness sharp fur": 10.9}, [0, 3]),
        ({f"sharpness soft {words.DRAWN[3]}": 9.2}, [2]),
        ({f"sharpness sharp {words.DRAWN[4]}": 12.3}, [3]),
        ({"grain clean photo": 0.95}, [1]),
        ({"sharpness not sharp": 10.1}, [4]),
        ({"sharpness very sharp": 11.9}, [5]),
        ({"grid sharp fur": 2.9}, [6]),
        ({"psnr with words": 27.9}, [7]),
    ],
)
def test_each_fault_of_the_words_fails_its_promise(changed, failed) -> None:
    images = [words_figures() for _ in range(18)] + [words_figures(**changed)] * 2  # 90 % are right
    if "psnr with words" in changed:
        images = [words_figures(**changed)]
    found = words.promises({"set5": [words_figures(**{"sharpness ": 99.0})], "bsd100": images})
    assert [i for i, p in enumerate(found) if p.met is False] == failed
    assert [p.met is None for p in found] == [False] * 8 + [True] * 3


def test_jpeg_and_noise_are_judged_against_bicubic_of_the_same_input() -> None:
    figures = {
        f"{figure} {name} {by}": 1.0
        for figure in photos.FIGURES
        for name in photos.INPUTS
        for by in ("bicubic", *photos.STEPS)
    }
    found = photos.promises({"set14": [figures | {"blocking jpeg four steps": 1.2}]})
    assert [p.name for p in found if not p.met] == ["JPEG 30, four steps: blocking"]
    assert len(found) == 8


def test_noise_depends_on_the_image_alone_and_jpeg_changes_it() -> None:
    lr = torch.randint(60, 200, (3, 40, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(photos.noisy(lr), photos.noisy(lr.clone()))
    assert (photos.noisy(lr).double() - lr).std() == pytest.approx(10, rel=0.03)
    assert photos.compressed(lr).shape == lr.shape and not torch.equal(photos.compressed(lr), lr)
    assert photos.compressed(lr[:1]).shape == (1, 40, 48)


def test_bicubic_of_a_constant_is_constant() -> None:
    up = enlarged_bicubic(torch.full((1, 5, 6), 77, dtype=torch.uint8))
    assert up.shape == (1, 20, 24) and up.unique().tolist() == [77]


def test_means_and_shares_of_nothing_are_undefined() -> None:
    assert math.isnan(part.mean([{"a": 1.0}], "b")) and math.isnan(part.share([]))
    assert math.isnan(part.geometric_mean([{"a": 1.0}], "b"))
    assert part.mean([{"a": 1.0}, {}, {"a": 3.0}], "a") == 2
    assert part.geometric_mean([{"a": 0.5}, {"a": 8.0}], "a") == pytest.approx(2)
    assert part.share([True, False]) == 0.5
