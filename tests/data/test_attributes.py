"""Attributes of photos whose detail, grain, contrast and texture over the prediction are known."""

import math

import pytest
import torch
from torch import Tensor

from resdiff.data.attributes import ATTRIBUTES, FLOOR, TRAITS, attributes, midmean, traits
from resdiff.metrics.texture import flat_noise, sharpness

DETAIL, GRAIN, CONTRAST, TEXTURE = range(4)


def noise(sigma: float, side: int = 96, batch: int = 1, seed: int = 0) -> Tensor:
    """Grey photos of white noise, `sigma` in 8-bit levels."""
    field = torch.randn(batch, 1, side, side, generator=torch.Generator().manual_seed(seed))
    return (0.5 + sigma / 219 * field).expand(-1, 3, -1, -1)


def test_a_photo_that_is_as_predicted_has_no_attributes() -> None:
    photo = noise(2)
    assert attributes(photo, photo).tolist() == [[0, 0, 0, 0]]
    assert ATTRIBUTES == ("detail", "grain", "contrast", "texture")


def test_deviations_count_by_their_ratio() -> None:
    found = attributes(noise(2), noise(1))[0]
    assert ((found > 0) & (found < math.log(2))).all()  # the floor takes its share
    # grain of white noise of deviation s is 0.945 s, detail sqrt(20) s
    assert found[DETAIL].item() == pytest.approx(math.log(2), abs=0.01)
    expected = math.log(math.hypot(0.945 * 2, FLOOR) / math.hypot(0.945, FLOOR))
    assert found[GRAIN].item() == pytest.approx(expected, abs=0.02)


def test_detail_and_grain_are_the_metrics() -> None:
    photo, predicted = noise(2.5), noise(1.5, seed=1)
    found = attributes(photo, predicted)[0]
    a, b = (sharpness(255 * x).item() for x in (photo, predicted))
    assert found[DETAIL].item() == pytest.approx(math.log(math.hypot(a, FLOOR) / math.hypot(b, FLOOR)), abs=1e-4)
    a, b = (flat_noise(255 * x, 255 * photo).item() for x in (photo, predicted))
    assert found[GRAIN].item() == pytest.approx(math.log(math.hypot(a, FLOOR) / math.hypot(b, FLOOR)), abs=1e-4)


def test_grain_is_undefined_where_nothing_is_flat_and_only_there() -> None:
    busy, quiet = noise(20), noise(1)
    found = attributes(torch.cat([busy, quiet]), torch.cat([quiet, quiet]))
    assert found[:, GRAIN].isnan().tolist() == [True, False]
    assert not found[:, [DETAIL, CONTRAST, TEXTURE]].isnan().any()
    assert attributes(busy, quiet, flat=quiet)[0, GRAIN].item() > 1  # another photo may say where it is flat


def test_waves_of_fifteen_pixels_are_contrast_and_little_detail() -> None:
    wave = torch.sin(torch.arange(96) * 2 * math.pi / 15).expand(1, 3, 96, 96)
    found = attributes(0.5 + 0.2 * wave, 0.5 + 0.1 * wave)[0]
    assert found[CONTRAST].item() == pytest.approx(math.log(2), abs=0.01)


def test_one_strong_edge_is_detail_but_no_texture() -> None:
    step = torch.full((1, 3, 96, 96), 0.3)
    step[..., 48:] = 0.7
    found = attributes(step, torch.full_like(step, 0.5))[0]
    assert found[DETAIL].item() > 2
    assert found[TEXTURE].item() == pytest.approx(0, abs=1e-3)


def test_the_traits_of_a_prediction_are_those_its_attributes_are_compared_by() -> None:
    hr, predicted = noise(3, batch=2), noise(1.5, batch=2, seed=1)
    found = attributes(hr, predicted)[:, [DETAIL, CONTRAST, TEXTURE]]
    torch.testing.assert_close(traits(hr) - traits(predicted), found)
    expected = math.log(math.hypot(sharpness(255 * predicted[:1]).item(), FLOOR))
    assert traits(predicted)[0, TRAITS.index("detail")].item() == pytest.approx(expected, abs=1e-4)


def test_the_midmean_leaves_out_the_outer_quarters() -> None:
    x = torch.tensor([[0.0, 1, 2, 3, 1000]])
    assert midmean(x).item() == pytest.approx(2)
    assert midmean(torch.full((2, 7), 5.0)).tolist() == pytest.approx([5, 5])


def test_gradients_are_finite_and_raise_what_was_asked_for() -> None:
    predicted = noise(1, side=40, batch=2)
    photo = predicted.clone()
    photo[1] = noise(20, side=40)[0]
    photo.requires_grad_(True)
    before = attributes(photo, predicted)
    wanted = torch.where(before.isnan(), 0, before).sum()
    wanted.backward()
    assert photo.grad is not None and photo.grad.isfinite().all() and (photo.grad[0] != 0).any()
    after = attributes(photo.detach() + 1e-3 * photo.grad / photo.grad.norm(), predicted)
    assert torch.where(after.isnan(), 0, after).sum() > wanted.detach()


def test_an_exactly_flat_photo_has_a_finite_gradient() -> None:
    photo = torch.full((1, 3, 40, 40), 0.5, requires_grad=True)
    attributes(photo, torch.full_like(photo, 0.5)).sum().backward()
    assert photo.grad is not None and photo.grad.isfinite().all()


def test_a_batch_is_its_photos_one_by_one() -> None:
    photos, predicted = noise(2, batch=3), noise(1, batch=3, seed=1)
    together = attributes(photos, predicted)
    alone = torch.cat([attributes(photos[i : i + 1], predicted[i : i + 1]) for i in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 30, 40), (1, 1, 40, 40), (3, 40, 40)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="one shape"):
        attributes(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="one shape"):
        attributes(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 44))
