"""The model card of a trained model: what it is, what it was trained on, with what figures, and the words it knows."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.train.card_of_words import card_of_words
from resdiff.train.progress import Progress

CARD = """---
library_name: resdiff
pipeline_tag: image-to-image
tags: [super-resolution, diffusion, resshift]
---

# {name}

A residual-shifting super-resolution model (ResShift, arXiv 2307.12348), trained by resdiff for
{step} steps ({minutes:.0f} minutes, {samples} samples) on {photos} photos. `recipe.yaml` has every setting.

```python
from resdiff import SRPipeline

image = SRPipeline.from_pretrained("{name}")("photo.jpg").images[0]
```

{figures}
"""


def figures_table(figures: Mapping[str, float]) -> str:
    """Return the means of a validation as a Markdown table."""
    rows = [f"| {key} | {value:.4g} |" for key, value in figures.items() if key not in ("step", "minutes")]
    return "\n".join(["| figure | mean |", "|---|---|", *rows])


def model_card(
    output_dir: Path,
    progress: Progress,
    photos: int,
    text_encoder: PromptEncoder | None = None,
    about: str = "",  # a section of its own, about where the model came from
) -> str:
    """Return the card, with the figures of the last validation in `metrics.jsonl`, if there was any."""
    metrics, lines = output_dir / "metrics.jsonl", []
    for line in metrics.read_text().splitlines() if metrics.exists() else []:
        with suppress(json.JSONDecodeError):  # a full disk cut it off; the model is worth more than its figures
            lines.append(json.loads(line))
    validations = [line for line in lines if any(key.startswith("psnr") for key in line)]
    figures = "It was not validated."
    if validations:
        last = validations[-1]
        figures = f"Validation after {last['step']} steps:\n\n{figures_table(last)}"
    card = CARD.format(
        name=output_dir.resolve().name,
        step=progress.step,
        minutes=progress.seconds / 60,
        samples=progress.samples,
        photos=photos,
        figures=figures,
    )
    words = "" if text_encoder is None else card_of_words(text_encoder)
    return "\n".join(part for part in (card, about, words) if part)
