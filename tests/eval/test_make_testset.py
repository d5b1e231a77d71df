"""Degraded test sets: what is written, regenerated bit for bit, kept, refused, and checked."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.eval import make_testset as module
from resdiff.eval.harness.degrading import make_lr
from resdiff.eval.harness.images import read_image
from resdiff.eval.harness.testsets import open_testset
from resdiff.eval.make_testset import Settings, check, main, make_testset, parse_args, pixel_digest
from resdiff.resize import matlab_legacy

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RESDIFF_DATA", ROOT.parent / "shared" / "data"))
LEGACY = Settings(degradation="bicubic-matlab-legacy")


def pixels(height: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.cumsum(rng.integers(-9, 10, (height, width, 3)), axis=0) + 128).clip(0, 255).astype(np.uint8)


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(pixels(50, 43, 0)).save(folder / "a.png")
    Image.fromarray(pixels(40, 52, 1)).save(folder / "b.jpg")
    Image.fromarray(pixels(44, 48, 2)[..., 0]).save(folder / "c.bmp")
    return folder


def run(*arguments: object) -> int:
    return main(parse_args([str(a) for a in arguments]))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_hr_is_cropped_around_the_centre_and_lr_made_of_it(photos, tmp_path):
    manifest = make_testset(photos, LEGACY, tmp_path / "set")
    hr = read_image(tmp_path / "set" / "HR" / "a.png")
    assert torch.equal(hr.permute(1, 2, 0), torch.from_numpy(pixels(50, 43, 0)[1:49, 1:41]))
    lr = read_image(tmp_path / "set" / "LRx4" / "a.png")
    assert torch.equal(lr.permute(1, 2, 0), matlab_legacy(hr.permute(1, 2, 0), 0.25))
    assert Image.open(tmp_path / "set" / "LRx4" / "c.png").mode == "L"
    first = manifest["images"][0]
    assert (first["name"], first["source"], first["height"], first["width"]) == ("a", "a.png", 48, 40)
    assert first["hr_sha256"] == pixel_digest(hr) and first["lr_sha256"] == pixel_digest(lr)


def test_the_manifest_says_all_that_is_needed_to_make_the_set_again(photos, tmp_path):
    settings = Settings(degradation="resshift-test", seed=3, crop_size=32)
    assert make_testset(photos, settings, tmp_path / "set", limit=2) == json.loads(
        (tmp_path / "set" / "manifest.json").read_text()
    )
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert manifest["settings"] == {"degradation": "resshift-test", "scale": 4, "seed": 3, "crop_size": 32}
    assert manifest["degradation"].startswith("_class_name: RealESRGAN\n") and manifest["complete"] is True
    assert [(e["height"], e["width"]) for e in manifest["images"]] == [(32, 32), (32, 32)]


def test_the_benchmark_makes_the_same_lr_from_the_hr_of_the_set(photos, tmp_path):
    make_testset(photos, Settings(degradation="realesrgan", seed=5), tmp_path / "set")
    testset = open_testset(f"{tmp_path / 'set' / 'HR'} degradation=realesrgan seed=5", 4)
    assert [s.name for s in testset.samples] == ["a", "b", "c"]
    for sample in testset.samples:
        written = read_image(tmp_path / "set" / "LRx4" / f"{sample.name}.png")
        assert torch.equal(make_lr(read_image(sample.hr), "realesrgan", 5, sample.name), written)


def test_two_runs_write_the_same_bytes(photos, tmp_path):
    settings = Settings(degradation="realesrgan")
    for name in ("one", "two"):
        make_testset(photos, settings, tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(photos, tmp_path, monkeypatch):
    make_testset(photos, LEGACY, tmp_path / "whole")
    made = []

    def stopping(source, name, settings, then=module.make_pair):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(name)
        return then(source, name, settings)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, "make_pair", stopping)
        make_testset(photos, LEGACY, tmp_path / "stopped")
    assert sorted(contents(tmp_path / "stopped")) == ["HR/a.png", "LRx4/a.png", "manifest.json"]
    with pytest.raises(ValueError, match="was stopped; start the run again"):
        list(check(tmp_path / "stopped" / "manifest.json"))

    again = []
    monkeypatch.setattr(module, "make_pair", lambda s, n, t, then=module.make_pair: again.append(n) or then(s, n, t))
    make_testset(photos, LEGACY, tmp_path / "stopped")
    assert again == ["b", "c"]
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_a_finished_set_is_left_as_it_is(photos, tmp_path):
    first = make_testset(photos, LEGACY, tmp_path / "set")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*.*")}
    assert make_testset(photos, LEGACY, tmp_path / "set") == first
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("*.*")} == before


def test_a_changed_file_of_a_finished_set_is_named(photos, tmp_path):
    make_testset(photos, LEGACY, tmp_path / "set")
    Image.fromarray(pixels(12, 10, 9)).save(tmp_path / "set" / "LRx4" / "a.png")
    with pytest.raises(ValueError, match=r"1 images in .* are not what its manifest says: a;"):
        make_testset(photos, LEGACY, tmp_path / "set")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(degradation="light"), "degradation bicubic-matlab-legacy then and light now"),
        (Settings(degradation="bicubic-matlab-legacy", seed=1), "seed 0 then and 1 now"),
        (Settings(degradation="bicubic-matlab-legacy", crop_size=32), "crop_size None then and 32 now"),
    ],
)
def test_the_folder_of_another_set_is_refused(photos, tmp_path, settings, message):
    make_testset(photos, LEGACY, tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match=message):
        make_testset(photos, settings, tmp_path / "set")
    (photos / "b.jpg").write_bytes((photos / "a.png").read_bytes())
    with pytest.raises(ValueError, match=r"other sources \(b.jpg\)"):
        make_testset(photos, LEGACY, tmp_path / "set")
    assert contents(tmp_path / "set") == before


def test_any_other_folder_with_files_is_refused(photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(ValueError, match=r"full is not empty and has no manifest.json; choose a new folder"):
        make_testset(photos, LEGACY, tmp_path / "full")
    (tmp_path / "full" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="not written by resdiff"):
        make_testset(photos, LEGACY, tmp_path / "full")
    (tmp_path / "full" / "manifest.json").write_text('{"format": 1, "images": [{}], "complete": true}')
    with pytest.raises(ValueError, match="is damaged"):
        make_testset(photos, LEGACY, tmp_path / "full")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--degradation lihgt", "degradation 'lihgt' is unknown, did you mean 'light'?"),
        ("--degradation stablesr", "makes LR of 1/1"),
        ("--degradation light --scale 2", "no preset has that scale"),
        ("--degradation light --crop_size 30", "--crop_size is 30; give a positive multiple of the scale 4"),
        ("--degradation light --crop_size 48", "3 of the 3 images of"),
        ("--degradation light --seed -1", "--seed is -1"),
        ("--degradation light --limit 0", "--limit is 0"),
    ],
)
def test_wrong_settings_are_one_line_and_write_nothing(photos, tmp_path, capsys, options, message):
    assert run("--hr_dir", photos, "--output_dir", tmp_path / "set", *options.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1
    assert not (tmp_path / "set").exists()


def test_sources_that_cannot_be_used_are_named(photos, tmp_path, capsys):
    Image.fromarray(pixels(3, 40, 0)).save(photos / "d.png")
    assert run("--hr_dir", photos, "--output_dir", tmp_path / "set", "--degradation", "light") == 2
    assert "1 of the 4 images" in (said := capsys.readouterr().err) and "d.png (40x3)" in said
    (photos / "d.png").write_bytes(b"no image")
    assert run("--hr_dir", photos, "--output_dir", tmp_path / "set", "--degradation", "light") == 2
    assert "d.png" in capsys.readouterr().err and not (tmp_path / "set").exists()


def test_the_check_regenerates_and_finds_every_difference(photos, tmp_path, capsys):
    manifest = tmp_path / "set" / "manifest.json"
    make_testset(photos, Settings(degradation="realesrgan"), tmp_path / "set")
    assert run("--check", manifest) == run("--check", manifest, "--hr_dir", photos) == 0
    assert capsys.readouterr().out.count("all images are equal bit for bit") == 2

    lr = tmp_path / "set" / "LRx4" / "a.png"
    values = np.array(Image.open(lr))
    values[0, 0, 0] ^= 1
    Image.fromarray(values).save(lr)
    (tmp_path / "set" / "LRx4" / "b.png").unlink()
    assert run("--check", manifest) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"a: {lr} differs",
        f"b: {lr.with_name('b.png')} is missing",
        "2 images differ",
    ]

    Image.fromarray(pixels(44, 48, 7)[..., 0]).save(photos / "c.bmp")
    assert "c: " in (problems := list(check(manifest, photos)))[-1] and "HR made now differs" in problems[-1]


def test_a_manifest_alone_can_be_checked_against_the_sources(photos, tmp_path):
    make_testset(photos, LEGACY, tmp_path / "set")
    (tmp_path / "elsewhere").mkdir()
    alone = tmp_path / "elsewhere" / "manifest.json"
    alone.write_bytes((tmp_path / "set" / "manifest.json").read_bytes())
    assert list(check(alone, photos)) == []
    assert len(list(check(alone))) == 3


def test_a_check_without_manifest_or_with_other_numbers_says_so(photos, tmp_path, capsys):
    assert run("--check", tmp_path / "none.json") == 2
    assert "none.json does not exist" in capsys.readouterr().err
    make_testset(photos, LEGACY, tmp_path / "set")
    path = tmp_path / "set" / "manifest.json"
    path.write_text(path.read_text().replace("round8: true", "round8: false"))
    with pytest.raises(ValueError, match="with other numbers"):
        list(check(path))


def test_the_command_line_asks_for_what_it_needs(capsys):
    with pytest.raises(SystemExit):
        parse_args(["--hr_dir", "x"])
    assert "--output_dir, --degradation must be given" in capsys.readouterr().err


@pytest.mark.skipif(not (DATA / "set5").is_dir(), reason=f"no test sets in {DATA}")
def test_set5_is_regenerated_bit_for_bit_by_the_command(tmp_path):
    words = f"--hr_dir {DATA}/set5/HR --degradation bicubic-matlab-legacy --output_dir {tmp_path}/set5"
    command = [sys.executable, str(ROOT / "eval" / "make_testset.py"), *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.startswith("5 pairs in ")
    for side in ("HR", "LRx4"):
        published = sorted((DATA / "set5" / side).glob("*.png"))
        assert len(published) == 5
        for path in published:
            assert torch.equal(read_image(path), read_image(tmp_path / "set5" / side / path.name))


def test_a_check_finds_files_that_the_manifest_does_not_know(photos, tmp_path):
    make_testset(photos, Settings(degradation="bicubic-matlab"), tmp_path / "set")
    Image.new("RGB", (8, 8)).save(tmp_path / "set" / "LRx4" / "extra.png")
    assert [line.split(":")[0] for line in check(tmp_path / "set" / "manifest.json")] == ["extra"]
