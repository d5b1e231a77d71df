"""Prompts, guidance and the dial as functions: what is said, for whom, and how the network's answers are combined."""

import pytest
import torch

from resdiff.images import Photo
from resdiff.pipelines.guidance import (
    UNGUIDED,
    Guidance,
    check_guidance,
    dialled,
    embedded,
    guided,
    one_per_result,
    steered_away,
    unknown,
)


class Network:
    """Answers -1 where nothing is said, else the sum of each prompt; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[torch.Tensor | None] = []

    def __call__(self, prompt: torch.Tensor | None = None) -> torch.Tensor:
        self.asked.append(prompt)
        return torch.tensor([-1.0]) if prompt is None else prompt.sum(dim=1)


SHARP, SOFT = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 0.0]])


@pytest.mark.parametrize(
    ("guidance", "expected", "calls"),
    [
        (UNGUIDED, -1.0, 1),
        (Guidance(scale=3.0), -1.0, 1),
        (Guidance(SHARP), 3.0, 1),
        (Guidance(SHARP, SOFT, scale=1.0), 3.0, 1),
        (Guidance(SHARP, scale=2.0), -1 + 2 * 4, 2),
        (Guidance(SHARP, scale=0.25), -1 + 0.25 * 4, 2),
        (Guidance(SHARP, SOFT, scale=0.0), 0.5, 2),
        (Guidance(SHARP, SOFT, scale=2.0), 0.5 + 2 * 2.5, 2),
        (Guidance(None, SOFT, scale=2.0), 0.5 + 2 * -1.5, 2),
    ],
)
def test_the_answers_are_combined_with_as_few_calls_as_can_be(guidance, expected: float, calls: int) -> None:
    network = Network()
    assert guided(network, guidance) == expected
    assert len(network.asked) == calls


def test_half_precision_answers_are_combined_in_float32() -> None:
    answers = iter([torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0078125], dtype=torch.bfloat16)])
    out = guided(lambda **_: next(answers), Guidance(SHARP, scale=1.5))
    assert out.dtype == torch.float32 and out == 1 + 1.5 * 0.0078125


def test_rows_follow_images_and_tiles() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [3.0, 0.0]])
    guidance = Guidance(rows, rows.flip(0), scale=2.0, fidelity=0.5)
    some = guidance.of_images([1, 2])
    assert some.prompt[:, 0].tolist() == [0, 3] and some.negative_prompt[:, 0].tolist() == [0, 1]
    tiles = some.of_tiles(2)  # both images in the first tile, then both in the second
    assert tiles.prompt[:, 0].tolist() == [0, 3, 0, 3]
    assert (tiles.scale, tiles.fidelity) == (2.0, 0.5)
    assert guidance.of_images([1]).prompt is None  # no word of this image's is known: nothing was said


def test_the_dial_ends_exactly_at_its_ends_and_is_linear_between() -> None:
    first, final = torch.rand(2, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dialled(first, final, None), final)
    assert torch.equal(dialled(first, final, 0.0), final)
    assert torch.equal(dialled(first, final, 1.0), first)
    torch.testing.assert_close(dialled(first, final, 0.25), first + 0.75 * (final - first))


def test_each_text_is_embedded_once_and_alone() -> None:
    asked = []

    def encode(text: str) -> torch.Tensor:
        asked.append(text)
        return torch.full((1, 2), float(len(text)))

    rows = embedded(encode, ["fur", "", "sky", "fur"])
    assert asked == ["fur", "sky"]
    assert rows[:, 0].tolist() == [3, 0, 3, 3]
    assert embedded(encode, ["", ""]) is None
    assert unknown(["xyz", "", "fur"], torch.tensor([[0.0], [0.0], [1.0]])) == ["xyz"]


def test_images_of_which_nothing_negative_is_said_are_steered_away_from_themselves() -> None:
    prompt, negative = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [5.0]])
    assert steered_away(prompt, negative).tolist() == [[1], [5]]
    assert steered_away(None, negative).tolist() == [[0], [5]]
    assert steered_away(prompt, torch.zeros(2, 1)) is None and steered_away(prompt, None) is None


def test_one_text_is_for_all_and_a_list_has_one_for_each_image() -> None:
    photos = [Photo(torch.full((3, 1, 1), value)) for value in (-1.0, 1.0)]
    assert one_per_result("prompt", None, photos, 2) == ["", ""]
    assert one_per_result("prompt", " fur ", photos, 4) == ["fur"] * 4
    assert one_per_result("prompt", ["a", "b"], photos, 4) == ["a", "a", "b", "b"]
    with pytest.raises(ValueError, match="negative_prompt is a list of 1 for 2 images; pass one text"):
        one_per_result("negative_prompt", ["a"], photos, 2)


def test_a_function_says_the_text_of_each_image() -> None:
    photos = [Photo(torch.full((3, 1, 1), value)) for value in (-1.0, 1.0)]
    said = one_per_result("prompt", lambda image: str(image.getpixel((0, 0))), photos, 4)
    assert said == ["(0, 0, 0)"] * 2 + ["(255, 255, 255)"] * 2
    with pytest.raises(ValueError, match="prompt is a function that returned None; it must return a str"):
        one_per_result("prompt", lambda image: None, photos, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((4, None, None, None), "prompt is or holds 4"),
        ((["a", None], None, None, None), "prompt is or holds None"),
        ((None, {"a": 1}, None, None), "negative_prompt is or holds"),
        ((None, None, -1, None), "guidance_scale=-1 must be"),
        ((None, None, float("nan"), None), "guidance_scale=nan"),
        ((None, None, float("inf"), None), "guidance_scale=inf"),
        ((None, None, "2", None), "guidance_scale='2'"),
        ((None, None, None, 1.01), "fidelity=1.01 must lie between 0"),
        ((None, None, None, -0.1), "fidelity=-0.1"),
        ((None, None, None, float("nan")), "fidelity=nan"),
        ((None, None, None, True), "fidelity=True"),
    ],
)
def test_what_cannot_be_meant_is_one_line(given: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_guidance(*given)
    assert "\n" not in str(caught.value)
