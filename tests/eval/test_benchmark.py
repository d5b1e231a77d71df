"""The benchmark on a tiny set: pairing, grey images, the bicubic row, the table and the files it writes."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import resdiff
from resdiff.eval import benchmark
from resdiff.eval.benchmark import BASELINE, evaluate_set, find_sets, main, measure, parse_args, upscale_bicubic
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.resize import bicubic, matlab_legacy


@pytest.fixture
def tiny_set(tmp_path):
    """Two colour pairs and a grey one, x4, named like the published sets."""
    rng = np.random.default_rng(0)
    for name, shape in (("001", (40, 48, 3)), ("002", (48, 44, 3)), ("003", (44, 40))):
        smooth = np.cumsum(rng.integers(-9, 10, shape), axis=0) + 128
        hr = smooth.clip(0, 255).astype(np.uint8)
        for folder, image in (("HR", hr), ("LRx4", matlab_legacy(hr, 0.25))):
            (tmp_path / "tiny" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / "tiny" / folder / f"{name}.png")
    return tmp_path / "tiny"


class NearestPipeline:
    """Stands in for a model: enlarges by repetition, brighter by a level for every step."""

    @classmethod
    def from_pretrained(cls, model):
        pipe = cls()
        pipe.model, pipe.calls = model, []
        cls.last = pipe
        return pipe

    def to(self, device, dtype):
        self.placed = (device, dtype)

    def set_progress_bar_config(self, disable):
        assert disable

    def __call__(self, image, num_inference_steps=None, generator=None, output_type="np"):
        assert output_type == "pil"
        self.calls.append((image.mode, num_inference_steps, generator.initial_seed()))
        pixels = np.array(image).repeat(4, 0).repeat(4, 1).astype(int) + (num_inference_steps or 0)
        return SimpleNamespace(images=[Image.fromarray(pixels.clip(0, 255).astype(np.uint8))])


@pytest.fixture
def nearest(monkeypatch):
    monkeypatch.setitem(vars(resdiff), "SRPipeline", NearestPipeline)
    return NearestPipeline


def test_a_perfect_restoration_scores_the_limits(tiny_set):
    originals = iter(sorted((tiny_set / "HR").iterdir()))
    rows = evaluate_set(lambda lr: Image.open(next(originals)), tiny_set / "HR", tiny_set / "LRx4")
    assert [row.name for row in rows] == ["001.png", "002.png", "003.png"]
    assert all(row.psnr_y == float("inf") and row.ssim_y == pytest.approx(1) for row in rows)


def test_bicubic_row_is_the_float_upsampling_rounded_once(tiny_set):
    rows = evaluate_set(upscale_bicubic, tiny_set / "HR", tiny_set / "LRx4")
    for row in rows:
        lr, hr = (np.atleast_3d(np.array(Image.open(tiny_set / d / row.name))) for d in ("LRx4", "HR"))
        lr, hr = (torch.from_numpy(x).permute(2, 0, 1)[None].float() for x in (lr, hr))
        sr = (bicubic(lr, tuple(hr.shape[-2:]), "pil") + 0.5).floor().clamp(0, 255)
        assert row.psnr_y == psnr(sr, hr, 4).item() and row.ssim_y == ssim(sr, hr, 4).item()
        assert 0 <= row.seconds < 10


def test_a_coloured_answer_to_a_grey_image_counts_by_its_channel_mean():
    hr = Image.new("L", (24, 20), 100)
    assert measure(Image.new("RGB", (24, 20), (90, 100, 140)), hr) == measure(Image.new("L", (24, 20), 110), hr)
    assert measure(Image.new("L", (24, 20), 110), hr)[0] == pytest.approx(20 * np.log10(255 / 10))


def test_an_answer_of_another_size_is_refused():
    with pytest.raises(ValueError, match="must enlarge by 4"):
        measure(Image.new("L", (24, 24)), Image.new("L", (24, 20)))


def test_a_folder_is_one_set_or_holds_several(tiny_set):
    assert find_sets(tiny_set, ["ignored"]) == {"tiny": tiny_set}
    assert find_sets(tiny_set.parent, ["tiny"]) == {"tiny": tiny_set}
    with pytest.raises(ValueError, match="has no HR and LRx4"):
        find_sets(tiny_set.parent, ["tiny", "set5"])


def test_pairs_must_match_by_name(tiny_set):
    (tiny_set / "LRx4" / "002.png").unlink()
    with pytest.raises(ValueError, match="same names"):
        evaluate_set(upscale_bicubic, tiny_set / "HR", tiny_set / "LRx4")


def test_main_prints_a_table_beside_bicubic_and_writes_images_and_figures(tiny_set, nearest, tmp_path, capsys):
    out, figures = tmp_path / "out", tmp_path / "deep" / "figures.json"
    command = f"--model runs/mine --data_dir {tiny_set} --num_inference_steps 1 4 --seed 7 --device cpu"
    results = main(parse_args([*command.split(), "--output_dir", str(out), "--json", str(figures)]))

    assert [result.method for result in results] == [BASELINE, "mine, 1 step", "mine, 4 steps"]
    assert nearest.last.model == "runs/mine" and nearest.last.placed == ("cpu", torch.float32)
    assert nearest.last.calls == [(mode, steps, 7) for steps in (1, 4) for mode in ("RGB", "RGB", "L")]

    base, one = results[0], results[1]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "### tiny" and lines[4].startswith(f"| {BASELINE} | {base.mean('psnr_y'):.2f} | - |")
    assert f"| {one.mean('psnr_y') - base.mean('psnr_y'):+.2f} |" in lines[5]
    assert f"| {one.mean('ssim_y') - base.mean('ssim_y'):+.4f} | 3 |" in lines[5]

    saved = Image.open(out / "tiny" / "mine_4_steps" / "003.png")
    assert saved.mode == "L" and saved.size == (40, 44)
    written = json.loads(figures.read_text())
    assert written[1]["method"] == "mine, 1 step" and written[1]["rows"][2]["psnr_y"] == one.rows[2].psnr_y


def test_without_options_the_bundled_model_runs_at_its_own_steps(tiny_set, nearest):
    results = main(parse_args(["--data_dir", str(tiny_set), "--device", "cpu", "--dtype", "bfloat16"]))
    assert nearest.last.model is None and nearest.last.placed == ("cpu", torch.bfloat16)
    assert [steps for _, steps, _ in nearest.last.calls] == [None, None, None]
    assert [result.method for result in results] == [BASELINE, "bundled model"]


def test_command_line_defaults_are_the_classic_sets(capsys):
    args = parse_args(["--data_dir", "sets"])
    assert tuple(args.sets) == benchmark.SETS == ("set5", "set14", "bsd100") and args.seed == 0
    with pytest.raises(SystemExit):
        parse_args(["--data_dir", "sets", "--num_inference_steps", "0"])
    assert "at least 1" in capsys.readouterr().err
