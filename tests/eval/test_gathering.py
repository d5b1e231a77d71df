"""From a finished run to its document, tables and page: a real run on tiny images."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.eval.benchmark import main, parse_args
from resdiff.eval.harness.cells import gaps, tables
from resdiff.eval.harness.document import Document, read_document, write_document
from resdiff.eval.harness.gathering import compare, make_document
from resdiff.eval.harness.planning import make_plan
from resdiff.eval.harness.statistics import mean_interval, paired
from resdiff.eval.report import write_report
from resdiff.resize import matlab_legacy


def command(root: Path, out: Path) -> list[str]:
    """A run of bicubic and of a tool that returns HR, on pairs, on LR alone, and on HR that is degraded."""
    data = [str(root / "pairs"), f"{root / 'pairs' / 'LRx4'} name=photos"]
    data.append(f"{root / 'pairs' / 'HR'} degradation=bicubic-matlab seed=3 name=made")
    words = ["--model", "bicubic", "--results", f"perfect={root / 'pairs' / 'HR'}", "--baseline", "perfect"]
    words += [word for one in data for word in ("--data", one)]
    return [*words, "--metrics", "psnr_y,niqe,sharpness,fid", "--skip_missing", "--device", "cpu", "--out", str(out)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Document]:
    """The folder of a finished run, and the document that the benchmark returned."""
    root = tmp_path_factory.mktemp("gathering")
    rng = np.random.default_rng(0)
    for name in ("1", "2", "3"):
        hr = (np.cumsum(rng.integers(-9, 10, (64, 80, 3)), axis=0) + 128).clip(0, 255).astype(np.uint8)
        for folder, image in (("HR", hr), ("LRx4", matlab_legacy(hr, 0.25))):
            (root / "pairs" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / "pairs" / folder / f"{name}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESDIFF_CACHE", str(root / "cache"))
        patch.setenv("TORCH_HOME", str(root / "torch"))
        patch.setenv("RESDIFF_OFFLINE", "1")
        document = main(parse_args(command(root, root / "out")))
        assert document is not None
        yield root / "out", document


def test_the_document_is_read_as_it_was_written(run):
    folder, document = run
    assert read_document(folder) == document


def test_every_entry_is_needed_to_read_it(run, tmp_path):
    _, document = run
    write_document(document, tmp_path)
    text = (tmp_path / "benchmark.json").read_text()
    for entry in ("needs_hr", "preset", "smallest", "of_set", "peak_mib", "difference"):
        (tmp_path / "benchmark.json").write_text(text.replace(f'"{entry}"', '"other"'))
        with pytest.raises(ValueError, match=f"of resdiff {document.resdiff}, has no entry '{entry}'"):
            read_document(tmp_path)


def test_means_cost_and_comparisons_are_those_of_the_images(run):
    _, document = run
    images = document.images_of("made")
    values = [image.models["bicubic"].figures["psnr_y"] for image in images]
    result = document.result_of["made", "bicubic"]
    mean = result.figures["psnr_y"]
    assert (mean.mean, mean.low, mean.high) == mean_interval(values) and mean.n == 3
    seconds = [image.models["bicubic"].seconds for image in images]
    assert result.seconds == np.median(seconds)
    assert result.seconds_per_megapixel == pytest.approx(sum(seconds) / (3 * 64 * 80) * 1e6)
    sharpness = {m: [image.models[m].figures["sharpness"] for image in images] for m in ("bicubic", "perfect")}
    (comparison,) = [c for c in document.comparisons if (c.set, c.figure) == ("made", "sharpness")]
    expected = paired(sharpness["bicubic"], sharpness["perfect"])
    assert (comparison.model, comparison.baseline) == ("bicubic", "perfect")
    assert (comparison.difference, comparison.p, comparison.n) == (expected.difference, expected.p, 3)
    assert not [c for c in document.comparisons if c.figure == "psnr_y"]  # of identical images there is none


def test_sets_and_models_say_what_they_depend_on(run):
    folder, document = run
    pairs, photos, made = document.sets
    assert pairs.has_hr and not photos.has_hr and pairs.preset is None
    assert made.degradation == "bicubic-matlab" and made.seed == 3 and made.preset.startswith("_class_name: ")
    assert [m.kind for m in document.models] == ["bicubic", "results"] and document.models[1].weights == {}
    image = document.images_of("made")[0]
    assert image.lr.startswith("made/.lr") and (folder / image.lr).is_file() and Path(image.hr).is_absolute()
    assert (image.height, image.width) == (64, 80)
    assert image.models["bicubic"].file == "made/bicubic/1.png"


def test_a_figure_of_sets_is_computed_from_the_features_of_its_images(run, monkeypatch):
    folder, _ = run
    plan = make_plan(parse_args(command(folder.parent, folder)), torch.device("cpu"))
    fid = plan.suite.columns["fid"]
    plan.suite.columns["fid"] = replace(fid, missing=None)
    monkeypatch.setattr(
        "resdiff.eval.harness.gathering.embedded", lambda _, path: torch.tensor([float(path.stem), 1.0])
    )
    monkeypatch.setattr(plan.suite, "measure_set", lambda sr, hr: {"fid": (sr + hr).sum().item()})
    document = make_document(plan, settings={}, records={m.name: {} for m in plan.models}, profile=[])
    of_pairs = document.result_of["pairs", "bicubic"].figures["fid"]
    assert (of_pairs.mean, of_pairs.low, of_pairs.n) == (2 * (1 + 2 + 3 + 3), None, 3)
    assert document.result_of["photos", "bicubic"].figures["fid"].mean is None


def test_every_gap_of_the_run_has_its_reason(run):
    _, document = run
    found = gaps(tables(document), document.figures)
    assert found.pop("no HR") == ["PSNR-Y"]
    assert found.pop("identical to HR") == ["PSNR-Y"]
    assert found.pop("needs images of at least 96x192 px") == ["NIQE"]
    ((reason, labels),) = found.items()
    assert labels == ["FID"] and "pt_inception-2015-12-05-6726825d.pth" in reason


def test_the_page_of_the_run_shows_its_numbers(run, tmp_path):
    folder, document = run
    page = write_report(folder, tmp_path / "page.html").read_text()
    for name in ("pairs", "made"):
        assert f"{document.result_of[name, 'bicubic'].figures['psnr_y'].mean:.2f}</span>" in page
    assert page.count("pt_inception-2015-12-05-6726825d.pth (") == 1
    assert page == (folder / "report.html").read_text()


def test_a_page_needs_no_figure_that_this_version_knows(run, tmp_path):
    folder, _ = run
    text = (folder / "benchmark.json").read_text().replace('"sharpness"', '"crispness"')
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "benchmark.json").write_text(text)
    assert 'data-y="crispness"' in write_report(tmp_path / "run").read_text()


def test_a_run_that_is_not_finished_has_no_document(run, tmp_path):
    folder, _ = run
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out" / "pairs" / "bicubic" / "2.json").unlink()
    plan = make_plan(parse_args(command(folder.parent, tmp_path / "out")), torch.device("cpu"))
    with pytest.raises(ValueError, match="pairs/2, bicubic is not finished; start the same command again"):
        make_document(plan, settings={}, records={}, profile=[])


def test_images_that_lack_one_value_are_not_compared(run):
    _, document = run
    images = document.images_of("photos")
    assert compare(images, ["bicubic", "perfect"], "bicubic", ["psnr_y"]) == []
