"""JPEG: against the formula in plain loops, against Pillow, and on ragged batches."""

import io
from math import cos, pi, sqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.data.degradation.jpeg import CHROMINANCE_CORNER, LUMINANCE, jpeg, jpeg_tensor
from resdiff.data.degradation.ragged import Ragged

PHOTO = Path(__file__).parents[1] / "photo_hr.png"


def photo(height: int, width: int) -> torch.Tensor:
    """The middle of a photograph, (1, 3, height, width) in [0, 1]."""
    image = torch.from_numpy(np.array(Image.open(PHOTO).convert("RGB"))).movedim(-1, 0)[None].float() / 255
    return image[..., 60 : 60 + height, 100 : 100 + width]


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def by_the_formula(image: np.ndarray, quality: float, soft: bool) -> np.ndarray:
    """One image (3, h, w) of multiples of 16, in float64, block by block with the transform's definition."""
    rgb = image.astype(np.float64) * 255
    forward = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    back = np.array([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])
    planes = list(np.einsum("dc,chw->dhw", forward, rgb))
    planes[1:] = [p.reshape(p.shape[0] // 2, 2, p.shape[1] // 2, 2).mean((1, 3)) for p in planes[1:]]
    basis = np.array(
        [[sqrt((1 if u else 0.5) / 4) * cos((2 * x + 1) * u * pi / 16) for x in range(8)] for u in range(8)]
    )
    chrominance = np.full((8, 8), 99.0)
    chrominance[:4, :4] = CHROMINANCE_CORNER
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    for c, shift in enumerate((128, 0, 0)):
        step = factor * (np.array(LUMINANCE) if c == 0 else chrominance)
        for top in range(0, planes[c].shape[0], 8):
            for left in range(0, planes[c].shape[1], 8):
                block = planes[c][top : top + 8, left : left + 8] - shift
                exact = basis @ block @ basis.T / step
                quantized = (np.round(exact) + soft * (exact - np.round(exact)) ** 3) * step
                planes[c][top : top + 8, left : left + 8] = basis.T @ quantized @ basis + shift
    planes[1:] = [p.repeat(2, 0).repeat(2, 1) for p in planes[1:]]
    return np.einsum("dc,chw->dhw", back, np.stack(planes)).clip(0, 255) / 255


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("quality", [10.0, 30.5, 49.9, 50.0, 75.0, 95.0])
def test_jpeg_is_its_formula(quality, soft):
    x = noise(1, 3, 32, 48)
    expected = torch.from_numpy(by_the_formula(x[0].numpy(), quality, soft)).float()
    torch.testing.assert_close(jpeg_tensor(x, quality, differentiable=soft)[0], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_near_what_an_encoder_makes(quality):
    x = photo(128, 160)
    file = io.BytesIO()
    levels = (x[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    Image.fromarray(levels).save(file, format="JPEG", quality=quality, subsampling="4:2:0")
    theirs = torch.from_numpy(np.array(Image.open(file))).float()
    ours = jpeg_tensor(x, quality)[0].movedim(0, -1) * 255
    lost = (theirs - torch.from_numpy(levels)).abs().mean()
    assert (ours - theirs).abs().mean() < 0.6 * lost + 0.5


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (40, 51), (1, 1)])
def test_sides_that_are_no_multiples_of_16_are_filled_with_zeros(size):
    x = noise(2, 3, *size)
    canvas = torch.zeros(2, 3, -(-size[0] // 16) * 16, -(-size[1] // 16) * 16)
    canvas[..., : size[0], : size[1]] = x
    quality = torch.tensor([40.0, 80.0])
    expected = jpeg_tensor(canvas, quality)[..., : size[0], : size[1]]
    torch.testing.assert_close(jpeg_tensor(x, quality), expected, rtol=0, atol=1e-6)


def test_each_image_of_a_ragged_batch_is_compressed_as_if_alone():
    sizes = ((20, 31), (40, 12), (7, 7))
    x = Ragged(noise(3, 3, 40, 31), sizes).map(lambda pixels: pixels)
    quality = torch.tensor([30.0, 60.0, 95.0])
    y = jpeg(x, quality)
    assert y.sizes == sizes
    assert y.pixels.where(x.mask(), 0.0).equal(y.pixels)
    for i in range(3):
        alone = jpeg_tensor(x.image(i)[None], quality[i : i + 1])[0]
        torch.testing.assert_close(y.image(i), alone, rtol=0, atol=1e-6)


def test_chroma_has_half_the_resolution():
    red_and_blue = torch.zeros(1, 3, 16, 16)
    red_and_blue[:, 0, :, ::2] = 0.5
    red_and_blue[:, 2, :, 1::2] = 0.5
    y = jpeg_tensor(red_and_blue, 99.0)
    chroma = y[:, 0] - y[:, 2]
    assert chroma.abs().max() < 0.02 < 0.4 < (red_and_blue[:, 0] - red_and_blue[:, 2]).abs().min()


def test_a_better_quality_loses_less():
    x = photo(96, 96)
    errors = [float((jpeg_tensor(x, q) - x).square().mean()) for q in (5, 15, 30, 50, 70, 85, 95)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("quality", [99.9999, 100.0])
def test_the_best_qualities_give_numbers_and_lose_chroma_only(quality):
    x = photo(32, 32).mean(1, keepdim=True).expand(-1, 3, -1, -1)  # grey
    torch.testing.assert_close(jpeg_tensor(x, torch.tensor([quality])), x, rtol=0, atol=1e-3)


@pytest.mark.parametrize("quality", [0.0, -5.0, 101.0])
def test_a_quality_that_jpeg_does_not_know_is_refused(quality):
    with pytest.raises(ValueError, match="quality"):
        jpeg_tensor(noise(1, 3, 8, 8), quality)


def test_one_number_is_the_quality_of_all():
    x = noise(2, 3, 16, 16)
    assert torch.equal(jpeg_tensor(x, 60), jpeg_tensor(x, torch.tensor([60.0, 60.0])))


def test_rounding_has_no_gradient_and_its_soft_form_has():
    x = photo(32, 40).requires_grad_()
    jpeg_tensor(x, torch.tensor([50.0])).square().sum().backward()
    assert x.grad is not None and x.grad.abs().max() == 0
    jpeg_tensor(x, torch.tensor([50.0]), differentiable=True).square().sum().backward()
    assert x.grad.isfinite().all() and x.grad.abs().max() > 0.01


def test_soft_rounding_stays_near_rounding():
    x = photo(32, 40)
    hard, soft = (jpeg_tensor(x, 80.0, differentiable=flag) for flag in (False, True))
    assert 0 < (hard - soft).abs().max() < 0.1


def test_autocast_does_not_change_the_result():
    x = photo(32, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = jpeg_tensor(x, 60.0)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, jpeg_tensor(x, 60.0))
