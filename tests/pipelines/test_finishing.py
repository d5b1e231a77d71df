"""From restored bands to results, against the same steps on the whole image."""

import numpy as np
import pytest
import torch

from resdiff import bands, canvas
from resdiff.color import color_fix
from resdiff.images import Photo
from resdiff.pipelines.finishing import collected, finished
from resdiff.pipelines.tiles import restored_bands
from resdiff.resize import bicubic


def image(height: int, width: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


@pytest.fixture
def narrow(monkeypatch, tmp_path) -> None:
    """Small bands, and every canvas in a file."""
    monkeypatch.setattr(bands, "BAND_PIXELS", 700)
    monkeypatch.setattr(canvas, "IN_MEMORY", 0)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("fix", ["none", "adain", "wavelet", "luma"])
@pytest.mark.parametrize("size", [(120, 88), (47, 201), (9, 5)], ids=str)
def test_bands_are_finished_as_the_whole_image_is(fix, size) -> None:
    native, lq = image(120, 88), image(30, 22, seed=1)
    stream = finished(iter(native.split(13, dim=-2)), (120, 88), size, lq, fix)
    whole = bicubic(native, size, "pil") if size != (120, 88) else native
    expected = color_fix(whole, bicubic(lq, size, "pil"), fix).clamp(-1, 1)
    torch.testing.assert_close(torch.cat(list(stream), dim=-2), expected, atol=1e-4, rtol=0)


def test_adain_takes_a_single_pixel() -> None:
    (out,) = finished(iter([image(4, 4, 1)]), (4, 4), (1, 1), image(1, 1, 1, seed=1), "adain")
    torch.testing.assert_close(out, image(1, 1, 1, seed=1), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_pictures_have_the_channels_and_the_bits_of_the_photo(bits, dtype) -> None:
    x = image(40, 30, 4)
    alpha = torch.rand(1, 10, 8)
    photos = [
        Photo(torch.zeros(3, 10, 8), alpha=a, grey=grey, bits=bits, metadata={"dpi": (3.0, 3.0)})
        for grey in (True, False)
        for a in (None, alpha)
    ]
    pictures = collected(iter(x.split(7, dim=-2)), photos, (40, 30), "picture")
    assert [p.values.shape for p in pictures] == [(40, 30, c) for c in (1, 2, 3, 4)]
    assert all(p.values.dtype == dtype and p.metadata == {"dpi": (3.0, 3.0)} for p in pictures)
    top = np.iinfo(dtype).max
    enlarged = bicubic(alpha[None], (40, 30), "pil")[0, 0].clamp(0, 1).numpy() * top
    for picture in (pictures[1], pictures[3]):
        assert np.abs(picture.values[..., -1] - enlarged).max() < 0.5 + top * 2e-5
    expected = (x[2] / 2 + 0.5).movedim(0, -1).numpy() * top
    assert np.abs(pictures[2].values - expected).max() < 0.51


def test_arrays_and_tensors_are_floats_of_three_channels() -> None:
    x = image(8, 6, 2)
    photos = [Photo(torch.zeros(3, 2, 2), alpha=torch.ones(1, 2, 2)), Photo(torch.zeros(3, 2, 2), grey=True)]
    arrays = collected(iter(x.split(3, dim=-2)), photos, (8, 6), "np")
    tensors = collected(iter(x.split(3, dim=-2)), photos, (8, 6), "pt")
    for array, tensor, one in zip(arrays, tensors, x, strict=True):
        assert array.dtype == np.float32 and array.shape == (8, 6, 3)
        torch.testing.assert_close(tensor, one / 2 + 0.5)
        np.testing.assert_allclose(array, tensor.movedim(0, -1).numpy(), atol=1e-7)


def test_a_tensor_that_memory_cannot_hold_is_one_line() -> None:
    photos = [Photo(torch.zeros(3, 4, 4))]
    with pytest.raises(RuntimeError, match=r"no memory for a result of \d+x\d+ floats; use output_type='picture'"):
        collected(iter([image(1, 4, 1)]), photos, (2**25, 2**25), "pt")


def test_a_result_too_large_for_the_disk_is_known_before_the_model_works() -> None:
    def never(x, boxes):
        raise AssertionError

    work = restored_bands(never, image(4, 4, 1), None, 4, 1)
    with pytest.raises(OSError, match="the result needs"):
        collected(work, [Photo(torch.zeros(3, 4, 4))], (2**22, 2**22), "pil")
