"""Learned no-reference and full-reference metrics through pyiqa, where the user has installed it.

pyiqa (chaofengc/IQA-PyTorch) is no dependency: it is licensed for non-commercial use (PolyForm Noncommercial 1.0.0,
parts S-Lab 1.0), brings about 55 packages, and fetches weights while it builds a metric, which it unpickles. The table
says what its metrics mean, so that they can be listed, checked and explained without it; only `load_pyiqa` imports it.
Unlike a bare pyiqa metric, what is loaded here scores every image by itself and with the same random crops each time.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from resdiff.devices import exact_inference
from resdiff.metrics.figures import Better, Figure
from resdiff.metrics.weights import MissingWeights

logger = logging.getLogger("resdiff")

HUB = "https://huggingface.co/chaofengc/IQA-PyTorch-Weights"
TERMS = "non-commercial licence, about 55 packages"
SEED = 0  # of the crops that some metrics take at random

Score = Callable[[Tensor, Tensor | None], Tensor]


class PyiqaMissing(MissingWeights):
    """pyiqa or a package that it needs is not installed: one line with the remedy."""


@dataclass(frozen=True, kw_only=True)
class PyiqaFigure(Figure):
    """What is known of a metric of pyiqa 0.1.16. Ranges that are open in practice are None."""

    weights: str = ""  # file in the weights repository; "": none is needed
    source: str = HUB
    remark: str = ""


def _figure(name: str, better: Better, low: float | None, high: float | None, weights: str) -> PyiqaFigure:
    digits = 2 if high == 100 else 4
    return PyiqaFigure(name=name, label=name, better=better, low=low, high=high, digits=digits, weights=weights)


def _up(name: str, low: float | None, high: float | None, weights: str, remark: str = "") -> PyiqaFigure:
    return replace(_figure(name, "higher", low, high, weights), remark=remark)


def _down(name: str, low: float | None, high: float | None, weights: str, remark: str = "") -> PyiqaFigure:
    return replace(_figure(name, "lower", low, high, weights), remark=remark)


def _full_reference(name: str, better: Better, low: float | None, high: float | None, weights: str) -> PyiqaFigure:
    return replace(_figure(name, better, low, high, weights), needs_hr=True)


_CROPS = "random crops, the same in every run"
_METRICS = (
    _up("musiq", 0, 100, "musiq_koniq_ckpt-e95806b9.pth", "KonIQ"),
    _up("musiq-spaq", 0, 100, "musiq_spaq_ckpt-358bb6af.pth", "SPAQ"),
    _up("musiq-ava", 1, 10, "musiq_ava_ckpt-e8d3f067.pth", "AVA: aesthetics"),
    _up("musiq-paq2piq", 0, 100, "musiq_paq2piq_ckpt-364c0c84.pth", "PaQ-2-PiQ"),
    _up("maniqa", 0, 1, "ckpt_koniq10k.pt", "KonIQ; not comparable with the next two"),
    _up("maniqa-pipal", 0, 1, "MANIQA_PIPAL-ae6d356b.pth", "PIPAL: the one in OSEDiff's tables"),
    _up("maniqa-kadid", 0, 1, "ckpt_kadid10k.pt", "KADID"),
    _up("topiq_nr", 0, 1, "cfanet_nr_koniq_res50-9a73138b.pth", "KonIQ"),
    _up("topiq_nr-spaq", 0, 1, "cfanet_nr_spaq_res50-a7f799ac.pth", "SPAQ"),
    _up("topiq_nr-flive", 0, 1, "cfanet_nr_flive_res50-ded1c74e.pth", "FLIVE"),
    _full_reference("topiq_fr", "higher", 0, 1, "cfanet_fr_kadid_res50-2c4cc61d.pth"),
    _full_reference("topiq_fr-pipal", "higher", 0, 1, "cfanet_fr_pipal_res50-69bbe5ba.pth"),
    replace(_up("liqe", 1, 5, "liqe_koniq.pt", "KonIQ"), smallest=(224, 224)),
    replace(_up("liqe_mix", 1, 5, "liqe_mix.pt"), smallest=(224, 224)),
    replace(
        _up("qalign", 1, 5, "q-future/one-align", "8 billion parameters; needs a GPU, icecream and transformers 4"),
        source="https://huggingface.co/q-future/one-align",
    ),
    _up("nrqm", 0, 10, "NRQM_model.mat"),
    _down("pi", 0, None, "NRQM_model.mat", "((10 - NRQM) + NIQE) / 2"),
    _down("brisque", 0, None, "brisque_svm_weights.pth"),
    _down("piqe", 0, 100, ""),
    _down("ilniqe", 0, None, "ILNIQE_templateModel.mat"),
    _up("hyperiqa", 0, 1, "HyperIQA-resnet50-koniq10k-c96c41b1.pth", _CROPS),
    _up("dbcnn", 0, 1, "DBCNN_KonIQ10k-2de81c0a.pth"),
    _up("arniqa", 0, 1, "ARNIQA.pth", "and regressor_koniq10k.pth"),
    _up("tres", 0, 100, "tres_koniq-f0502926.pth", _CROPS),
    _up("nima", 0, 10, "NIMA_InceptionV2_ava-b0c77c00.pth", "AVA: aesthetics"),
    _up("unique", None, None, "UNIQUE.pt"),
    _up("qualiclip", 0, 1, "QualiCLIP.pth"),
    _up("qualiclip+", 0, 1, "QualiCLIP+_koniq.pth"),
    _full_reference("afine_fr", "lower", None, None, "afine.pth"),
    _full_reference("afine_all", "lower", None, None, "afine.pth"),
    _full_reference("afine_all_scale", "lower", 0, 100, "afine.pth"),
    _down("afine_nr", None, None, "afine.pth"),
    _full_reference("ahiq", "higher", 0, 1, "AHIQ_vit_p8_epoch33-da3ea303.pth"),
    _full_reference("pieapp", "lower", 0, None, "PieAPPv0.1-0937b014.pth"),
    _full_reference("stlpips", "lower", 0, 1, "alex_shift_tolerant.pth"),
)
PYIQA: dict[str, PyiqaFigure] = {metric.name: metric for metric in _METRICS}


def load_pyiqa(name: str, device: str | torch.device = "cpu") -> Score:
    """Build a metric of pyiqa and return `score(sr, hr) -> (B,)`.

    `sr` and, for a full-reference metric, `hr` are RGB in [0, 1], (B, 3, H, W); the scores are float32 on `device`.
    Images are scored one at a time: no score depends on what else is in a batch, and random crops repeat.

    Raises:
        PyiqaMissing: pyiqa or one of its undeclared needs is not installed.
        MissingWeights: its weights are not here and cannot be fetched.
        KeyError: the name is not in `PYIQA`.
    """
    metric = PYIQA[name]
    network = _build(metric, torch.device(device))

    def score(sr: Tensor, hr: Tensor | None = None) -> Tensor:
        _check(metric, sr, hr)
        sr = sr.to(device, torch.float32)
        references = hr.to(device, torch.float32).split(1) if metric.needs_hr and hr is not None else [None] * len(sr)
        return torch.cat([_score_one(network, x, y) for x, y in zip(sr.split(1), references, strict=True)])

    return score


def _build(metric: PyiqaFigure, device: torch.device) -> torch.nn.Module:
    """Import pyiqa and let it construct, and perhaps download, the metric; what it prints goes to the log."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            import pyiqa

            return pyiqa.create_metric(metric.name, device=device)
    except ModuleNotFoundError as error:
        raise PyiqaMissing(_how_to_install(metric.name, error.name or str(error))) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise MissingWeights(
            f"pyiqa cannot load {metric.name}: {' '.join(str(error).split()) or type(error).__name__}; run it once with "
            f"network, or put {metric.weights or 'its weights'} of {metric.source} into {torch.hub.get_dir()}/pyiqa "
            "(many need a backbone from the hub besides)"
        ) from error
    finally:
        for line in filter(None, map(str.strip, printed.getvalue().splitlines())):
            logger.info("pyiqa: %s", line)


