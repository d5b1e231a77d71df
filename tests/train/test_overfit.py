"""The whole training learns eight crops by heart: whatever breaks the path from photo to model shows here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import resdiff.train.resshift as script
from resdiff.data.degradation.presets import preset
from resdiff.images import read_photos, to_uint8
from resdiff.metrics.psnr import psnr
from resdiff.pipelines import SRPipeline
from resdiff.resize import bicubic
from resdiff.train.resshift import main, parse_args

RECIPE = Path(script.__file__).parent / "recipes" / "overfit.yaml"
STEPS = 400


def texture(i: int) -> Image.Image:
    """Return a photo of 32x32 px: coarse colours under a wave that x4 reduction destroys in part."""
    rng = np.random.default_rng(i)
    side = 4 + 2 * (i % 3)
    coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
    colours = np.asarray(coarse.resize((32, 32), Image.Resampling.BICUBIC)) * 0.7 + 38
    y, x = np.mgrid[:32, :32] / 32
    angle = np.pi * i / 8
    wave = 30 * np.sin(2 * np.pi * (3 + i) * (x * np.cos(angle) + y * np.sin(angle)))
    return Image.fromarray(np.clip(colours + wave[..., None], 0, 255).astype(np.uint8))


def test_eight_crops_are_learnt_to_above_40_db_in_400_steps(tmp_path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(8):
        texture(i).save(photos / f"{i}.png")
    flags = ["--train_data_dir", str(photos), "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    args = parse_args(["--recipe", str(RECIPE), *flags, "--num_threads", "1"])
    assert args.max_train_steps == STEPS
    main(args)

    pipe = SRPipeline.from_pretrained(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.default_steps == 1
    learnt, interpolated = [], []
    for i in range(8):
        hr = read_photos(photos / f"{i}.png")[0].pixels[None]
        lr = preset(args.degradation)((hr + 1) / 2, torch.Generator().manual_seed(i))
        sr = pipe(lr, generator=torch.Generator().manual_seed(i), output_type="pt").images * 2 - 1
        by_bicubic = bicubic(lr * 2 - 1, (32, 32), "pil")
        for values, image in ((learnt, sr), (interpolated, by_bicubic)):
            values.append(float(psnr(to_uint8(image), to_uint8(hr), crop_border=0, y_channel=False)))
    assert np.mean(interpolated) == pytest.approx(21.9, abs=0.1)
    assert min(learnt) > 40
