"""The model that ships with the package: its size, its honesty about noise and tiles, and that it beats bicubic."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.checkpoints.known import bundled_folder
from resdiff.metrics.psnr import psnr
from resdiff.metrics.texture import sharpness
from resdiff.pipelines import SRPipeline
from resdiff.resize import matlab_legacy

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture(scope="module")
def bundled() -> SRPipeline:
    pipe = SRPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo_pair() -> tuple[np.ndarray, torch.Tensor]:
    """A held-out photo reduced by four, and the photo."""
    hr = np.asarray(Image.open(DATA / "photo_hr.png").convert("RGB"))
    return matlab_legacy(hr, 0.25), torch.from_numpy(hr.copy()).permute(2, 0, 1)[None]


def gain(pipe: SRPipeline, steps: int) -> float:
    """PSNR-Y above bicubic, dB."""
    lr, hr = photo_pair()
    quality = [
        float(psnr((p(lr, num_inference_steps=n, generator=seeded(), output_type="pt").images * 255).round(), hr, 4))
        for p, n in ((pipe, steps), (SRPipeline.from_pretrained("bicubic"), 1))
    ]
    return quality[0] - quality[1]


@pytest.mark.parametrize(("steps", "least"), [(1, 0.6), (4, 0.4)])
def test_it_beats_bicubic_on_a_photo_it_was_not_trained_on(bundled, steps: int, least: float) -> None:
    assert gain(bundled, steps) > least


def test_its_weights_are_small_and_half_precision_on_disk_and_float32_in_memory(bundled) -> None:
    files = list(bundled_folder().rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in files) < 16 * 2**20
    assert sum(p.numel() for network in bundled.networks for p in network.parameters()) * 2 < sum(
        f.stat().st_size for f in files
    )
    assert bundled.unet.dtype == torch.float32


def test_it_has_a_model_card(bundled) -> None:
    card = (bundled_folder() / "README.md").read_text()
    for word in ("licence", "train/resshift.py", "Set5", "Limits", "CC BY-SA"):
        assert word in card


def test_tiles_give_the_image_that_the_whole_gives(bundled) -> None:
    lr = torch.rand(1, 3, 204, 130, generator=seeded(1))
    whole, tiled = (
        bundled(lr, num_inference_steps=2, generator=seeded(), tile=tile, output_type="pt").images
        for tile in ("off", 1)
    )
    assert (whole - tiled).abs().max() < 0.5 / 255


def test_more_steps_give_more_detail(bundled) -> None:
    lr, _ = photo_pair()
    sharpness = []
    for steps in (1, 4):
        grey = bundled(lr, num_inference_steps=steps, generator=seeded(), output_type="pt").images.mean(dim=1)
        laplacian = (
            4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
        )
        sharpness.append(float(laplacian.std()))
    assert sharpness[1] > sharpness[0]


def test_seeds_give_different_images_and_the_same_seed_the_same(bundled) -> None:
    lr, _ = photo_pair()
    a, b, c = (bundled(lr, generator=seeded(s), output_type="pt").images for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_words_move_the_detail_and_others_change_no_bit(bundled) -> None:
    lr, _ = photo_pair()
    found = {
        prompt: bundled(lr, prompt, generator=seeded(), output_type="pt").images
        for prompt in ("sharp fur", "", "soft fur", "sharp violin")
    }
    sharp, none, soft = (float(sharpness(255 * found[prompt])) for prompt in ("sharp fur", "", "soft fur"))
    assert sharp > 1.02 * none > 1.02**2 * soft
    assert torch.equal(found["sharp violin"], found["sharp fur"])
    with pytest.warns(UserWarning, match="elephant"):
        unknown = bundled(lr, "an elephant", generator=seeded(), output_type="pt").images
    assert torch.equal(unknown, found[""])


def test_the_dial_goes_from_detail_to_the_mean(bundled) -> None:
    lr, hr = photo_pair()
    images = [
        bundled(lr, fidelity=fidelity, generator=seeded(), output_type="pt").images
        for fidelity in (0, 0.25, 0.5, 0.75, 1)
    ]
    detail = [float(sharpness(255 * image)) for image in images]
    quality = [float(psnr((255 * image).round(), hr, 4)) for image in images]
    assert detail == sorted(detail, reverse=True) and quality == sorted(quality)
    assert torch.equal(images[-1], bundled(lr, num_inference_steps=1, generator=seeded(), output_type="pt").images)
