"""A tiny model that takes prompts and has a fidelity dial, and photos to show."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resdiff.checkpoints.known import bundled_folder
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler

HOSTILE = "</script><b>'q\""


def worded_pipeline() -> ResShiftPipeline:
    """A pipeline of random weights whose results depend on every word and on the dial."""
    torch.manual_seed(0)
    encoder = PromptEncoder(dim=2, width=4)
    unet = PixelUNet(channels=(8, 12), num_blocks=(1, 1), embed_dim=16, prompt_dim=4)
    for module in (encoder, unet):
        for name, parameter in module.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.0 if module is encoder else 0.1)
    scheduler = ResShiftScheduler.from_pretrained(bundled_folder() / "scheduler")
    parts = {"unet": unet.eval(), "vae": None, "scheduler": scheduler, "text_encoder": encoder.eval()}
    pipe = ResShiftPipeline(**parts, padding_multiple=2, upsampling="pil")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_photos(folder: Path, *, originals: Path | None = None) -> Path:
    """Write two photos, one of a hostile name; their originals, one pixel larger than needed; and who took the first."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name, (height, width) in {"otter": (40, 50), "a<b>&c": (24, 20)}.items():
        lr = rng.integers(60, 200, (height, width, 3), dtype=np.uint8)
        Image.fromarray(lr).save(folder / f"{name}.png")
        if originals is not None:
            originals.mkdir(exist_ok=True)
            hr = np.pad(lr.repeat(4, 0).repeat(4, 1), ((0, 1), (0, 1), (0, 0)))
            Image.fromarray(hr).save(originals / f"{name}.png")
    entry = {"file": "otter.png", "author": f"A. {HOSTILE}", "licence": "CC0-1.0"}
    (folder / "index.json").write_text(json.dumps([entry, {"file": "gone.png"}]))
    return folder
