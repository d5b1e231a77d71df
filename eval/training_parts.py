"""Parts of a training step on their own: frozen encoder, degradation, reading; for `eval/bench_training.py`."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from resdiff.data.degradation.base import Degradation
from resdiff.data.degradation.realesrgan_presets import REALESRGAN, RESSHIFT
from resdiff.data.scan import scan
from resdiff.data.training_set import sample_generator
from resdiff.eval.training_cost import (
    PLACE,
    V1,
    Case,
    Settings,
    make_files,
    random_autoencoder,
    training_arguments,
)
from resdiff.models.vq import VQAutoencoder
from resdiff.train.launch import start
from resdiff.train.recipe import build_degradation
from resdiff.train.resshift import Arguments
from resdiff.train.session import open_photos

READ = 32  # samples that are read to know how long one takes


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two ways to compute the same, in turns; seconds of each call."""

    name: str
    device: str
    images: int  # of one call, or of as many calls as there are samples
    ours: list[float]
    other: list[float]

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return statistics.median(self.other) / statistics.median(self.ours)

    def milliseconds(self, seconds: Sequence[float]) -> float:
        """Return the median time of one image."""
        return 1000 * statistics.median(seconds) / self.images


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts of a training step on their own."""

    encoder: Comparison
    degradations: list[Comparison]
    reading: dict[str, float]  # memory or disk -> ms that one process takes for one sample, draws of RESSHIFT included


def alternate(
    ours: Callable[[], object], other: Callable[[], object], repeats: int, device: torch.device
) -> tuple[list[float], list[float]]:
    """Return the seconds of `repeats` calls of each, in turns, after one of each that does not count."""

    def seconds(f: Callable[[], object]) -> float:
        started = time.perf_counter()
        f()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - started

    taken = [(seconds(ours), seconds(other)) for _ in range(1 + repeats)][1:]
    return [a for a, _ in taken], [b for _, b in taken]


def measure_parts(settings: Settings) -> Parts:
    """Measure the encoder, the degradations and the reading of samples; for a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        args = training_arguments(Case(recipe=V1), settings, Path(folder))
        make_files(args, settings)
        device = start(args).device
        return Parts(
            encoder=compare_encoders(random_autoencoder(args), args.crop, settings, device),
            degradations=[
                compare_degradations(name, degradation, args.crop, settings, device)
                for name, degradation in (("RESSHIFT", RESSHIFT), ("REALESRGAN", REALESRGAN))
            ],
            reading={place: reading_time(replace(args, photos_in=place)) for place in PLACE},
        )


@torch.no_grad()
def compare_encoders(vae: VQAutoencoder, crop: tuple[int, int], settings: Settings, device: torch.device) -> Comparison:
    """One bfloat16, channels-last call for HR and enlarged LR, against two in float32 (on CUDA TF32, as in training)."""
    hr, enlarged = torch.rand(2, settings.batch, 3, *crop).to(device) * 2 - 1
    exact = deepcopy(vae).to(device)
    half = vae.to(device, torch.bfloat16, memory_format=torch.channels_last)
    ours, other = alternate(
        lambda: half.encode(torch.cat([hr, enlarged]).bfloat16()).float(),
        lambda: (exact.encode(hr), exact.encode(enlarged)),
        settings.repeats,
        device,
    )
    return Comparison(name="VQ encoder", device=device.type, images=settings.batch, ours=ours, other=other)


def compare_degradations(
    name: str, degradation: Degradation, crop: tuple[int, int], settings: Settings, device: torch.device
) -> Comparison:
    """One call for the batch, against one per sample; the draws are made before, as data workers do."""
    count = settings.degradation_batch
    hr = torch.rand(count, 3, *crop).to(device)
    draws = [degradation.draw(*crop, sample_generator(0, i)) for i in range(count)]

    def per_sample() -> list[tuple[Tensor, Tensor]]:
        return [degradation.pair(hr[i : i + 1], draws[i : i + 1]) for i in range(count)]

    ours, other = alternate(lambda: degradation.pair(hr, draws), per_sample, settings.repeats, device)
    return Comparison(name=name, device=device.type, images=count, ours=ours, other=other)


def reading_time(args: Arguments) -> float:
    """Return the median ms in which one process, as each data worker is one, reads, crops and draws a sample."""
    found = scan(args.train_data_dir, crop=args.crop, scale=args.scale)
    dataset = open_photos(args, found, build_degradation(args.degradation), torch.device("cpu"))
    seconds = []
    for index in range(READ):
        started = time.perf_counter()
        dataset[index]
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)
