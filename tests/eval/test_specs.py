"""Things named on the command line: words, typed values, and errors that name the nearest."""

import pytest

from resdiff.eval.harness.specs import check_keys, parse_spec, remedy, split_spec
from resdiff.scalars import scalar


def test_the_first_word_names_the_thing_and_the_others_are_its_settings():
    text = "resdiff-small num_inference_steps=4 color_fix=null prompt='sharp fur'"
    expected = {"num_inference_steps": 4, "color_fix": None, "prompt": "sharp fur"}
    assert parse_spec(text) == ("resdiff-small", expected)
    assert parse_spec("bicubic") == ("bicubic", {})


def test_a_quoted_folder_may_hold_spaces_and_equals_signs():
    assert split_spec("'my sets/a=b' hr=001") == ("my sets/a=b", {"hr": "001"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4", 4),
        ("-3", -3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5e-5", 5e-5),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("auto", "auto"),
        ("no", "no"),
        ("007", "007"),
        ("1_000", "1_000"),
        ("1.2.3", "1.2.3"),
        ('"4"', "4"),
        ("", ""),
        ("# sharp", "# sharp"),
        ("a: b", "a: b"),
        ("nan", "nan"),
    ],
)
def test_values_are_the_scalars_they_spell_and_anything_else_is_text(text, value):
    assert scalar(text) == value and type(scalar(text)) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names nothing"),
        ("'' a=1", "names nothing"),
        ("bicubic 4", "'4' in 'bicubic 4' is no key=value"),
        ("bicubic =4", "no key=value"),
        ("bicubic a=1 a=2", "a is given twice"),
        ("bicubic 'a=1", "quote that is not closed"),
    ],
)
def test_a_wrong_spec_is_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        parse_spec(text)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_names_the_nearest_or_all():
    check_keys(["seed"], ["seed", "name"], "set5")
    with pytest.raises(ValueError, match=r"set5 has no setting 'Sed'; did you mean 'seed'\?"):
        check_keys(["Sed"], ["seed", "name"], "set5")
    assert remedy("xyz", ["psnr_y", "niqe"]) == "choose one of psnr_y, niqe"
