"""Prompts, tags and embeddings of SeeSR."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))  # a module beside this file, not a package

from tiny_calls import LR, quiet, run, seeded

from resdiff.models.ram import tagger_input
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import TAGS
from resdiff.text.prompts import ADDED_PROMPT


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_embeddings_give_the_image_of_their_words(seesr, scale) -> None:
    words = run(seesr, prompt="a cat", negative_prompt="noise", tags=False, guidance_scale=scale)
    given = {
        "prompt_embeds": seesr.encode_prompt(f"a cat, {ADDED_PROMPT}"),
        "negative_prompt_embeds": seesr.encode_prompt("noise"),
        "image_embeds": seesr.tagger(tagger_input(LR * 2 - 1, seesr.tagger.config.image_res)).image_embeds,
    }
    assert torch.equal(run(seesr, **given, guidance_scale=scale), words)
    doubled = {name: rows.repeat(2, 1, 1) for name, rows in given.items()}
    both = run(seesr, [LR[0], LR[0]], **doubled, guidance_scale=scale, generator=[seeded(), seeded()])
    assert (both - words).abs().max() <= 1 / 255


def test_rows_of_embeddings_stay_with_their_images(seesr) -> None:
    rows = torch.cat([seesr.encode_prompt("a cat"), seesr.encode_prompt("a house in the grass")])
    generators = [seeded() for _ in range(4)]
    four = run(seesr, [LR[0], LR[0]], num_images_per_prompt=2, prompt_embeds=rows, generator=generators)
    alone = torch.cat([run(seesr, prompt_embeds=rows[i : i + 1]) for i in (0, 0, 1, 1)])
    assert (four - alone).abs().max() <= 1 / 255 and (four[0] - four[2]).abs().max() > 1 / 255


def test_given_image_tokens_are_those_of_every_result(seesr) -> None:
    tokens = torch.randn(1, 17, 512, generator=seeded())
    one = run(seesr, image_embeds=tokens, tags="cat")
    two = run(seesr, image_embeds=tokens, tags="cat", num_images_per_prompt=2, generator=[seeded(), seeded()])
    assert (two - one).abs().max() <= 1 / 255
    assert (one - run(seesr, image_embeds=-tokens, tags="cat")).abs().max() > 1 / 255


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_embeds": torch.zeros(1, 77)}, r"prompt_embeds is \(1, 77\); pass a tensor \(B, N, "),
        ({"prompt_embeds": torch.zeros(3, 77, 64)}, r"prompt_embeds is \(3, 77, 64\)"),
        ({"prompt_embeds": torch.zeros(1, 77, 48)}, r"prompt_embeds .* 64"),
        ({"image_embeds": torch.zeros(1, 17, 64)}, r"image_embeds .* 512"),
        ({"image_embeds": "cat"}, "image_embeds is str"),
        ({"prompt_embeds": torch.zeros(1, 77, 64), "prompt": "a cat"}, "both given"),
        ({"tags": ["cat", "dog"]}, "tags is a list of 2 for 1 images"),
        ({"prompt": "auto", "tags": False}, 'prompt is "auto", the tags alone, but tags=False'),
        ({"clip_skip": 9}, "clip_skip is 9, but the text encoder has 2 layers"),
        ({"prompt": "a (cat:high)", "prompt_weighting": True}, "high"),
        ({"long_prompt": "cut"}, "long_prompt='cut'"),
    ],
)
def test_words_that_cannot_be_meant_are_one_line(seesr, options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run(seesr, **options)
    assert "\n" not in str(caught.value)


def prompts(pipe, images=LR, **options) -> list[str]:
    """The texts of a call, whose chain is not run."""
    texts = []
    steer = pipe.steer

    class Enough(Exception):
        pass

    def stop(call, photos):
        texts.extend(steer(call, photos)[1])
        raise Enough

    pipe.steer = stop
    try:
        pipe(images, **options)
    except Enough:
        pass
    finally:
        del pipe.steer
    return texts


def test_the_text_of_each_result_is_told(seesr) -> None:
    (found,) = prompts(seesr, prompt="auto")
    assert found == "" or set(found.split(", ")) <= set(TAGS)
    assert prompts(seesr, prompt="a pet") == [f"{found}, a pet,{ADDED_PROMPT}"]
    assert prompts(seesr) == [f"{found}, ,{ADDED_PROMPT}"]
    assert prompts(seesr, prompt="a pet", tags="cat, grass") == [f"cat, grass, a pet,{ADDED_PROMPT}"]
    assert prompts(seesr, prompt="a pet", tags=False) == [f"a pet, {ADDED_PROMPT}"]
    assert prompts(seesr, prompt="auto", tags="cat") == ["cat"]
    assert prompts(seesr, prompt="a pet", tags="cat", added_prompt="8k") == ["cat, a pet,8k"]
    result = seesr(LR, prompt="a pet", tags="cat", num_inference_steps=1, num_images_per_prompt=2)
    assert result.prompts == [f"cat, a pet,{ADDED_PROMPT}"] * 2


def test_texts_and_tags_may_differ_from_image_to_image(seesr) -> None:
    images = [LR[0], LR[0, :, :, :8]]
    said = prompts(seesr, images, prompt=["a", "b"], tags=["cat", "sky"], added_prompt="8k", num_images_per_prompt=2)
    assert said == ["cat, a,8k", "cat, a,8k", "sky, b,8k", "sky, b,8k"]
    told = prompts(
        seesr, images, prompt=lambda image: f"{image.width} by {image.height}", tags="cat", added_prompt="8k"
    )
    assert told == ["cat, 10 by 8,8k", "cat, 8 by 8,8k"]
    assert prompts(seesr, prompt="a", tags="cat", prompt_layout=lambda tags, prompt, added: f"{prompt} {tags}") == [
        "a cat"
    ]


def test_text_and_tags_change_the_image(seesr) -> None:
    images = [run(seesr, tags="cat"), run(seesr, tags="house, sky"), run(seesr, tags=False), run(seesr, prompt="a pet")]
    for i, a in enumerate(images):
        assert all((a - b).abs().max() > 1e-3 for b in images[i + 1 :])


def test_skipping_layers_of_the_text_encoder_changes_the_prompt_and_not_the_negative_one(seesr) -> None:
    plain, skipped = run(seesr, prompt="a cat"), run(seesr, prompt="a cat", clip_skip=1)
    assert (plain - skipped).abs().max() > 1e-3
    assert torch.equal(run(seesr, prompt="a cat", clip_skip=0), plain)
    seen: Any = []
    encode = seesr.encode_prompt
    seesr.encode_prompt = lambda text, **settings: (
        seen.append((text, settings.get("clip_skip"))) or encode(text, **settings)
    )
    try:
        run(seesr, prompt="a cat", negative_prompt="noise", tags=False, clip_skip=1, guidance_scale=3.0)
    finally:
        del seesr.encode_prompt
    assert (f"a cat, {ADDED_PROMPT}", 1) in seen and ("noise", None) in seen


def test_a_long_prompt_beside_a_short_negative_one_counts_to_its_end(seesr) -> None:
    long = "word " * 90
    ask = {"long_prompt": "chunk", "tags": False, "guidance_scale": 3.0}
    image = run(seesr, prompt=long + "cat", **ask)
    assert (image - run(seesr, prompt=long + "house", **ask)).abs().max() > 1e-4
    cut = ask | {"long_prompt": "truncate"}
    assert torch.equal(run(seesr, prompt=long + "cat", **cut), run(seesr, prompt=long + "house", **cut))


def test_weights_of_words_are_read_where_asked(seesr) -> None:
    ask = {"tags": False, "added_prompt": ""}
    assert torch.equal(
        run(seesr, prompt="a (cat:1.0)", prompt_weighting=True, **ask), run(seesr, prompt="a cat", **ask)
    )
    strong = run(seesr, prompt="a (cat:1.8)", prompt_weighting=True, **ask)
    assert (strong - run(seesr, prompt="a cat", **ask)).abs().max() > 1e-3


def test_an_unused_negative_prompt_is_said_once_and_a_default_one_never(seesr) -> None:
    pipe = quiet(SeeSRPipeline.from_pipe(seesr))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(pipe, num_inference_steps=1)
        assert not [w for w in caught if "negative" in str(w.message)]
        for _ in range(2):
            run(pipe, negative_prompt="noise", num_inference_steps=1)
    said = [w for w in caught if "negative" in str(w.message)]
    assert len(said) == 1
    assert "negative_prompt is not used with guidance_scale=1; it takes one above 1" in str(said[0].message)


def test_tags_are_kept_beside_the_photo_where_asked(mine, tmp_path, monkeypatch) -> None:
    path = tmp_path / "photo.png"
    Image.fromarray((LR[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(path)
    looks: Any = []
    tags = mine.tagger.tags
    monkeypatch.setattr(mine.tagger, "tags", lambda logits: looks.append(1) or tags(logits))
    first = prompts(mine, str(path))
    assert not (tmp_path / "photo.png.tags.json").exists() and len(looks) == 1
    assert prompts(mine, str(path), tags_cache=True) == first and len(looks) == 2
    kept = json.loads((tmp_path / "photo.png.tags.json").read_text())
    assert first == [f"{kept['tags']}, ,{ADDED_PROMPT}"]
    assert prompts(mine, str(path), tags_cache=True) == first and len(looks) == 2
    next(mine.tagger.parameters()).data.add_(1)  # another tagger
    prompts(mine, str(path), tags_cache=True)
    assert len(looks) == 3
