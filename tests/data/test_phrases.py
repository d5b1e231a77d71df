"""Prompts drawn for crops: what is said is true, much is left unsaid, and the draw is the generator's alone."""

import math
import re

import pytest
import torch

from resdiff.data.attributes import ATTRIBUTES
from resdiff.data.phrases import SAYINGS, WORDINGS, draw_distraction, draw_prompt, draw_statement, draw_subject

NAN = math.nan


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def statements(name: str, value: float, count: int = 400) -> set[str]:
    """All that is said in so many draws."""
    g = generator()
    return {said for _ in range(count) if (said := draw_statement(name, value, g)) is not None}


def test_there_are_words_for_all_attributes() -> None:
    assert tuple(WORDINGS) == ATTRIBUTES


def test_a_very_sharp_crop_is_called_sharp_very_sharp_or_not_soft() -> None:
    said = statements("detail", 2.0)
    assert {"sharp", "very sharp", "extremely crisp", "not soft", "lots of detail", "no blur", "sharpen"} <= said
    assert not {"soft", "not sharp", "slightly sharp", "very soft", "no detail"} & said


def test_a_soft_crop_is_called_soft_or_not_sharp() -> None:
    said = statements("detail", -1.2)
    assert {"soft", "not sharp", "never crisp", "no detail", "blurry"} <= said
    assert not any(word in said for word in ("sharp", "very soft", "not soft", "slightly soft", "slightly sharp"))


def test_degrees_follow_the_magnitude() -> None:
    assert "slightly grainy" in statements("grain", 0.4) and "grainy" not in statements("grain", 0.4)
    assert "grainy" in statements("grain", 1.2) and "very grainy" not in statements("grain", 1.2)
    assert "very grainy" in statements("grain", 1.8)


def test_of_an_ordinary_attribute_nothing_is_said() -> None:
    for name in ATTRIBUTES:
        assert not statements(name, 0.1, 50) and not statements(name, -0.1, 50)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_more_and_less_have_their_own_words(name: str) -> None:
    more, less = ({*w.adjectives, *w.nouns} for w in WORDINGS[name])
    assert more and less and not more & less
    plain = SAYINGS[0].of_adjectives
    for value, wording, other in ((1.2, more, less), (-1.2, less, more)):
        said = statements(name, value)
        assert said & wording and not said & other
    assert "{}" in plain


def test_unknown_attributes_are_not_spoken_of() -> None:
    g = generator()
    words = {word for _ in range(300) for word in re.findall(r"\w+", draw_prompt([NAN, 2.0, NAN, NAN], g))}
    assert {"grainy", "noise"} <= words
    assert not {"sharp", "soft", "blurry", "contrast", "contrasty", "textured", "detail"} & words


def test_some_prompts_say_nothing_and_some_several_things() -> None:
    g = generator()
    prompts = [draw_prompt([2.0, 2.0, -2.0, NAN], g) for _ in range(400)]
    assert all(prompts)
    grain, detail = (
        re.compile("|".join(words)) for words in (("grain", "nois", "clean"), ("sharp", "crisp", "detail"))
    )
    both = [p for p in prompts if grain.search(p) and detail.search(p)]
    silent = [draw_prompt([0.0, 0.0, 0.0, NAN], g) for _ in range(20)]
    assert 20 < len(both) < 200
    assert not any(detail.search(p) for p in silent)


def test_subjects_and_distractions_do_not_speak_of_attributes() -> None:
    g = generator()
    own = re.compile(r"\b(sharp|crisp|detailed|soft|smooth|blurry|grainy|noisy|noise|clean|contrast|muted|textured)\b")
    assert not any(own.search(draw(g)) for draw in (draw_subject, draw_distraction) for _ in range(500))


def test_the_same_generator_draws_the_same() -> None:
    values = [1.0, -1.0, 0.5, NAN]
    first = [draw_prompt(values, generator(seed)) for seed in range(20)]
    assert first == [draw_prompt(torch.tensor(values), generator(seed)) for seed in range(20)]
    assert len(set(first)) > 15


def test_names_and_values_must_match() -> None:
    with pytest.raises(ValueError, match="attributes are 2 of detail"):
        draw_prompt([1.0, 2.0], generator())
    with pytest.raises(ValueError, match="words exist for"):
        draw_prompt([1.0], generator(), ["colour"])
