"""Bicubic reduction: each kernel is the one it says, 8 bits, and Set5's legacy kernel bit for bit."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from resdiff.data.degradation.bicubic import Bicubic, BicubicDraw
from resdiff.resize import bicubic, matlab_legacy

GENERATOR = torch.Generator().manual_seed(0)


def photo(height: int, width: int) -> torch.Tensor:
    """A smooth image with edges and noise, (1, 3, H, W) in 8-bit steps."""
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.linspace(0, 9, height), torch.linspace(0, 7, width), indexing="ij")
    waves = torch.stack([torch.sin(x * k) * torch.cos(y + k) for k in (1, 2, 3)]) + (x > y)
    noisy = 0.3 * waves + 0.4 + 0.05 * torch.randn(3, height, width, generator=generator)
    return (noisy.clamp(0, 1) * 255).round()[None] / 255


def test_the_matlab_kernel_mirrors_and_stretches() -> None:
    hr = photo(48, 36)
    lr = Bicubic(kernel="matlab", round8=False)(hr, GENERATOR)
    assert torch.equal(lr, bicubic(hr, (12, 9), "matlab").clamp(0, 1))


def test_the_torch_kernel_is_interpolates() -> None:
    hr = photo(48, 36)
    expected = F.interpolate(hr, size=(12, 9), mode="bicubic").clamp(0, 1)
    assert torch.equal(Bicubic(kernel="torch", round8=False)(hr, GENERATOR), expected)


def test_the_pil_kernel_is_pillows_within_one_level() -> None:
    hr = photo(64, 40)
    pil = Image.fromarray((hr[0] * 255).byte().permute(1, 2, 0).numpy()).resize((10, 16), Image.Resampling.BICUBIC)
    lr = (Bicubic(kernel="pil")(hr, GENERATOR)[0] * 255).permute(1, 2, 0).numpy()
    assert np.abs(lr - np.asarray(pil)).max() < 1.01


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_the_legacy_kernel_is_matlab_legacy_bit_for_bit(scale: int) -> None:
    hr = photo(60, 36)
    image = (hr[0] * 255).byte().permute(1, 2, 0).numpy()
    lr = Bicubic(kernel="matlab_legacy", scale=scale)(hr, GENERATOR)
    assert torch.equal((lr[0] * 255).permute(1, 2, 0), torch.from_numpy(matlab_legacy(image, 1 / scale)).float())
    assert torch.equal(lr, (lr * 255).round() / 255)


def test_the_legacy_kernel_keeps_its_size_at_every_whole_scale() -> None:
    # the old resize takes the ceiling of side / scale, which rounding errors must not lift
    assert all(math.ceil(1 / scale * (scale * side)) == side for scale in range(1, 9) for side in range(1, 1025))


def test_the_legacy_kernel_of_a_known_row() -> None:
    # one bright column: Keys' kernel with a = -0.5, stretched by 4
    row = torch.zeros(1, 3, 4, 16)
    row[..., 8] = 1
    # a column's distance from the LR centres 5.5, 9.5 is 2.5 and 1.5 pixels, from 1.5 and 13.5 it is 6.5 and 5.5
    u = [6.5 / 4, 2.5 / 4, 1.5 / 4, 5.5 / 4]
    weights = [1.5 * v**3 - 2.5 * v**2 + 1 if v < 1 else -0.5 * v**3 + 2.5 * v**2 - 4 * v + 2 for v in u]
    expected = [max(0, math.floor(255 * w / 4 + 0.5)) for w in weights]
    lr = Bicubic(kernel="matlab_legacy")(row, GENERATOR) * 255
    assert lr[0, 0, 0].round().tolist() == expected


def test_rounding_leaves_only_8_bit_values() -> None:
    lr = Bicubic(kernel="matlab")(photo(48, 36), GENERATOR) * 255
    assert torch.allclose(lr, lr.round(), atol=1e-4)
    assert not torch.allclose(*(Bicubic(round8=flag)(photo(48, 36), GENERATOR) for flag in (True, False)), atol=1e-5)


def test_overshoot_is_clipped() -> None:
    hr = torch.zeros(1, 3, 16, 16)
    hr[..., 8:] = 1
    assert bicubic(hr, (4, 4), "matlab").max() > 1
    lr = Bicubic(kernel="matlab", round8=False)(hr, GENERATOR)
    assert lr.min() == 0 and lr.max() == 1


def test_the_target_is_hr_itself() -> None:
    hr = photo(16, 16)
    assert Bicubic().pair(hr, [BicubicDraw()])[0] is hr


@pytest.mark.parametrize(
    "fields", [{"kernel": "cubic"}, {"scale": 0}, {"kernel": "matlab_legacy", "round8": False}], ids=str
)
def test_impossible_settings_are_refused_in_one_line(fields: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(fields))} is|^round8 is") as error:
        Bicubic(**fields)
    assert "\n" not in str(error.value)


def test_sides_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^hr is 18x16, crop it to multiples of the scale 4$"):
        Bicubic()(torch.zeros(1, 3, 18, 16), GENERATOR)
