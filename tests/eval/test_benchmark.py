"""The benchmark on tiny sets: what it writes, that it can be gone on with, shared, extended, and what it refuses."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.eval.benchmark import main, parse_args
from resdiff.eval.harness import running
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.metrics.trunks import ALEX
from resdiff.resize import bicubic, matlab_legacy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(tmp_path):
    """Two colour pairs and a grey one, x4, named like the published sets."""
    rng = np.random.default_rng(0)
    for name, shape in (("001", (64, 80, 3)), ("002", (72, 64, 3)), ("003", (64, 64))):
        hr = (np.cumsum(rng.integers(-9, 10, shape), axis=0) + 128).clip(0, 255).astype(np.uint8)
        for folder, image in (("HR", hr), ("LRx4", matlab_legacy(hr, 0.25))):
            (tmp_path / "tiny" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "tiny" / folder / f"{name}.png")
    return tmp_path / "tiny"


@pytest.fixture
def benchmark(tiny, tmp_path):
    """Run the benchmark on the tiny set with more arguments; returns the document."""

    def run(*arguments: str, metrics: str = "psnr_y,ssim_y", models=("bicubic",), data=None, out="out"):
        command = ["--metrics", metrics, "--out", str(tmp_path / out), "--device", "cpu", *arguments]
        for model in models:
            command += ["--model", model]
        for one in data or [str(tiny)]:
            command += ["--data", one]
        main(parse_args(command))
        return json.loads((tmp_path / out / "benchmark.json").read_text())

    return run


def tensor(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.atleast_3d(np.array(Image.open(path)))).movedim(-1, 0)[None]


def figures(document, name: str, testset: str | None = None) -> dict[tuple[str, str], float]:
    return {
        (image["name"], model): made["figures"][name]
        for image in document["images"]
        if testset in (None, image["set"])
        for model, made in image["models"].items()
    }


def test_bicubic_is_matlabs_in_floats_rounded_once_and_is_compared_on_rounded_luma(benchmark, tiny):
    document = benchmark()
    for image in document["images"]:
        lr, hr = tensor(tiny / "LRx4" / f"{image['name']}.png"), tensor(tiny / "HR" / f"{image['name']}.png")
        sr = (bicubic(lr.double(), tuple(hr.shape[-2:]), "matlab") + 0.5).floor().clamp(0, 255)
        made = image["models"]["bicubic"]["figures"]
        assert made["psnr_y"] == pytest.approx(psnr(sr, hr, 4).item(), abs=1e-9)
        assert made["ssim_y"] == pytest.approx(ssim(sr, hr, 4).item(), abs=1e-9)
    mean = np.mean([i["models"]["bicubic"]["figures"]["psnr_y"] for i in document["images"]])
    assert document["results"][0]["figures"]["psnr_y"]["mean"] == pytest.approx(mean, abs=1e-12)


def test_one_command_writes_images_json_csv_markdown_and_a_page(benchmark, tmp_path):
    document = benchmark(models=("bicubic", "resdiff-small num_inference_steps=1"))
    out = tmp_path / "out"
    assert json.loads((out / "benchmark.json").read_text()) == document
    assert Image.open(out / "tiny" / "resdiff-small-num_inference_steps-1" / "003.png").mode == "L"
    assert len((out / "images.csv").read_text().splitlines()) == 1 + 2 * 3
    assert "resdiff-small num_inference_steps=1" in (out / "benchmark.md").read_text()
    assert "</html>" in (out / "report.html").read_text()

    assert document["protocol"]["name"] == "classic-y" and document["protocol"]["version"] == 1
    assert document["settings"] | {"threads": 0} == {
        "scale": 4, "seed": 0, "dtype": "float32", "device": "cpu", "tile": "auto", "num_processes": 1, "threads": 0
    }  # fmt: skip
    assert document["figures"][0]["variant"] == "BT.601 Y rounded, crop 4"
    weights = {model["name"]: model["weights"] for model in document["models"]}
    assert len(weights["resdiff-small num_inference_steps=1"]["networks"]) == 16
    (comparison,) = [c for c in document["comparisons"] if c["figure"] == "psnr_y"]
    means = {r["model"]: r["figures"]["psnr_y"]["mean"] for r in document["results"]}
    other = means["resdiff-small num_inference_steps=1"] - means["bicubic"]
    assert comparison["baseline"] == "bicubic" and comparison["difference"] == pytest.approx(other)
    assert all(r["seconds"] > 0 and r["seconds_per_megapixel"] > 0 for r in document["results"])


def test_a_second_run_computes_nothing_and_says_the_same(benchmark, tmp_path, monkeypatch):
    first = benchmark()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "tiny").rglob("*.*")}
    monkeypatch.setattr(running, "measured", lambda *_: pytest.fail("an image was restored again"))
    second = benchmark()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "tiny").rglob("*.*")} == before
    assert {**first, "date": "", "command": ""} == {**second, "date": "", "command": ""}


def test_a_run_that_was_stopped_makes_only_what_is_missing(benchmark, tmp_path):
    first = benchmark()
    folder = tmp_path / "out" / "tiny" / "bicubic"
    kept = (folder / "001.png").stat().st_mtime_ns
    (folder / "002.png").unlink()  # lost altogether
    (folder / "003.json").unlink()  # killed between image and record
    second = benchmark()
    assert (folder / "001.png").stat().st_mtime_ns == kept and (folder / "002.png").is_file()
    assert figures(second, "psnr_y") == figures(first, "psnr_y")


def test_an_image_that_was_changed_is_made_again(benchmark, tmp_path):
    first = benchmark()
    Image.new("RGB", (80, 64)).save(tmp_path / "out" / "tiny" / "bicubic" / "001.png")
    assert figures(benchmark(), "psnr_y") == figures(first, "psnr_y")


def test_models_sets_and_metrics_may_be_added_to_a_run(benchmark, tiny, tmp_path):
    first = benchmark()
    more = [str(tiny), f"{tiny / 'LRx4'} name=alone"]
    second = benchmark("--skip_missing", metrics="psnr_y,sharpness,psnr_rgb", data=more)
    assert figures(second, "psnr_y", "tiny") == figures(first, "psnr_y")
    alone = next(r for r in second["results"] if r["set"] == "alone")
    assert alone["figures"]["psnr_y"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert alone["figures"]["sharpness"]["n"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "basicsr-y"], "protocol name was 'classic-y' .* is 'basicsr-y' now"),
        (["--seed", "3"], "seed was 0 .* is 3 now"),
        (["--dtype", "bfloat16"], "models resdiff-small dtype was 'float32'"),
    ],
)
def test_another_protocol_or_setting_into_the_same_folder_is_refused_and_nothing_changes(
    benchmark, tmp_path, arguments, message
):
    benchmark(models=("resdiff-small",))
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=message):
        benchmark(*arguments, models=("resdiff-small",))
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


def test_a_set_whose_files_changed_is_refused(benchmark, tiny):
    benchmark()
    Image.new("RGB", (20, 16), "red").save(tiny / "LRx4" / "001.png")
    with pytest.raises(ValueError, match="sets tiny digest was"):
        benchmark()


def test_two_processes_give_the_same_numbers_as_one_bit_for_bit(benchmark, tiny, tmp_path):
    models = ("bicubic", "resdiff-small num_inference_steps=2")
    one = benchmark(models=models, metrics="psnr_y,ssim_rgb,sharpness")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--standalone",
        "eval/benchmark.py",
    ]
    command += ["--data", str(tiny), "--metrics", "psnr_y,ssim_rgb,sharpness", "--out", str(tmp_path / "two")]
    command += [word for model in models for word in ("--model", model)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment = os.environ | threads | {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, [line for line in done.stderr.splitlines() if "rror:" in line]
    two = json.loads((tmp_path / "two" / "benchmark.json").read_text())
    assert two["settings"]["num_processes"] == 2
    for name in ("psnr_y", "ssim_rgb", "sharpness"):
        assert figures(two, name) == figures(one, name)
    for path in (tmp_path / "out" / "tiny").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "out")).read_bytes()


def test_results_of_another_tool_are_measured_where_they_lie(benchmark, tiny, tmp_path):
    own = benchmark()
    other = benchmark("--results", f"other={tmp_path / 'out' / 'tiny' / 'bicubic'}", models=(), out="again")
    assert [v for _, v in sorted(figures(other, "psnr_y").items())] == [
        v for _, v in sorted(figures(own, "psnr_y").items())
    ]
    assert other["models"][0]["kind"] == "results" and other["results"][0]["seconds"] is None
    assert not list((tmp_path / "again").rglob("*.png"))


def test_hr_images_may_be_degraded_by_a_preset(benchmark, tiny, tmp_path):
    document = benchmark(data=[f"{tiny / 'HR'} degradation=bicubic-matlab-legacy name=made"])
    assert len(document["images"]) == 3
    for image in document["images"]:
        assert image["lr"].startswith("made/.lr-")
        made, given = tensor(tmp_path / "out" / image["lr"]), tensor(tiny / "LRx4" / f"{image['name']}.png")
        assert torch.equal(made, given)
    assert "matlab_legacy" in document["sets"][0]["preset"]
    assert figures(document, "psnr_y") == figures(benchmark(out="given"), "psnr_y")


def test_weights_that_are_missing_are_an_error_or_a_column_without_numbers(benchmark, tmp_path, monkeypatch):
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(ValueError, match=r"alexnet-owt-7be5be79\.pth"):
        benchmark(metrics="psnr_y,lpips")
    assert not (tmp_path / "out").exists()
    document = benchmark("--skip_missing", metrics="psnr_y,lpips")
    assert document["results"][0]["figures"]["lpips"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert "alexnet-owt-7be5be79.pth" in document["figures"][1]["missing"]
    assert "n/a" in (tmp_path / "out" / "benchmark.md").read_text()


def save_random_alexnet(path: Path, seed: int) -> None:
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in ALEX.build(weights=None).features.state_dict().items()}
    random = torch.Generator().manual_seed(seed)
    torch.save(
        {f"features.{name}": 0.05 * torch.randn(shape, generator=random) for name, shape in shapes.items()}, path
    )


def test_weights_of_a_metric_belong_to_its_numbers(benchmark, tmp_path):
    file = tmp_path / "weights" / ALEX.weights.file
    file.parent.mkdir()
    save_random_alexnet(file, seed=0)
    first = benchmark("--weights_dir", str(file.parent), metrics="psnr_y,lpips")
    column = first["figures"][1]
    assert column["weights"] == {file.name: hashlib.sha256(file.read_bytes()).hexdigest()}
    assert all(0 < value < 10 for value in figures(first, "lpips").values())

    without = benchmark("--weights_dir", str(tmp_path), "--skip_missing", metrics="psnr_y,lpips")
    assert set(figures(without, "lpips").values()) == {None} and file.name in without["figures"][1]["missing"]
    assert without["results"][0]["figures"]["lpips"]["mean"] is None

    save_random_alexnet(file, seed=1)
    with pytest.raises(ValueError, match=r"figures lpips weights alexnet-owt-7be5be79\.pth was"):
        benchmark("--weights_dir", str(file.parent), metrics="psnr_y,lpips")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "psnr_y,niqe"}, r"niqe needs images of 96x192; 3 of tiny are smaller: 001 \(80x64\)"),
        ({"metrics": "psnry"}, "metric 'psnry' is unknown; did you mean 'psnr_y'"),
        ({"metrics": "psnr_y,psnr_y"}, "name each once"),
        ({"protocol": "clasic-y"}, "protocol 'clasic-y' is unknown; did you mean 'classic-y'"),
        ({"protocol": "stablesr-crop512"}, r"compares images of 512x512; 3 of tiny have another size: 001 \(80x64\)"),
        ({"models": ()}, "nothing to compare"),
        ({"models": ("bicubic", "bicubic")}, "would share the folder"),
        ({"models": ("bicubic stepz=3",)}, "has no setting 'stepz'"),
        ({"data": ["{tiny}/LRx4"]}, "psnr_y compares with HR, and tiny has none"),
        ({"data": ["{tiny}", "{tiny}"]}, "two sets are called 'tiny'"),
        ({"profile": "", "baseline": "bicubik"}, "'bicubik' is not among the models; did you mean 'bicubic'"),
        ({"results": "x"}, "is not NAME=DIR"),
        ({"results": "HR=."}, "'HR' is what the report calls"),
    ],
)
def test_what_cannot_be_meant_is_one_line_before_anything_is_written(benchmark, tiny, tmp_path, arguments, message):
    named = {key: value for key, value in arguments.items() if key in ("metrics", "models", "data")}
    if "data" in named:
        named["data"] = [one.format(tiny=tiny) for one in named["data"]]
    flags = [word for key, value in arguments.items() if key not in named for word in (f"--{key}", value) if word]
    with pytest.raises(ValueError, match=message) as caught:
        benchmark(*flags, **named)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_not_written_into(benchmark, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds other files"):
        benchmark()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_profile_measures_models_in_turns_and_gives_ratios_to_the_baseline(benchmark):
    model = "resdiff-small num_inference_steps=1"
    document = benchmark("--profile", "--repeats", "2", "--profile_images", "2", models=("bicubic", model))
    rows = {row["model"]: row for row in document["profile"]}
    assert rows["bicubic"]["ratio"] == 1 and rows[model]["ratio"] > 1
    assert all(r["repeats"] == 2 and r["images"] == 2 and r["baseline"] == "bicubic" for r in rows.values())
    assert rows[model]["median_seconds"] > rows["bicubic"]["median_seconds"] > 0
    assert rows[model]["peak_mib"] > 1  # its weights alone


def test_the_script_says_errors_in_one_line(tiny, tmp_path):
    command = [sys.executable, "eval/benchmark.py", "--model", "bicubic", "--data", str(tiny), "--metrics", "psnry"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.strip().splitlines()[-1].startswith("error: metric 'psnry' is unknown")
    assert "Traceback" not in done.stderr
