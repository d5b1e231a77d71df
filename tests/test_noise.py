"""Noise as a function of (seed, draw, place)."""

import pytest
import torch

from resdiff.noise import SeededNoise, SequentialNoise, StackedNoise, seeds_from
from resdiff.tiling import Box

CPU = torch.device("cpu")


@pytest.mark.parametrize(("ratio", "multiple"), [((4, 1), 1), ((1, 1), 1), ((1, 8), 8)])
def test_a_tile_sees_the_noise_of_its_place_on_the_canvas(ratio: tuple[int, int], multiple: int) -> None:
    up, down = ratio

    def draw(box: Box) -> torch.Tensor:
        shape = torch.Size((2, 3, box.height * up // down, box.width * up // down))
        return SeededNoise([5, -7], CPU, None, box)(2, shape)

    whole = draw(Box(0, 0, 200, 152))
    tile = Box(9 * multiple, 5 * multiple, 11 * multiple, 13 * multiple)
    expected = whole[..., tile.top * up // down :, tile.left * up // down :]
    part = draw(tile)
    assert torch.equal(part, expected[..., : part.shape[-2], : part.shape[-1]])


def test_noise_is_standard_normal_and_differs_between_seeds_draws_and_cells() -> None:
    shape, box = torch.Size((2, 3, 256, 256)), Box(0, 0, 256, 256)
    noise = SeededNoise([1, 2], CPU, None, box)
    first, second = noise(0, shape), noise(1, shape)
    assert abs(float(first.mean())) < 0.01 and abs(float(first.std()) - 1) < 0.01
    for a, b in ((first[0], first[1]), (first, second), (first[..., :64, :64], first[..., 64:128, :64])):
        assert abs(float((a * b).mean())) < 0.03


def test_noise_does_not_depend_on_the_batch() -> None:
    box, shape = Box(0, 0, 70, 90), (3, 70, 90)
    both = SeededNoise([3, 4], CPU, None, box)(1, torch.Size((2, *shape)))
    alone = SeededNoise([4], CPU, None, box)(1, torch.Size((1, *shape)))
    assert torch.equal(both[1:], alone)


def test_given_latents_replace_the_first_draw_only_and_must_fit() -> None:
    given = torch.randn(1, 3, 64, 64)
    noise = SeededNoise([1], CPU, given, Box(16, 0, 16, 32))
    shape = torch.Size((1, 3, 16, 32))
    assert torch.equal(noise(0, shape), given[..., 16:32, :32])
    assert not torch.equal(noise(1, shape), given[..., 16:32, :32])
    with pytest.raises(ValueError, match="do not cover"):
        SeededNoise([1], CPU, given, Box(60, 0, 16, 32))(0, shape)


def test_one_generator_gives_a_seed_per_image_in_order_and_a_list_one_each() -> None:
    one = seeds_from(torch.Generator().manual_seed(0), 3)
    assert seeds_from(torch.Generator().manual_seed(0), 2) == one[:2]
    assert len(set(one)) == 3 and max(abs(s) for s in one) > 2**32
    generators = [torch.Generator().manual_seed(s) for s in (0, 9)]
    assert seeds_from(generators, 2) == [one[0], seeds_from(torch.Generator().manual_seed(9), 1)[0]]
    with pytest.raises(ValueError, match="list of 2 for 3"):
        seeds_from(generators, 3)


def test_sequential_noise_is_the_generators_own_order() -> None:
    noise = SequentialNoise(torch.Generator().manual_seed(4), CPU)
    draws = [noise(0, torch.Size((1, 3, 8, 8))), noise(1, torch.Size((1, 3, 8, 8)))]
    g = torch.Generator().manual_seed(4)
    assert all(torch.equal(d, torch.randn(1, 3, 8, 8, generator=g)) for d in draws)


def test_stacked_tiles_have_the_noise_that_each_has_alone() -> None:
    parts = [SeededNoise([1, 2], CPU, None, Box(0, left, 16, 16)) for left in (0, 40, 8)]
    stacked = StackedNoise(parts)(1, torch.Size((6, 3, 32, 32)))
    alone = torch.cat([part(1, torch.Size((2, 3, 32, 32))) for part in parts])
    assert torch.equal(stacked, alone)


def test_only_draws_in_order_need_every_draw() -> None:
    assert SequentialNoise.in_order and not SeededNoise.in_order and not StackedNoise.in_order


def test_a_list_of_other_things_than_generators_is_refused() -> None:
    with pytest.raises(ValueError, match=r"generator holds 1; pass torch\.Generators"):
        seeds_from([1, 2], 2)
