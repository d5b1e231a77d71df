"""The picture of several models' crops."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resdiff.eval.crops import main, parse_args
from resdiff.eval.harness.sheets import GAP, HEAD


def write(path: Path, colour: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((20, 30, 3), colour, np.uint8)
    pixels[5:9, 10:14] = colour + 5
    Image.fromarray(pixels).save(path)


@pytest.fixture
def command(tmp_path) -> list[str]:
    for i, name in enumerate(("a", "b")):
        write(tmp_path / "data" / "set" / "HR" / f"{name}.png", 10 + 100 * i)
        for j, model in enumerate(("one", "two")):
            write(tmp_path / "run" / "set" / model / f"{name}.png", 20 + 100 * i + 10 * j)
    out = ["--out", str(tmp_path / "new" / "sheet.png")]
    return ["--run", str(tmp_path / "run"), "--hr", str(tmp_path / "data"), "--models", "one", "two", *out]


def test_each_crop_is_a_row_of_original_and_models(command, tmp_path) -> None:
    main(parse_args([*command, "--crops", "set/b=10,5,4", "set/a=0,0,4"]))
    sheet = np.array(Image.open(tmp_path / "new" / "sheet.png"))
    assert sheet.shape == (2 * (HEAD + 8), 3 * (8 + GAP) - GAP, 3)
    rows = [[sheet[top + HEAD + y, i * (8 + GAP) + y, 0] for i in range(3) for y in (0, 7)] for top in (0, HEAD + 8)]
    assert rows == [[115, 115, 125, 125, 135, 135], [10, 10, 20, 20, 30, 30]]


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ("set/a=20,0,11", r"set/a is 30x20; the crop \(20, 0, 31, 11\) is not in it"),
        ("set/c=0,0,4", "does not exist; --run is the --out of eval/benchmark.py"),
    ],
)
def test_what_cannot_be_cut(command, tmp_path, crop, message) -> None:
    with pytest.raises(ValueError, match=message):
        main(parse_args([*command, "--crops", crop]))
    assert not (tmp_path / "new").exists()


def test_what_is_no_crop(command, capsys) -> None:
    with pytest.raises(SystemExit):
        parse_args([*command, "--crops", "a=1,2"])
    assert "'a=1,2' is no crop; write SET/NAME=left,top,side" in capsys.readouterr().err
