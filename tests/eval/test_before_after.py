"""The picture of the README."""

import numpy as np
from PIL import Image

from resdiff.eval.before_after import GAP, main, parse_args, side_by_side


def test_panels_stand_side_by_side_enlarged_by_whole_pixels() -> None:
    images = {name: Image.new("RGB", (20, 20), name) for name in ("red", "green", "blue")}
    sheet = np.asarray(side_by_side(images, (2, 4, 8, 6), 3))
    assert sheet.shape == (6 * 3 + 18, 3 * (8 * 3 + GAP) - GAP, 3)
    for i, colour in enumerate(([255, 0, 0], [0, 128, 0], [0, 0, 255])):
        assert (sheet[18:, i * (24 + GAP) : i * (24 + GAP) + 24] == colour).all()


def test_the_script_writes_four_panels(tmp_path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (42, 50, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    out = tmp_path / "sheet.png"
    arguments = ["--photo", str(tmp_path / "photo.png"), "--output", str(out), "--crop", "0", "0", "10", "10"]
    main(parse_args([*arguments, "--model", "bicubic", "--num_inference_steps", "1"]))
    with Image.open(out) as sheet:
        assert sheet.size == (4 * (20 + GAP) - GAP, 38)
