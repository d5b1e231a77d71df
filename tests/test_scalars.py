"""Options of a model's family on the command line."""

import pytest

from resdiff.scalars import key_values


def test_values_are_the_scalars_that_they_spell() -> None:
    words = ["scheduler=unipc", "eta=0.5", "start_steps=800", "tags=false", "added_prompt=", "clip_skip=null"]
    assert key_values(words) == {
        "scheduler": "unipc",
        "eta": 0.5,
        "start_steps": 800,
        "tags": False,
        "added_prompt": "",
        "clip_skip": None,
    }
    assert key_values([]) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [(["eta"], "'eta' is no key=value"), (["a-b=1"], "'a-b=1' is no key=value"), (["a=1", "a=2"], "a is given twice")],
)
def test_what_is_no_option_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        key_values(words)
    assert "\n" not in str(caught.value)
