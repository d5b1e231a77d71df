"""Prompts: the published layouts to the letter, and what is left of them without tags."""

import pytest

from resdiff.text.prompts import (
    ADDED_PROMPT,
    ADDSR_ADDED_PROMPT,
    GRADIO_ADDED_PROMPT,
    GRADIO_NEGATIVE_PROMPT,
    NEGATIVE_PROMPT,
    gradio_prompt,
    script_prompt,
)


def test_the_scripts_put_tags_first_and_additions_after_a_bare_comma() -> None:
    assert script_prompt("cat, grass", "", ADDED_PROMPT) == "cat, grass, ,clean, high-resolution, 8k"
    assert script_prompt("cat, grass", "a pet", ADDED_PROMPT) == "cat, grass, a pet,clean, high-resolution, 8k"
    assert script_prompt("", "", "8k") == ", ,8k"  # the tagger found nothing: still the published layout


def test_the_demo_puts_the_users_words_first_if_there_are_any() -> None:
    assert gradio_prompt("cat, grass", "a pet", "clean, 8k") == "a pet, cat, grass, clean, 8k,"
    assert gradio_prompt("cat, grass", "", "clean, 8k") == "cat, grass, clean, 8k,"


@pytest.mark.parametrize("join", [script_prompt, gradio_prompt])
def test_without_tags_the_non_empty_rest_is_joined(join) -> None:
    assert join(False, "a pet", "8k") == "a pet, 8k"
    assert join(False, "", "8k") == "8k"
    assert join(False, "a pet", "") == "a pet"
    assert join(False, "", "") == ""


@pytest.mark.parametrize("join", [script_prompt, gradio_prompt])
def test_auto_is_the_tags_alone_and_needs_tags(join) -> None:
    assert join("cat, grass", "auto", ADDED_PROMPT) == "cat, grass"
    with pytest.raises(ValueError, match="tags=False"):
        join(False, "auto", ADDED_PROMPT)


def test_strings_are_the_published_ones() -> None:
    assert ADDED_PROMPT == "clean, high-resolution, 8k"
    assert NEGATIVE_PROMPT == "dotted, noise, blur, lowres, smooth"
    assert ADDSR_ADDED_PROMPT == "clean, high-resolution, 8k, extremely detailed, best quality, sharp"
    assert GRADIO_ADDED_PROMPT == "clean, high-resolution, 8k, best quality, masterpiece"
    assert GRADIO_NEGATIVE_PROMPT.split(", ")[-4:] == ["fewer digits", "cropped", "worst quality", "low quality"]
    assert len(GRADIO_NEGATIVE_PROMPT.split(", ")) == 14
