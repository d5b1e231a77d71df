"""A tiny recipe, small photos, and runs of the training script in this process."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image

from resdiff.train.resshift import main, parse_args

TINY: dict[str, Any] = {
    "unet": {"_class_name": "PixelUNet", "channels": [8, 16], "num_blocks": [1, 1]},
    "scheduler": {
        "num_train_timesteps": 4,
        "min_noise_level": 0.0316,
        "etas_end": 1.0,
        "kappa": 0.25,
        "prediction_type": "residual",
        "data_var": 0.25,
        "respacing": "trailing",
    },
    "pipeline": {"upsampling": "pil"},
    "degradation": "light",
    "resolution": [32],
    "train_batch_size": 4,
    "learning_rate": "1e-3",
    "mixed_precision": "no",
    "report_to": "none",
    "loss": "l1",
    "num_threads": 1,
    "dataloader_num_workers": 0,
}


@pytest.fixture(autouse=True)
def fresh_accelerate(monkeypatch) -> Iterator[None]:
    """Run on the CPU, and put back what accelerate and a run change for the whole process."""
    before = dict(os.environ)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    levels = {name: logging.getLogger(name).level for name in ("resdiff", "accelerate", "diffusers")}
    reset_accelerate()
    yield
    reset_accelerate()
    os.environ.clear()
    os.environ.update(before)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def reset_accelerate() -> None:
    """Forget the process state that accelerate shares between its objects."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def save_photos(folder: Path, count: int = 6, size: tuple[int, int] = (48, 40)) -> Path:
    """Write so many photos of smooth noise, (height, width) px."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of six photos of 48x40 px."""
    return save_photos(tmp_path / "photos")


@pytest.fixture
def write_recipe(tmp_path) -> Callable[..., Path]:
    """Write the tiny recipe with some keys changed; return its path."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(TINY | changes))
        return path

    return write


@pytest.fixture
def train(tmp_path, photos, write_recipe) -> Callable[..., Path]:
    """Train with the tiny recipe in this process; return the output folder."""

    def run(*flags: str, name: str = "run", **recipe: Any) -> Path:
        reset_accelerate()
        folder = tmp_path / name
        always = ["--recipe", str(write_recipe(**recipe)), "--output_dir", str(folder)]
        if not {"--train_data_dir", "--manifest"} & set(flags):
            always += ["--train_data_dir", str(photos)]
        main(parse_args([*always, *flags]))
        return folder

    return run


def read_metrics(folder: Path, *keys: str) -> list[tuple[float, ...]]:
    """Return some columns of a run's metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(line[key] for key in keys) for line in lines if all(key in line for key in keys)]


@pytest.fixture
def metrics() -> Callable[..., list[tuple[float, ...]]]:
    """See `read_metrics`."""
    return read_metrics
