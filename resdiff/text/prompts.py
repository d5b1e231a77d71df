"""Published prompts, and for SeeSR (2311.16518) and AddSR (2404.01717) how tags, words and fixed additions are joined.

The strings are those of the published scripts of cswry/SeeSR, NJU-PCALab/AddSR and IceClear/StableSR (2305.07015), odd
commas included: what they are encoded to depends on every one. Beyond them, `tags=False` leaves the tagger out and the prompt "auto" is its tags alone.
"""

from typing import Literal

ADDED_PROMPT = "clean, high-resolution, 8k"  # SeeSR test_seesr.py --added_prompt
NEGATIVE_PROMPT = "dotted, noise, blur, lowres, smooth"  # SeeSR test_seesr.py, AddSR test_addsr.py --negative_prompt
ADDSR_ADDED_PROMPT = f"{ADDED_PROMPT}, extremely detailed, best quality, sharp"  # AddSR test_addsr.py --added_prompt
GRADIO_ADDED_PROMPT = f"{ADDED_PROMPT}, best quality, masterpiece"  # SeeSR gradio_seesr.py "Positive Prompt"
GRADIO_NEGATIVE_PROMPT = (  # SeeSR gradio_seesr.py "Negative Prompt"
    "dotted, noise, blur, lowres, oversmooth, longbody, bad anatomy, bad hands, missing fingers, extra digit, "
    "fewer digits, cropped, worst quality, low quality"
)
# StableSR sr_val_ddim_text_T_negativeprompt_canvas_tile.py; "(...:2)" was plain text to its encoder, no weight
STABLESR_PROMPT = "(masterpiece:2), (best quality:2), (realistic:2), (very clear:2)"
STABLESR_NEGATIVE_PROMPT = "3d, cartoon, anime, sketches, (worst quality:2), (low quality:2)"
AUTO = "auto"

Tags = str | Literal[False]  # what the tagger found, as one string; False: no tags are wanted


def script_prompt(tags: Tags, prompt: str, added: str) -> str:
    """Join as test_seesr.py and test_addsr.py do: tags first, the additions after a bare comma.

    "cat, grass", "" and "clean, 8k" give "cat, grass, ,clean, 8k". Without tags the non-empty ones of `prompt` and
    `added` are joined by ", ".

    Raises:
        ValueError: `prompt` is "auto" where no tags are wanted.
    """
    if prompt == AUTO:
        return _tags_alone(tags)
    if tags is False:
        return _without_tags(prompt, added)
    return f"{tags}, {prompt},{added}"


def gradio_prompt(tags: Tags, prompt: str, added: str) -> str:
    """Join as gradio_seesr.py does: the user's words first, left out when empty, and a comma at the end.

    "cat, grass", "a pet" and "clean, 8k" give "a pet, cat, grass, clean, 8k,". All else as in `script_prompt`.
    """
    if prompt == AUTO:
        return _tags_alone(tags)
    if tags is False:
        return _without_tags(prompt, added)
    rest = f"{tags}, {added},"
    return f"{prompt}, {rest}" if prompt else rest


def _tags_alone(tags: Tags) -> str:
    if tags is False:
        raise ValueError(f'prompt is "{AUTO}", the tags alone, but tags=False; give a prompt or leave the tags on')
    return tags


def _without_tags(prompt: str, added: str) -> str:
    return ", ".join(words for words in (prompt, added) if words)
