"""Gaussian and Poisson noise: strength, grey fields, what is left alone, and independence of the batch."""

import math

import pytest
import torch

from resdiff.data.degradation.noise import SeededFields, add_gaussian, add_poisson
from resdiff.data.degradation.ragged import Ragged

CPU = torch.device("cpu")
SIZES = ((20, 31), (40, 12), (25, 25))


def images() -> Ragged:
    canvas = torch.rand(3, 3, 40, 31, generator=torch.Generator().manual_seed(0))
    return Ragged(canvas, SIZES).map(lambda pixels: pixels)


class FixedFields:
    """The same normal value everywhere; counts that are off by a fixed number. Remembers what it was asked for."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.rates: dict[int, torch.Tensor] = {}
        self.shapes: dict[int, tuple[int, ...]] = {}

    def normal(self, i: int, shape: tuple[int, int, int]) -> torch.Tensor:
        self.shapes[i] = tuple(shape)
        return torch.full(shape, self.value)

    def poisson(self, i: int, rate: torch.Tensor) -> torch.Tensor:
        self.rates[i] = rate
        return rate + self.value


NOISES = {"gaussian": (add_gaussian, torch.tensor([5.0, 20.0, 30.0])), "poisson": (add_poisson, torch.tensor([0.3, 1.0, 2.5]))}  # fmt: skip


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("gray", [[True, False, True], [False] * 3])
def test_a_sample_does_not_depend_on_its_batch(noise, gray):
    add, strength = NOISES[noise]
    x, flags = images(), torch.tensor(gray)
    together = add(x, strength, flags, SeededFields([7, 8, 9], CPU))
    assert together.sizes == SIZES
    for i in range(3):
        alone = add(Ragged.of(x.image(i)[None]), strength[i : i + 1], flags[i : i + 1], SeededFields([7 + i], CPU))
        torch.testing.assert_close(together.image(i), alone.tensor()[0], rtol=0, atol=1e-6)
    assert together.pixels.where(x.mask(), 0.0).equal(together.pixels)


@pytest.mark.parametrize("noise", NOISES)
def test_grey_noise_is_the_same_in_all_channels(noise):
    add, strength = NOISES[noise]
    x = images().map(lambda pixels: 0.4 + 0.2 * pixels)
    gray = torch.tensor([True, False, True])
    added = add(x, strength / 10, gray, SeededFields([1, 2, 3], CPU)).pixels - x.pixels
    spread = (added.amax(1) - added.amin(1)).flatten(1).amax(1)
    assert spread[0] < 1e-6 and spread[2] < 1e-6
    assert spread[1] > 0.01


@pytest.mark.parametrize("noise", NOISES)
def test_inactive_images_pass_unchanged_and_draw_nothing(noise):
    add, strength = NOISES[noise]
    x = images().map(lambda pixels: 3 * pixels - 1)  # out of range, to see that it is not clipped either
    fields = SeededFields([1, 2, 3], CPU)
    before = fields.generators[1].get_state()
    y = add(x, strength, torch.zeros(3, dtype=torch.bool), fields, torch.tensor([True, False, True]))
    assert torch.equal(y.image(1), x.image(1))
    assert torch.equal(fields.generators[1].get_state(), before)
    assert y.image(0).min() >= 0 and y.image(0).max() <= 1
    assert not torch.equal(y.image(2), x.image(2))


@pytest.mark.parametrize("noise", NOISES)
def test_results_are_clipped(noise):
    add, strength = NOISES[noise]
    y = add(images(), strength * 10, torch.zeros(3, dtype=torch.bool), SeededFields([1, 2, 3], CPU))
    assert y.pixels.min() == 0 and y.pixels.max() == 1


@pytest.mark.parametrize("noise", NOISES)
def test_autocast_does_not_change_the_result(noise):
    add, strength = NOISES[noise]
    gray = torch.tensor([True, False, False])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = add(images(), strength, gray, SeededFields([1, 2, 3], CPU)).pixels
    assert torch.equal(inside, add(images(), strength, gray, SeededFields([1, 2, 3], CPU)).pixels)


def test_sigma_is_in_8_bit_levels():
    x = Ragged.of(torch.full((2, 3, 128, 128), 0.5))
    y = add_gaussian(x, torch.tensor([2.0, 25.0]), torch.zeros(2, dtype=torch.bool), SeededFields([1, 2], CPU))
    spread = 255 * (y.pixels - 0.5).std((1, 2, 3))
    assert spread.tolist() == pytest.approx([2.0, 25.0], rel=0.02)


def test_gaussian_noise_is_its_field_times_sigma():
    x = Ragged.of(torch.full((1, 3, 4, 4), 0.5))
    y = add_gaussian(x, torch.tensor([25.5]), torch.tensor([False]), FixedFields(2.0)).tensor()
    torch.testing.assert_close(y, torch.full_like(y, 0.7))


def test_grey_gaussian_noise_asks_for_one_channel():
    fields = FixedFields(1.0)
    add_gaussian(images(), torch.ones(3), torch.tensor([True, False, False]), fields)
    assert fields.shapes == {0: (1, 20, 31), 1: (3, 40, 12), 2: (3, 25, 25)}


def test_poisson_noise_has_the_variance_of_counts():
    level = 100 / 255
    x = torch.full((1, 3, 128, 128), level)
    x[..., 0, :100] = torch.arange(100) / 255  # a hundred and one tones: white is 128 counts
    x[..., 0, 100:] = 1 / 255
    y = add_poisson(Ragged.of(x), torch.tensor([1.0]), torch.tensor([False]), SeededFields([5], CPU)).tensor()
    added = (y - x)[..., 1:, :]
    assert float(added.std()) == pytest.approx(math.sqrt(level / 128), rel=0.02)
    assert abs(float(added.mean())) < 1e-3


@pytest.mark.parametrize(
    ("tones", "white"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (128, 128), (129, 256), (256, 256)]
)
def test_white_is_the_power_of_two_that_holds_the_tones_of_the_image(tones, white):
    image = torch.arange(3 * 16 * 32).remainder(tones).view(1, 3, 16, 32) / 255 + 0.001  # not on a level: is rounded
    fields = FixedFields(0.0)
    add_poisson(Ragged.of(image), torch.ones(1), torch.tensor([False]), fields)
    torch.testing.assert_close(fields.rates[0], (image[0] * 255).round() / 255 * white)


def test_the_canvas_outside_an_image_is_no_tone():
    flat = torch.full((2, 3, 8, 8), 0.5)
    x = Ragged(flat, ((8, 8), (4, 5))).map(lambda pixels: pixels)  # the second has zeros around it
    fields = FixedFields(0.0)
    add_poisson(x, torch.ones(2), torch.zeros(2, dtype=torch.bool), fields)
    assert fields.rates[1].shape == (3, 4, 5)
    torch.testing.assert_close(fields.rates[1], torch.full((3, 4, 5), 128 / 255))


def test_grey_counts_are_of_the_itu_grey_image():
    x = images()
    fields = FixedFields(0.0)
    add_poisson(x, torch.ones(3), torch.tensor([True, True, True]), fields)
    red, green, blue = x.image(2)
    levels = ((0.2989 * red + 0.587 * green + 0.114 * blue) * 255).round()
    white = 2 ** math.ceil(math.log2(len(levels.unique())))
    torch.testing.assert_close(fields.rates[2], levels[None] / 255 * white)


def test_the_noise_is_added_to_the_image_that_was_not_rounded():
    x = torch.full((1, 3, 4, 4), 0.5003)
    y = add_poisson(Ragged.of(x), torch.tensor([0.5]), torch.tensor([False]), FixedFields(0.0)).tensor()
    torch.testing.assert_close(y, x)


def test_one_strength_per_image_is_needed():
    with pytest.raises(ValueError, match="one per image"):
        add_gaussian(images(), torch.tensor(3.0), torch.zeros(3, dtype=torch.bool), FixedFields(0.0))
