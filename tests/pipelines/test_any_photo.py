"""Any photo, any size, any scale, any type: exact sizes and finite values, tiles that agree with the whole, no grid.

The short form is the suite's and always the same. RESDIFF_LONG_TESTS=20 tries twenty times as many examples, drawn
afresh; figures are printed with `pytest -s`.
"""

import copy
import math
import os
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from resdiff.noise import SeededNoise
from resdiff.pipelines import SRPipeline
from resdiff.tiling import Box, Smooth, boxes

LONG = int(os.environ.get("RESDIFF_LONG_TESTS", "0"))
LARGEST = 300  # side of an input
OUTPUT = 500_000  # pixels of a result, or of the native canvas it is made from
NATIVE = 4
MODES = ("L", "LA", "RGB", "RGBA", "P", "CMYK", "1", "I;16")
ARRAYS = ("uint8", "uint16", "float32", "float64", "bool")
FILES = ("png 16 bit grey", "png 16 bit colour", "png 16 bit alpha", "tiff 16 bit colour")
SEEDS = 20


def examples(count: int) -> settings:
    """Return the settings of a property test that runs `count` examples in the short form."""
    return settings(
        max_examples=count * max(1, LONG),
        derandomize=not LONG,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- photos --------------------------------------------------------------------------------------------------------


@st.composite
def sizes(draw: st.DrawFn, scale: float) -> tuple[int, int]:
    """Height and width of an input whose canvas and result stay small."""
    most = int(OUTPUT / max(NATIVE, scale) ** 2)
    height = draw(st.integers(1, LARGEST))
    width = draw(st.integers(1, min(LARGEST, max(1, most // height))))
    return draw(st.sampled_from([(height, width), (width, height)]))


@st.composite
def photos(draw: st.DrawFn) -> tuple[str, int, int, float]:
    """What to make a photo as, its height and width, and the scale."""
    scale = draw(st.one_of(st.floats(0.3, 8), st.sampled_from([0.3, 0.5, 1, 1.5, 2, 3, 4, 8])))
    height, width = draw(sizes(scale))
    return draw(st.sampled_from(MODES + ARRAYS + FILES + ("tensor", "tensor grey"))), height, width, scale


def samples(height: int, width: int, channels: int) -> np.ndarray:
    """Return noise in [0, 1], (height, width, channels), that touches both ends."""
    values = np.random.default_rng(height * 301 + width).random((height, width, channels))
    return np.clip(values * 1.2 - 0.1, 0, 1)


def photo_as(kind: str, height: int, width: int, folder: Path) -> tuple[Any, int]:
    """Return a photo as `kind`, and how many channels the result stores: grey stays grey, alpha stays."""
    rgb = samples(height, width, 3)
    if kind in ARRAYS:
        return (rgb > 0.5 if kind == "bool" else as_dtype(rgb, kind)), 3
    if kind == "tensor":
        return torch.from_numpy(rgb).float().movedim(-1, 0), 3
    if kind == "tensor grey":
        return torch.from_numpy(rgb[..., 0]).float(), 1
    if kind in FILES:
        channels = 1 if "grey" in kind else 4 if "alpha" in kind else 3
        values = as_dtype(samples(height, width, channels), "uint16")
        values = values[..., 0] if channels == 1 else values
        path = folder / ("photo.png" if kind.startswith("png") else "photo.tif")
        if kind.startswith("png"):
            path.write_bytes(imagecodecs.png_encode(values))
        else:
            tifffile.imwrite(path, values, photometric="rgb")
        return path, channels
    if kind == "I;16":
        return Image.fromarray(as_dtype(rgb[..., 0], "uint16")), 1
    image = Image.fromarray(as_dtype(rgb, "uint8"))
    image = image.quantize(8) if kind == "P" else image.convert(kind)
    return image, {"L": 1, "1": 1, "LA": 2, "RGBA": 4}.get(kind, 3)


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return values in [0, 1] over the range of an integer dtype, or as floats."""
    top = np.iinfo(dtype).max if dtype.startswith("u") else 1
    return (values * top).astype(dtype)


def wanted(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the size of the result that is promised."""
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


# --- sizes, values, types --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> SRPipeline:
    pipe = SRPipeline.from_pretrained()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def bundled_bf16() -> SRPipeline:
    pipe = SRPipeline.from_pretrained(dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pixel_bf16(pixel) -> SRPipeline:
    return copy.deepcopy(pixel).to(torch.bfloat16)


def check_result(
    pipe: SRPipeline, photo: tuple[str, int, int, float], output_type: str, folder: Path, **options
) -> None:
    kind, height, width, scale = photo
    lr, channels = photo_as(kind, height, width, folder)
    options = {"num_inference_steps": 1, "generator": seeded(), "tile": "off"} | options
    result = pipe(lr, scale=scale, output_type=output_type, **options).images[0]
    size = wanted(height, width, scale)
    if output_type == "picture":
        bits_16 = kind in ("uint16", "I;16", *FILES)
        assert result.values.shape == (*size, channels)
        assert result.values.dtype == (np.uint16 if bits_16 else np.uint8)
    elif output_type == "pil":
        assert result.size == size[::-1] and len(result.getbands()) == channels
    else:
        values = np.asarray(result)
        assert size == (values.shape[-2:] if output_type == "pt" else values.shape[:2])
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1


@examples(60)
@given(photo=photos(), output_type=st.sampled_from(["pil", "np", "pt", "picture"]), half=st.booleans())
@pytest.mark.filterwarnings("ignore:16-bit")
def test_every_photo_gets_the_exact_size_and_finite_values(
    pixel, pixel_bf16, tmp_path, photo, output_type, half
) -> None:
    fix = ("none", "adain", "wavelet", "luma")[photo[1] % 4]
    check_result(pixel_bf16 if half else pixel, photo, output_type, tmp_path, color_fix=fix)


@examples(6)
@given(photo=photos(), output_type=st.sampled_from(["np", "picture"]), half=st.booleans())
def test_every_photo_passes_the_bundled_model(bundled, bundled_bf16, tmp_path, photo, output_type, half) -> None:
    check_result(bundled_bf16 if half else bundled, photo, output_type, tmp_path)


@examples(12)
@given(photo=photos(), tile=st.sampled_from([1, 64, 100]), tile_batch=st.integers(1, 4))
def test_every_photo_gets_the_exact_size_in_tiles(pixel, tmp_path, photo, tile, tile_batch) -> None:
    check_result(pixel, photo, "picture", tmp_path, tile=tile, tile_batch=tile_batch, color_fix="wavelet")


# --- tiles ---------------------------------------------------------------------------------------------------------


@examples(4)
@given(
    length=st.integers(181, LARGEST),
    other=st.integers(1, 24),
    wide=st.booleans(),
    scale=st.floats(0.5, 5),
    color_fix=st.sampled_from(["none", "adain", "wavelet", "luma"]),
    tile_batch=st.integers(1, 3),
)
def test_tiles_agree_with_the_whole(bundled, length, other, wide, scale, color_fix, tile_batch) -> None:
    height, width = (other, length) if wide else (length, other)
    lr = torch.from_numpy(samples(height, width, 3)).float().movedim(-1, 0)
    whole, tiled = (
        bundled(lr, scale=scale, tile=tile, color_fix=color_fix, generator=seeded(), output_type="pt", **options).images
        for tile, options in (("off", {}), (1, {"tile_batch": tile_batch}))
    )
    assert (whole - tiled).abs().max() <= 1 / 255


@st.composite
def canvases(draw: st.DrawFn) -> tuple[int, int, list[Box], int, int]:
    """Sides of a canvas in LR pixels, some boxes inside, and latent pixels per LR pixel as a fraction."""
    factor, divisor = draw(st.sampled_from([(1, 1), (4, 1), (1, 4), (1, 8)]))
    height, width = (draw(st.integers(1, LARGEST // divisor)) * divisor for _ in range(2))
    cut = []
    for _ in range(draw(st.integers(1, 6))):
        top, left = (draw(st.integers(0, side // divisor - 1)) * divisor for side in (height, width))
        h = draw(st.integers(1, (height - top) // divisor)) * divisor
        w = draw(st.integers(1, (width - left) // divisor)) * divisor
        cut.append(Box(top, left, h, w))
    return height, width, cut, factor, divisor


@examples(40)
@given(canvas=canvases(), seed=st.integers(-(2**63), 2**63 - 1), draw=st.integers(0, 15))
def test_noise_is_the_same_bit_for_bit_however_tiles_are_cut(canvas, seed, draw) -> None:
    height, width, cut, factor, divisor = canvas

    def noise(box: Box) -> Tensor:
        shape = torch.Size((2, 3, box.height * factor // divisor, box.width * factor // divisor))
        return SeededNoise([seed, seed ^ 1], torch.device("cpu"), None, box)(draw, shape)

    whole = noise(Box(0, 0, height, width))
    for box in cut:
        rows, columns = (
            slice(start * factor // divisor, (start + side) * factor // divisor)
            for start, side in ((box.top, box.height), (box.left, box.width))
        )
        assert torch.equal(noise(box), whole[..., rows, columns])


def border_columns(width: int, tiling: Smooth, scale: int) -> list[int]:
    """Return the columns of the result at which a tile begins or ends, or its weight starts or stops to rise."""
    columns: set[int] = set()
    for box in boxes(1, width, tiling.size, tiling.step):
        start, end = box.left, box.left + box.width
        reach = tiling.overlap - tiling.halo
        columns |= {start, start + tiling.halo, start + reach} if start > 0 else set()
        columns |= {end, end - tiling.halo, end - reach} if end < width else set()
    return [column * scale for column in sorted(columns)]


def grid_strength(pipe: SRPipeline, width: int, height: int, tile: int, steps: int) -> float:
    """Return mean gradient at tile borders over mean gradient elsewhere, of flat grey images, over all seeds.

    Elsewhere are the other columns that begin an LR pixel, as all borders do. The pixel shuffle
    shows at less than a tenth of a grey level, tiles or not.
    """
    borders = border_columns(width, pipe.default_tiling(tile), NATIVE)
    elsewhere = [column for column in range(NATIVE, width * NATIVE, NATIVE) if column not in borders]
    lr = torch.full((3, height, width), 0.5)
    gradients = torch.zeros(width * NATIVE, dtype=torch.float64)
    for seed in range(SEEDS):
        image = pipe(lr, generator=seeded(seed), tile=tile, output_type="pt", num_inference_steps=steps).images[0]
        gradients[1:] += image.double().diff(dim=-1).abs().mean(dim=(0, 1))
    assert len(borders) >= 4
    strength = float(gradients[borders].mean() / gradients[elsewhere].mean())
    level = float(gradients[1:].mean()) / SEEDS * 255
    print(
        f"{steps} steps: gradient at tile borders over elsewhere {strength:.3f}, mean gradient {level:.3f} grey levels"
    )
    return strength


@pytest.mark.parametrize("steps", [1, 4])
def test_flat_grey_shows_no_grid(bundled, steps: int) -> None:
    assert 0.9 <= grid_strength(bundled, width=308, height=24, tile=1, steps=steps) <= 1.05


def test_flat_grey_shows_no_grid_in_latent_tiles(latent) -> None:
    assert grid_strength(latent, width=160, height=16, tile=64, steps=1) <= 1.05
