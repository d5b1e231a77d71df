"""`resdiff info`: images and models."""

import json
import re

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from resdiff.checkpoints import cache
from resdiff.pipelines import SRPipeline


def told(result) -> dict[str, str]:
    assert result.exit_code == 0, result.output
    lines = [line.split("  ", 1) for line in result.stdout.splitlines()]
    return {name: value.strip() for name, value in lines}


def test_an_image_is_described_from_its_header(resdiff, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (30, 20)).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"x" * 100, dpi=(300, 300))
    lines = told(resdiff("info", tmp_path / "a.jpg"))
    assert lines["size"] == "20x30" and lines["at scale 4"] == "80x120"
    assert lines["mode"] == "L, 8 bits per channel" and lines["orientation"] == "turned right for display (EXIF)"
    assert (lines["exif"], lines["icc profile"], lines["dpi"]) == ("1 tags", "100 bytes", "300 x 300")
    assert lines["frames"] == "1" and lines["format"] == "JPEG"


def test_animations_and_16_bits_are_told(resdiff, tmp_path):
    frames = [Image.new("L", (3, 2), value) for value in (0, 100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert told(resdiff("info", tmp_path / "a.gif"))["frames"] == "3, of which the first is used"
    Image.new("I;16", (3, 2)).save(tmp_path / "deep.png")
    assert "16 bits per channel" in told(resdiff("info", tmp_path / "deep.png"))["mode"]


def test_the_bundled_model_and_bicubic_are_described(resdiff):
    lines = told(resdiff("info", "resdiff-small"))
    assert (lines["family"], lines["scale"], lines["steps"]) == ("ResShiftPipeline", "x4", "4 by default")
    count = sum(p.numel() for network in SRPipeline.from_pretrained().networks for p in network.parameters())
    assert lines["parameters"] == f"{count / 1e6:.2f} million" and lines["padded to"] == "multiples of 4 pixels"
    assert lines["licence"] == "Apache-2.0" and "diffusion_pytorch_model.safetensors" in lines["file"]
    assert told(resdiff("info", "bicubic"))["parameters"] == "none"


def test_a_published_model_tells_which_files_are_here(resdiff, tmp_path, monkeypatch):
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path))
    lines = told(resdiff("info", "sinsr-v1"))
    assert lines["steps"] == "1 by default" and "non-commercial" in lines["licence"]
    assert lines["parameters"] == "unknown until it is fetched" and lines["not here"].endswith("autoencoder_vq_f4.pth")
    assert cache.cache_dir() == tmp_path
    save_file({"x": torch.zeros(1500, 1000)}, tmp_path / "SinSR_v1.safetensors")
    lines = told(resdiff("info", "sinsr-v1"))
    assert lines["parameters"] == "1.50 million" and "SinSR_v1.safetensors" in lines["file"]
    assert told(resdiff("info", tmp_path / "SinSR_v1.safetensors"))["model"] == "sinsr-v1"


def test_saved_folders_are_described(resdiff, tmp_path):
    index = {"_class_name": "ResShiftPipeline", "scale": 1, "padding_multiple": 64, "num_inference_steps": 15}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    lines = told(resdiff("info", tmp_path))
    assert (lines["scale"], lines["steps"], lines["padded to"]) == ("x1", "15 by default", "multiples of 64 pixels")
    assert lines["licence"].startswith("unknown")


@pytest.mark.parametrize("index", ["{", "[]", '{"_class_name": "X"}', '{"_class_name": "X", "scale": "big"}'])
def test_damaged_folders_are_one_line(refusal, tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    assert re.search(
        r"model_index\.json (is not a pipeline|cannot be read|is no JSON object)", refusal("info", tmp_path)
    )


def test_what_is_neither_image_nor_model_is_one_line(refusal, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("x")
    (tmp_path / "mine.pth").touch()
    for what, message in (
        (tmp_path / "none.png", "none.png does not exist"),
        (tmp_path / "empty", "holds no model_index.json"),
        (tmp_path / "text.png", "is not an image that can be read"),
        (tmp_path / "mine.pth", "say which model it is with --as NAME"),
        ("sinsr", "is not a known model; choose one of sinsr-v"),
    ):
        assert message in refusal("info", what)
    assert refusal("info").endswith("resdiff info FILE_OR_MODEL, or resdiff doctor for this machine")
