"""Speed and memory of models side by side: warmed up, synchronised, in turns, medians, ratios to one of them."""

import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from resdiff.eval.harness.cost import held_mib, measured
from resdiff.eval.harness.models import Model
from resdiff.eval.harness.testsets import TestSet
from resdiff.images import Photo, read_photos
from resdiff.runs.restorer import Restorer, load_pipeline

MEGA = 1e6


def profile(
    models: Sequence[Model], testsets: Sequence[TestSet], *, baseline: str, repeats: int, count: int
) -> list[dict[str, Any]]:
    """Restore the first `count` images of every set `repeats` times with every model, in this process.

    All models are open at once and take turns image by image, so that whatever else the machine does meets them alike.
    Every image is restored once beforehand, uncounted: kernels are chosen and compiled by its size.

    Args:
        models: those that the pipeline opens.
        baseline: name of the model that ratios refer to.

    Returns one row per set and model: medians over the repeats; of several images the median of theirs.
    """
    opened = {model.name: _Opened(model) for model in models}
    rows = []
    for testset in testsets:
        photos = [read_photos(sample.lr)[0] for sample in testset.samples[:count] if sample.lr is not None]
        bar = tqdm(total=len(photos) * len(models) * (repeats + 1), desc=f"profiling {testset.name}", file=sys.stderr)
        with bar:
            peaks: dict[str, list[float]] = {name: [] for name in opened}
            costs: dict[str, list[list[float]]] = {name: [[] for _ in photos] for name in opened}
            for turn in range(repeats + 1):
                for i, photo in enumerate(photos):
                    for name, one in opened.items():
                        if turn == 0:
                            peaks[name].append(one.peak_mib(photo))
                        else:
                            costs[name][i].append(one.restore(photo))
                        bar.update()
        seconds = {name: [statistics.median(of_image) for of_image in costs[name]] for name in opened}
        for name, one in opened.items():
            megapixels = sum(_pixels(one.restorer, photo) for photo in photos) / MEGA
            peak = max(peaks[name])
            rows.append(
                {
                    "set": testset.name,
                    "model": name,
                    "images": len(photos),
                    "median_seconds": statistics.median(seconds[name]),
                    "seconds_per_megapixel": sum(seconds[name]) / megapixels,
                    "ratio": sum(seconds[name]) / sum(seconds[baseline]),
                    "baseline": baseline,
                    "repeats": repeats,
                    "peak_mib": peak if math.isfinite(peak) else None,
                }
            )
    return rows


class _Opened:
    """A model in memory, and how much of it its weights take."""

    def __init__(self, model: Model):
        assert model.settings is not None  # `profile` is given no folders of results
        pipe = load_pipeline(model.settings)
        self.device = pipe.device
        self.restorer = Restorer(pipe, model.settings)
        parameters = [p for network in pipe.networks for p in network.parameters()]
        self.weights_mib = sum(p.numel() * p.element_size() for p in parameters) / 2**20

    def restore(self, photo: Photo) -> float:
        """Return the seconds that a photo takes."""
        return measured(lambda: self.restorer([photo]), self.device)[1].seconds

    def peak_mib(self, photo: Photo) -> float:
        """Return the memory that its weights take, and restoring a photo beside them."""
        before = held_mib(self.device)
        return measured(lambda: self.restorer([photo]), self.device)[1].peak_mib - before + self.weights_mib


def _pixels(restorer: Restorer, photo: Photo) -> int:
    height, width = restorer.size(photo)
    return height * width
