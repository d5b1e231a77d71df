"""A tiny model that takes prompts and has a fidelity dial, and pictures to enlarge and to show."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from resdiff.checkpoints.known import bundled_folder
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.resize import matlab_legacy
from resdiff.schedulers.resshift import ResShiftScheduler

HOSTILE = "</script><b>'q\""


def worded_pipeline(heard_of: str | None = None) -> ResShiftPipeline:
    """A pipeline of random weights whose results depend on every word, or on this one alone, and on the dial."""
    torch.manual_seed(0)
    encoder = PromptEncoder(dim=2, width=4)
    unet = PixelUNet(channels=(8, 12), num_blocks=(1, 1), embed_dim=16, prompt_dim=4)
    for module in (encoder, unet):
        for name, parameter in module.named_parameters():
            if name.endswith("weight") and parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=1.0 if module is encoder else 0.1)
    if heard_of is not None:
        encoder.table.weight.data.zero_()[tokenize([heard_of])[0, 0]] = 1.0
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


def write_pairs(root: Path) -> Path:
    """Write a set of a coloured and a grey pair, large enough for six blocks of NIQE and flat in a corner."""
    for folder in ("HR", "LRx4"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    for name, channels in (("a", 3), ("b", 1)):
        coarse = Image.fromarray(random.integers(0, 256, (12, 18, 3), dtype=np.uint8))
        hr = np.array(coarse.resize((288, 192), Image.Resampling.BICUBIC)).astype(int)
        hr = (hr + random.integers(-2, 3, hr.shape)).clip(0, 255).astype(np.uint8)
        hr[:60, :60] = 120 + random.integers(0, 3, (60, 60, 1))
        hr = hr if channels == 3 else hr[..., 0]
        Image.fromarray(hr).save(root / "HR" / f"{name}.png")
        Image.fromarray(matlab_legacy(hr, 0.25)).save(root / "LRx4" / f"{name}.png")
    return root
