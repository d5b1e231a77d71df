"""A finished run of the benchmark, made by hand, and its page."""

import base64
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from resdiff.eval.harness.document import (
    ComparisonEntry,
    Document,
    Enlarged,
    FigureColumn,
    ImageEntry,
    Mean,
    ModelEntry,
    ProfileEntry,
    Result,
    SetEntry,
    write_document,
)
from resdiff.eval.report import write_report

HOSTILE = "net </script><b> \"q\" 's' a:b&c=d"
MODELS = ("bicubic", HOSTILE, "others")
FOLDERS = ("bicubic", "net", "others")
NAMES = {"pairs": ("2", "10", "1"), "photos": ("cat",)}
PSNR = {"2": (30.0, 31.0, 20.0), "10": (20.0, 24.0, 21.0), "1": (25.0, 25.5, None)}  # of MODELS


def figure(name: str, better: str, **other: Any) -> FigureColumn:
    own = {"digits": 2, "variant": f"plain {name}", "weights": {}, "missing": None} | other
    return FigureColumn(name=name, label=name.upper(), better=better, **own)


def result(test_set: str, model: str, psnr: float | None, niqe: float, seconds: float | None) -> Result:
    def around(value: float | None, width: float) -> Mean:
        low, high = (None, None) if value is None else (value - width, value + width)
        return Mean(mean=value, low=low, high=high, n=0 if value is None else len(NAMES[test_set]))

    figures = {
        "psnr_y": around(psnr, 1.0),
        "niqe": around(niqe, 0.5),
        "sharpness": Mean(mean=3.0, low=None, high=None, n=len(NAMES[test_set])),
        "clip_iqa": around(None, 0.0),
    }
    per_megapixel, peak = (None, None) if seconds is None else (4 * seconds, 120.0)
    return Result(
        set=test_set, model=model, figures=figures, seconds=seconds, seconds_per_megapixel=per_megapixel, peak_mib=peak
    )


def picture(folder: Path, test_set: str, name: str, seed: int) -> ImageEntry:
    """Write LR, results that differ in the lower right corner alone, and HR; return the entry of the document."""
    rng = np.random.default_rng(seed)
    lr = rng.integers(60, 200, (30, 40, 3), dtype=np.uint8)
    base = lr.repeat(4, 0).repeat(4, 1)

    def save(image: np.ndarray, where: str) -> str:
        (folder / where).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / where)
        return where

    models = {}
    for i, (model, model_folder) in enumerate(zip(MODELS, FOLDERS, strict=True)):
        image = base.copy()
        image[-20:, -20:] = 80 * i
        psnr = PSNR[name][i] if name in PSNR else None
        models[model] = Enlarged(
            file=save(image, f"{test_set}/{model_folder}/{name}.png"),
            seconds=0.1,
            peak_mib=1.0,
            figures={"psnr_y": psnr, "niqe": 5.0 - i, "sharpness": 3.0, "clip_iqa": None},
        )
    has_hr = test_set == "pairs"
    return ImageEntry(
        set=test_set,
        name=name,
        lr=save(lr, f"{test_set}/lr/{name}.png"),
        hr=save(np.pad(base, ((0, 2), (0, 1), (0, 0))), f"{test_set}/hr/{name}.png") if has_hr else None,
        height=120,
        width=160,
        models=models,
    )


def entry(name: str, **own: Any) -> SetEntry:
    own = {"degradation": None, "preset": None, "seed": None} | own
    return SetEntry(name=name, images=len(NAMES[name]), source=name, digest="ab" * 32, **own)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A run of three models on a set with HR and one without, with figures missing and a profile."""
    folder = tmp_path_factory.mktemp("run")
    seconds = (0.01, 1.0, None)
    differences = (("psnr_y", HOSTILE, 1.5, 0.0001), ("niqe", HOSTILE, 0.3, 0.01), ("psnr_y", "others", 0.2, 0.4))
    document = Document(
        resdiff="0.1.0",
        command="benchmark.py --model 'a<b>'",
        date="2026-01-02",
        machine="2 cores",
        protocol={"name": "classic-y", "version": 1, "crop": "scale"},
        settings={"scale": 4, "seed": 7},
        versions={"torch": "2.15.0"},
        figures=[
            figure("psnr_y", "higher", unit="dB", low=0, needs_hr=True),
            figure("niqe", "lower"),
            figure("sharpness", "none", weights={"laplacian.pth": "ef" * 32}),
            figure("clip_iqa", "higher", missing="RN50.pt is not there"),
        ],
        models=[
            ModelEntry(name=m, folder=f, kind="pipeline", call={"steps": 4}, weights={"networks": "cd" * 8})
            for m, f in zip(MODELS, FOLDERS, strict=True)
        ],
        sets=[
            entry("pairs", has_hr=True, degradation="light", preset="blur: <3>\n", seed=7),
            entry("photos", has_hr=False),
        ],
        results=[
            result(s, m, (25.0 + i if s == "pairs" else None), 5.0 - i, seconds[i])
            for s in NAMES
            for i, m in enumerate(MODELS)
        ],
        comparisons=[
            ComparisonEntry(
                set="pairs", figure=f, model=m, baseline="bicubic", difference=d, low=d - 0.1, high=d + 0.1, p=p, n=3
            )
            for f, m, d, p in differences
        ],
        profile=[
            ProfileEntry(
                set="pairs", model="bicubic", images=3, median_seconds=0.5, seconds_per_megapixel=12.5, ratio=1.0,
                baseline="bicubic", repeats=5, peak_mib=3.0,
            )
        ],
        images=[picture(folder, s, name, seed) for s in NAMES for seed, name in enumerate(NAMES[s])],
    )  # fmt: skip
    write_document(document, folder)
    return folder


@pytest.fixture(scope="session")
def page(finished, tmp_path_factory) -> Path:
    return write_report(finished, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture
def changed(finished, tmp_path) -> Callable[..., Path]:
    """A function that copies the run, lets the document be changed, and returns the folder."""

    def change(edit: Callable[[dict[str, Any]], object]) -> Path:
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        document = json.loads((folder / "benchmark.json").read_text())
        edit(document)
        (folder / "benchmark.json").write_text(json.dumps(document))
        return folder

    return change


def decoded(uri: str) -> np.ndarray:
    """Return the picture in a data URI, RGB (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))
