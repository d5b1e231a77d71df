"""`resdiff convert`, as it is typed and as a function."""

import importlib
import os
from pathlib import Path

import pytest
import torch

from resdiff.checkpoints.known import KNOWN
from resdiff.commands.convert import convert_checkpoints

command = importlib.import_module("resdiff.commands.convert")


def names_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def published(monkeypatch):
    """Stands in for a pipeline read from published files; `fail` is raised while it is saved."""

    class Published:
        known = KNOWN["sinsr-v1"]
        fail = None

        def save_pretrained(self, folder):
            folder.mkdir()
            (folder / "model_index.json").write_text("{}")
            if self.fail:
                raise self.fail

    pipe = Published()

    def resolve(*arguments, **options):
        pipe.arguments = (*arguments, options)
        return pipe

    def from_published(found, dtype):
        pipe.arguments += (dtype,)
        return found

    monkeypatch.setattr("resdiff.pipelines.opening.resolve", resolve)
    monkeypatch.setattr("resdiff.pipelines.opening.from_published", from_published)
    return pipe


def test_converted_checkpoints_appear_whole_or_not_at_all(tmp_path, published):
    file = tmp_path / "a.pth"
    file.write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for out in ("new", "deep/er", "empty"):
        assert convert_checkpoints([file], tmp_path / out, "sinsr-v1", "fp16", base="b") == [KNOWN["sinsr-v1"]]
        assert names_below(tmp_path / out) == ["README.md", "model_index.json"]
    assert published.arguments == ([file], "sinsr-v1", {"base": "b"}, torch.float16)
    assert "| sinsr-v1 | NTU S-Lab License 1.0, non-commercial | https" in (tmp_path / "new" / "README.md").read_text()
    published.fail = KeyboardInterrupt()
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoints([file], tmp_path / "other", None, "fp32")
    assert sorted(os.listdir(tmp_path)) == before


def test_convert_refuses_what_it_would_overwrite_and_what_is_missing(tmp_path, published):
    file = tmp_path / "a.pth"
    file.write_bytes(b"")
    for out in (tmp_path, file):
        with pytest.raises(ValueError, match="exists and is not an empty folder"):
            convert_checkpoints([file], out, None, "fp32")
    with pytest.raises(ValueError, match=r"none\.pth does not exist"):
        convert_checkpoints([tmp_path / "none.pth"], tmp_path / "out", None, "fp32")
    with pytest.raises(ValueError, match=r"cannot be made: .* is a file; choose another"):
        convert_checkpoints([file], file / "out", None, "fp32")


def test_a_folder_that_fails_to_be_written_is_named_and_nothing_is_left(tmp_path, published):
    file = tmp_path / "a.pth"
    file.write_bytes(b"")
    published.fail = OSError(28, "No space left on device")
    with pytest.raises(OSError, match=r"out cannot be written: No space left on device; choose another folder$"):
        convert_checkpoints([file], tmp_path / "out", None, "fp32")
    assert os.listdir(tmp_path) == ["a.pth"]


def test_convert_takes_files_and_then_the_folder(resdiff, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        command,
        "convert_checkpoints",
        lambda *arguments, **options: calls.append((*arguments, options)) or [KNOWN["sinsr-v1"]],
    )
    result = resdiff("convert", "a.pth", "b.pth", tmp_path / "out", "--as", "sinsr-v1", "--dtype", "fp16")
    assert result.exit_code == 0 and str(tmp_path / "out") in result.stdout
    assert result.stdout.startswith("sinsr-v1: NTU S-Lab License 1.0, non-commercial\n")
    options = {"base": None, "prediction_type": None}
    assert calls == [([Path("a.pth"), Path("b.pth")], tmp_path / "out", "sinsr-v1", "fp16", options)]


def test_bad_conversions_are_one_line_and_exit_code_2(refusal, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no checkpoint")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    a, out = tmp_path / "a.pth", tmp_path / "out"
    for arguments, message in (
        ((a,), "pass the published files and then the folder to write"),
        ((tmp_path / "none.pth", out), "none.pth does not exist"),
        ((a, tmp_path / "full"), "full exists and is not an empty folder; choose another"),
        ((a, out, "--dtype", "bf16"), "dtype is 'bf16'; choose fp32, fp16"),
        ((a, out), "a.pth"),
        ((a, out, "--base", "x"), "base: unknown options; for "),
        ((tmp_path / "full", out), "full is neither of the SeeSR family nor Stable Diffusion"),
    ):
        assert message in refusal("convert", *arguments)
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "full"]
