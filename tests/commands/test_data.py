"""The command `resdiff data check`, as it is typed."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from resdiff import cli

pytestmark = pytest.mark.usefixtures("command_environment")


def check(*arguments) -> Result:
    return CliRunner().invoke(cli.app, ["data", "check", *map(str, arguments)], prog_name="resdiff")


def refusal(*arguments) -> str:
    """Return the one line that is said about a command that cannot be carried out."""
    result = check(*arguments)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    return result.stderr.strip()


@pytest.fixture
def training_data(tmp_path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    Image.effect_noise((200, 128), 50).convert("RGB").save(folder / "good.png")
    Image.effect_noise((300, 250), 50).convert("RGB").save(folder / "large.jpg")
    Image.effect_noise((200, 130), 50).convert("RGB").save(folder / "torn.png")
    (folder / "torn.png").write_bytes((folder / "torn.png").read_bytes()[:-500])
    (folder / "good.txt").write_text("a caption")
    (folder / "good.tags.txt").write_text("a, b")
    for i in range(25):
        Image.new("RGB", (60, 40)).save(folder / f"small{i:02}.png")
    return folder


def test_data_check_tells_what_a_training_would_use(training_data):
    result = check(training_data)
    assert result.exit_code == 0 and result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[:4] == [
        "2 photos would be used: 0.1 megapixels, 0.3 MB decoded",
        "sizes from 200x128 to 300x250",
        "1 with a caption, 1 with tags",
        "26 would not:",
    ]
    assert lines[4].startswith(f"  {training_data / 'torn.png'} cannot be read: ")
    assert lines[5] == f"  {training_data / 'small00.png'} is 60x40, smaller than the crop of 64x64"
    assert lines[24:] == ["  and 6 more; `resdiff data check --list` names them all"]


def test_data_check_lists_everything_on_demand_and_reads_headers_only_when_in_a_hurry(training_data):
    lines = check(training_data, "--list", "--fast").stdout.splitlines()
    assert lines[0].startswith("3 photos would be used")
    assert lines[3] == "25 would not:" and len(lines) == 4 + 25
    lines = check(training_data, "--resolution", "40,60", "--fast").stdout.splitlines()
    assert lines[0].startswith("28 photos would be used") and len(lines) == 3


def test_data_check_knows_pairs_and_manifests(tmp_path):
    for folder, name, size in (("hr", "a.png", (64, 32)), ("lr", "a.jpg", (16, 8))):
        (tmp_path / folder).mkdir()
        Image.new("RGB", size).save(tmp_path / folder / name)
    (tmp_path / "m.csv").write_text('hr,lr,tags\nhr/a.png,lr/a.jpg,"x, y"\n')
    said = "1 pair would be used: 0.0 megapixels, 0.0 MB decoded"
    sides = ("--resolution", "32")
    assert said in check(tmp_path / "hr", "--lr-dir", tmp_path / "lr", *sides).stdout
    assert said in check("--manifest", tmp_path / "m.csv", *sides).stdout
    assert "1 with tags" in check("--manifest", tmp_path / "m.csv", *sides).stdout
    message = refusal(tmp_path / "hr", "--lr-dir", tmp_path / "lr", *sides, "--scale", "2")
    assert message.endswith("lr/a.jpg, is 16x8, not 1/2 of its HR partner's 64x32")


def test_data_check_without_anything_to_use_is_one_line_and_exit_code_2(training_data, tmp_path):
    (tmp_path / "torn").mkdir()
    (training_data / "torn.png").rename(tmp_path / "torn" / "torn.png")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((tmp_path / "none",), "none is not a folder"),
        ((tmp_path / "empty",), "holds no image"),
        ((), "neither train_data_dir nor manifest is given"),
        ((training_data, "--resolution", "512"), "all 27 photos are too small for a crop of 512x512, the largest is"),
        ((training_data, "--resolution", "0"), "resolution is '0'; pass a side in pixels, or height,width"),
        ((training_data, "--resolution", "1,2,3"), "resolution is '1,2,3'; pass"),
        ((tmp_path / "torn",), "none of the 1 photos can be used; the first, "),
        ((training_data, "--lr-dir", tmp_path / "torn"), "28 of the 28 files"),
        ((training_data, "--manifest", tmp_path / "no.csv"), "no.csv does not exist"),
    ):
        assert message in refusal(*arguments)