def _how_to_install(name: str, package: str) -> str:
    if package == "pyiqa":
        return f"{name} is computed by pyiqa, which is not installed: pip install 'resdiff[pyiqa]' ({TERMS})"
    if package == "pkg_resources":
        return f"{name} uses OpenAI's clip package, which needs an older setuptools: pip install 'setuptools<81'"
    return f"{name} of pyiqa needs the package {package}, which is not installed: pip install {package}"


def _check(metric: PyiqaFigure, sr: Tensor, hr: Tensor | None) -> None:
    if sr.ndim != 4 or sr.shape[1] != 3:
        raise ValueError(f"sr has shape {tuple(sr.shape)}; {metric.name} takes (B, 3, H, W)")
    if metric.needs_hr and hr is None:
        raise ValueError(f"{metric.name} compares with HR and hr is None; give the HR images or choose another metric")
    if metric.needs_hr and hr is not None and hr.shape != sr.shape:
        raise ValueError(f"hr has shape {tuple(hr.shape)} and sr {tuple(sr.shape)}; {metric.name} needs equal ones")
    height, width = sr.shape[-2:]
    if not metric.fits(height, width):
        side = metric.smallest[0]
        raise ValueError(f"image is {width}x{height}, {metric.name} needs {side} pixels a side; leave it out")


def _score_one(network: torch.nn.Module, sr: Tensor, hr: Tensor | None) -> Tensor:
    """Return the score, (1,), of one image."""
    with exact_inference(sr.device), _repeatable(sr.device):
        value = network(sr) if hr is None else network(sr, hr)
    value = torch.as_tensor(value[0] if isinstance(value, tuple) else value, device=sr.device, dtype=torch.float32)
    if value.numel() != 1:
        raise ValueError(f"pyiqa returned {tuple(value.shape)} values for one image; this version of it is not known")
    return value.reshape(1)


@contextlib.contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Seed the global generators that pyiqa draws its crops from, and leave them as they were."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(SEED)
        np.random.seed(SEED)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
