"""The benchmark of the metrics: what it compares and how it judges; never how fast anything is."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resdiff.eval import bench_metrics
from resdiff.eval.bench_metrics import (
    Contest,
    Times,
    compare,
    contests,
    image_pair,
    main,
    parse_args,
    row,
    save_random_clip,
    take_turns,
)
from resdiff.metrics.clip_iqa import clip_iqa, load_clip_iqa


def values(*numbers: float):
    return lambda: torch.tensor(numbers)


CONTEST = Contest("psnr_y", 0.9, values(30.0), lambda: values(30.0))


def test_rates_are_those_of_the_median_call() -> None:
    times = Times(ours=[0.1, 9.0, 0.2], theirs=[0.4, 0.4, 0.4], quoted=[1.0])
    line, passed = row(CONTEST, 2, times, 30.0, 1e-6)
    assert line == "| psnr_y | 30.0000 | 10 | 5 | 2.00x | 0.9x | 1.0e-06 | 2 | PASS |" and passed


@pytest.mark.parametrize(
    ("difference", "theirs", "verdict"),
    [
        (1e-5, 0.91, "PASS"),
        (1.1e-5, 0.91, "FAIL: values"),
        (0.0, 0.8, "FAIL: speed"),
        (1.0, 0.8, "FAIL: values, speed"),
    ],
)
def test_a_row_passes_with_equal_values_and_at_its_bar(difference, theirs, verdict) -> None:
    line, passed = row(CONTEST, 1, Times(ours=[1.0], theirs=[theirs]), 30.0, difference)
    assert line.endswith(f"| {verdict} |") and passed == (verdict == "PASS")


def test_a_value_that_is_nan_fails() -> None:
    line, passed = compare(replace(CONTEST, ours=values(float("nan"))), 1, 1, with_pyiqa=True)
    assert "values" in line and not passed


def test_without_pyiqa_our_rate_is_shown_and_nothing_fails(capsys, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench_metrics, "contests", lambda *_: iter([replace(CONTEST, theirs=pytest.fail)]))
    assert main(parse_args(["--repeats", "1"])) == 0
    out = capsys.readouterr().out
    assert "pyiqa is not installed (pip install 'resdiff[pyiqa]'" in out
    assert "| psnr_y | 30.0000 |" in out and "not compared" in out
    assert "Skipped: niqe (pyiqa downloads" in out


def test_a_failing_row_makes_the_exit_status_one(capsys, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(bench_metrics, "contests", lambda *_: iter([replace(CONTEST, theirs=lambda: values(31.0))]))
    assert main(parse_args(["--repeats", "1"])) == 1
    assert "1.0e+00" in capsys.readouterr().out


def test_calls_take_turns() -> None:
    order = []

    def call(name: str):
        def run() -> torch.Tensor:
            order.append(name)
            bench_metrics.time.sleep(0.06)
            return torch.zeros(1)

        return run

    times = take_turns({"ours": call("ours"), "theirs": call("theirs")}, 2)
    assert order[-4:] == ["ours", "theirs", "theirs", "ours"]
    assert len(times.ours) == len(times.theirs) == 2 and min(times.ours) >= 0.06 and times.quoted == []


def test_the_images_are_comparable_8_bit_pairs() -> None:
    sr, hr = image_pair(64, 2)
    assert sr.shape == hr.shape == (2, 3, 64, 64) and sr.dtype == hr.dtype == torch.uint8
    mse = (sr.double() - hr.double()).square().mean()
    assert 26 < 10 * torch.log10(255**2 / mse) < 30


def test_every_metric_with_a_bar_is_measured(tmp_path: Path) -> None:
    found = {contest.name: contest.bar for contest in contests(64, 1, tmp_path)}
    assert found == {
        "psnr_y": 1.0,
        "psnr_rgb": 1.0,
        "ssim_y": 4.0,
        "ssim_rgb": 4.0,
        "lpips_alex": 0.9,
        "lpips_vgg": 0.9,
        "lpips_squeeze": 0.9,
        "dists": 0.9,
        "clip_iqa": 0.9,
        "clip_iqa, pyiqa's texts cached": 0.9,
    }


def test_the_random_network_tells_images_apart(tmp_path: Path) -> None:
    model = load_clip_iqa(weights=save_random_clip(tmp_path))
    sr, hr = image_pair(64, 1)
    scores = clip_iqa(model(torch.cat([sr, hr]) / 255))
    assert abs(float(scores[0] - scores[1])) > 1e-3
    assert ((scores > 0.01) & (scores < 0.99)).all()


@pytest.mark.parametrize("words", [["--size", "63"], ["--repeats", "0"], ["--threads", "0"], ["--batch", "0"]])
def test_numbers_that_make_no_sense_are_refused(words, capsys) -> None:
    with pytest.raises(SystemExit):
        parse_args(words)
    assert "or more" in capsys.readouterr().err
