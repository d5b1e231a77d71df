"""`resdiff upscale --dry-run`: nothing is loaded, nothing is written."""

import json

import pytest
from PIL import Image

from resdiff.checkpoints.known import KNOWN
from resdiff.runs import restorer


@pytest.fixture(autouse=True)
def no_model(monkeypatch):
    monkeypatch.setattr(restorer, "load_pipeline", lambda settings: pytest.fail("the model was loaded"))


def test_sources_targets_and_sizes_are_listed(resdiff, photos, tmp_path):
    result = resdiff("upscale", photos, "-o", tmp_path / "out", "--dry-run", "--scale", 1.5)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{photos / 'one.JPG'} 6x4 -> {tmp_path / 'out' / 'one.png'} 9x6",
        f"{photos / 'sub' / 'deep.webp'} 6x4 -> {tmp_path / 'out' / 'sub' / 'deep.png'} 9x6",
        f"{photos / 'two.png'} 6x4 -> {tmp_path / 'out' / 'two.png'} 9x6",
        "3 would be written, 0 refused, 0 skipped; nothing was done",
    ]
    assert not (tmp_path / "out").exists()


def test_what_would_be_refused_and_skipped_is_told(resdiff, photos, tmp_path):
    Image.new("RGBA", (5, 5)).save(photos / "clear.png")
    (photos / "text.png").write_text("no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "two.jpg").touch()
    options = ("--dry-run", "--format", "jpg", "--skip-existing")
    result = resdiff("upscale", photos, "-o", tmp_path / "out", *options)
    lines = {line.split(":")[0].split(" ")[0].rpartition("/")[2]: line for line in result.stdout.splitlines()}
    assert result.exit_code == 1
    assert lines["clear.png"].endswith("JPEG has no transparency and the image has; choose png or webp")
    assert "refused" in lines["text.png"] and lines["two.png"].endswith(
        f"skipped, {tmp_path / 'out' / 'two.jpg'} exists"
    )
    assert result.stdout.splitlines()[-1] == "2 would be written, 2 refused, 1 skipped; nothing was done"


def test_the_scale_of_a_model_is_known_without_its_weights(resdiff, photos, tmp_path):
    (tmp_path / "folder").mkdir()
    index = {"_class_name": "ResShiftPipeline", "scale": 2}
    (tmp_path / "folder" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "SinSR_v1.pth").touch()
    (tmp_path / "renamed.pth").touch()
    for options, size in (
        ([], "24x16"),
        (["--model", "bicubic"], "24x16"),
        (["--model", "resshift-faceir"], "6x4"),
        (["--model", tmp_path / "folder"], "12x8"),
        (["--model", tmp_path / "SinSR_v1.pth"], "24x16"),
        (["--model", tmp_path / "renamed.pth", "--as", "resshift-faceir"], "6x4"),
    ):
        result = resdiff("upscale", photos / "two.png", "-o", tmp_path / "out", "--dry-run", *options)
        assert result.stdout.splitlines()[0].endswith(size), options
    assert KNOWN["resshift-faceir"].scale == 1


def test_shards_list_their_own_files(resdiff, photos, tmp_path):
    result = resdiff("upscale", photos, "-o", tmp_path / "out", "--dry-run", "--shard", "2/3")
    assert len(result.stdout.splitlines()) == 2
    assert result.stdout.splitlines()[-1] == "shard 2/3: 1 would be written, 0 refused, 0 skipped; nothing was done"
