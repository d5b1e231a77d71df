"""Validation with the real pipeline."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.data.degradation.presets import PRESETS
from resdiff.images import read_photos, to_uint8
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.models.pixel_unet import PixelUNet
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.resize import bicubic
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.validation import validate, validation_pairs

DEGRADATION = PRESETS["bicubic-pil"]


@pytest.fixture
def pairs(photos):
    return validation_pairs(photos, None, DEGRADATION, scale=4, resolution=32, limit=2)


@pytest.fixture
def pipe() -> ResShiftPipeline:
    """Without training it is bicubic interpolation."""
    schedule = ResShiftScheduler(
        num_train_timesteps=4, min_noise_level=0.0316, etas_end=1.0, kappa=0.25, prediction_type="residual"
    )
    pipe = ResShiftPipeline(
        PixelUNet(channels=(8,), num_blocks=(1,)), None, schedule, padding_multiple=1, upsampling="pil"
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


class Tracker:
    """Remembers pictures."""

    name = "pictures"

    def __init__(self) -> None:
        self.seen: dict[str, np.ndarray] = {}

    def log_images(self, values: dict[str, np.ndarray], step: int) -> None:
        assert step == 7
        self.seen |= values


def test_the_centre_of_a_photo_is_degraded_as_in_training(photos, pairs) -> None:
    assert len(pairs) == 2
    whole = read_photos(photos / "0.png")[0].pixels[None]  # 48x40
    assert torch.equal(pairs[0].hr, whole[..., 8:40, 4:36])
    expected = DEGRADATION((pairs[0].hr + 1) / 2, torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(pairs[0].lr, expected)


def test_photos_smaller_than_the_centre_are_cut_to_the_scale(tmp_path) -> None:
    Image.new("RGB", (31, 21)).save(tmp_path / "small.png")
    (pair,) = validation_pairs(tmp_path, None, DEGRADATION, scale=4, resolution=256)
    assert pair.hr.shape[-2:] == (20, 28) and pair.lr.shape[-2:] == (5, 7)


def test_given_partners_are_used_whole(photos, tmp_path) -> None:
    lr_dir = tmp_path / "lr"
    lr_dir.mkdir()
    for path in photos.iterdir():
        Image.open(path).resize((10, 12)).save(lr_dir / path.name)
    pairs = validation_pairs(photos, lr_dir, DEGRADATION, scale=4, resolution=16)
    assert len(pairs) == 6 and pairs[0].hr.shape[-2:] == (48, 40)
    assert torch.equal(pairs[3].lr, read_photos(lr_dir / "3.png")[0].pixels[None])


def test_the_figures_are_means_over_the_photos_for_each_number_of_steps(pipe, pairs) -> None:
    tracker = Tracker()
    figures = validate(pipe, pairs, 4, [1, 4], SimpleNamespace(trackers=[tracker]), 7)
    assert figures.keys() == {"psnr_y_1_step", "ssim_y_1_step", "psnr_y_4_step", "ssim_y_4_step"}
    by_hand = {"psnr_y_1_step": psnr, "ssim_y_1_step": ssim}
    for name, metric in by_hand.items():
        values = [float(metric(to_uint8(bicubic(p.lr, (32, 32), "pil")), to_uint8(p.hr), crop_border=4)) for p in pairs]
        assert figures[name] == pytest.approx(sum(values) / 2, abs=0.02)
    grid = tracker.seen["validation_1_step"]
    assert grid.shape == (1, 64, 96, 3) and grid.dtype == np.uint8
    original = to_uint8(pairs[1].hr)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(grid[0, 32:, 64:], original)  # second row, third column


def test_validating_twice_gives_the_same(pipe, pairs) -> None:
    nobody = SimpleNamespace(trackers=[object()])
    assert validate(pipe, pairs, 4, [4], nobody, 1) == validate(pipe, pairs, 4, [4], nobody, 2)
