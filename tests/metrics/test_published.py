"""Published figures from the pictures they were measured on: OSEDiff's real-world results and the bicubic tables.

The pictures lie beside the checkout (../shared/data) or in $RESDIFF_DATA.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.metrics.niqe import niqe
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.resize import bicubic

DATA = Path(os.environ.get("RESDIFF_DATA") or Path(__file__).parents[3] / "shared" / "data")
PUBLISHED_BICUBIC = {"set5": (28.42, 0.8104), "set14": (26.00, 0.7027), "bsd100": (25.96, 0.6675)}

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"the pictures are not in {DATA}; set RESDIFF_DATA")


def read(path):
    """uint8 (1, 3, H, W), grey files (1, 1, H, W)."""
    with Image.open(path) as image:
        array = np.array(image if image.mode == "L" else image.convert("RGB"))
    return torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)[None]


def real_pairs():
    index = DATA / "realpairs" / "index.json"
    return json.loads(index.read_text()) if index.is_file() else []


@pytest.mark.parametrize("entry", real_pairs(), ids=lambda entry: entry["file"])
def test_published_figures_of_osediff_are_reproduced(entry):
    folder, stem = DATA / "realpairs" / entry["set"], Path(entry["file"]).stem
    sr, hr = (read(next((folder / kind).glob(f"{stem}.*"))) for kind in ("SR_osediff", "HR"))
    published = entry["published_metrics_of_sr"]
    assert psnr(sr, hr, 0, round_y=False, eps=1e-8).item() == pytest.approx(published["PSNR"], abs=1e-4)
    assert ssim(sr, hr, 0, clamp=True).item() == pytest.approx(published["SSIM"], abs=2e-6)
    assert niqe(sr, luma="yiq").item() == pytest.approx(published["NIQE"], abs=0.02)


@pytest.mark.parametrize("name", PUBLISHED_BICUBIC)
def test_the_bicubic_table_is_reproduced(name):
    baseline = json.loads((DATA / "baselines.json").read_text())["bicubic_measured"][name]
    figures = []
    for file in sorted((DATA / name / "HR").glob("*.png")):
        hr, lr = read(file), read(DATA / name / "LRx4" / file.name)
        sr = (bicubic(lr.double(), hr.shape[-2:], "matlab").clamp(0, 255) + 0.5).floor().to(torch.uint8)
        figures.append([psnr(sr, hr, 4).item(), ssim(sr, hr, 4).item()])
    values = np.array(figures)
    assert len(values) == baseline["n"]
    assert np.abs(values[:, 0] - baseline["per_image_psnr_y"]).max() < 0.001
    assert np.abs(values[:, 1] - baseline["per_image_ssim_y"]).max() < 0.0001
    assert values.mean(axis=0) == pytest.approx([baseline["psnr_y"], baseline["ssim_y"]], abs=1e-4)
    mean_psnr, mean_ssim = values.mean(axis=0)
    published_psnr, published_ssim = PUBLISHED_BICUBIC[name]
    assert mean_psnr == pytest.approx(published_psnr, abs=0.01) and mean_ssim == pytest.approx(published_ssim, abs=5e-4)


def test_blur_and_noise_raise_the_niqe_of_a_photograph():
    photo = read(DATA / "set14" / "HR" / "014.png").double()
    blurred = torch.nn.functional.avg_pool2d(photo, 5, stride=1)
    noise = 20 * torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    score = niqe(photo)
    assert niqe(blurred) > score + 1 and niqe((photo + noise).clamp(0, 255)) > score + 1
