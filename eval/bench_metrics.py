"""Images per second of our metrics beside pyiqa's, in one process, turn by turn, on the same random weights.

    python eval/bench_metrics.py                                # one thread, one 256x256 image per call
    python eval/bench_metrics.py --threads 2 --size 512 --repeats 9
    python eval/bench_metrics.py --only clip_iqa

Random weights cost what the published ones cost, and need no network: both sides get them from one file. That is what
they are for; no figure of a benchmark is ever computed with them. A row says PASS when the values agree to 1e-5 and the
images/s (1 / median time) are at least `bar` times pyiqa's; a FAIL makes the exit status 1. Where pyiqa is not
installed, only our images/s are shown. torchmetrics is quoted where its metric needs no download, on RGB; its SSIM
treats borders in another way.

Measure on an idle machine. With several threads beside other work, threads that wait for one another burn their turns
and every rate, ours and theirs, falls to a hundredth: then set OMP_WAIT_POLICY=PASSIVE, or stay at one thread.
"""

import argparse
import contextlib
import importlib.util
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from resdiff.metrics.clip_iqa import clip_iqa, load_clip_iqa
from resdiff.metrics.dists import load_dists
from resdiff.metrics.lpips import TRUNKS, Net, lins_file, load_lpips
from resdiff.metrics.psnr import psnr
from resdiff.metrics.ssim import ssim
from resdiff.metrics.trunks import VGG, Trunk

LIMIT = 1e-5  # of the difference of values
STEADY = 0.05  # seconds that a measurement lasts at least, by repeating short calls
SKIPPED = {
    "clip_iqa_pair, clip_iqa_plus": "the trunk is that of clip_iqa, and pyiqa has no weights for them but by download",
    "niqe": "pyiqa downloads its parameters when it is built",
    "fid, kid": "of folders, and pyiqa downloads the network when it is built",
    "color_shift, lr_consistency, sharpness, flat_noise": "pyiqa has none of them",
    "musiq, maniqa and the other figures through pyiqa": "they are pyiqa's own code",
}

Call = Callable[[], Tensor]


@dataclass(frozen=True)
class Contest:
    """One metric: calls that return the values, (B,), of the same images."""

    name: str
    bar: float  # least ratio of our images/s to pyiqa's
    ours: Call
    theirs: Callable[[], Call]  # builds pyiqa's metric
    quoted: Call | None = None  # torchmetrics'


@dataclass
class Times:
    """Seconds per call, one entry per repeat."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    quoted: list[float] = field(default_factory=list)


def image_pair(size: int, batch: int) -> tuple[Tensor, Tensor]:
    """Return sr and hr, uint8 (B, 3, size, size): smooth pictures, and the same with noise, at about 28 dB."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, max(2, size // 16), max(2, size // 16), generator=generator)
    hr = 255 * nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    sr = hr + 10 * torch.randn(hr.shape, generator=generator)
    return sr.round().clamp(0, 255).byte(), hr.round().byte()


def contests(size: int, batch: int, folder: Path) -> Iterator[Contest]:
    """Yield what is compared; networks are built when their turn comes. `folder` takes the random weights."""
    sr, hr = image_pair(size, batch)
    sr01, hr01 = sr / 255, hr / 255
    quoted = torchmetrics_calls(sr, hr)
    for channels in ("y", "rgb"):
        on_y = channels == "y"
        options = {"test_y_channel": on_y, "color_space": "ycbcr"}
        yield Contest(
            f"psnr_{channels}",
            1.0,
            partial(psnr, sr, hr, 0, on_y, round_y=False, eps=1e-8),
            partial(pyiqa_metric, "psnr", (sr01, hr01), options),
            None if on_y else quoted.get("psnr"),
        )
        yield Contest(
            f"ssim_{channels}",
            4.0,
            partial(ssim, sr, hr, 0, on_y, clamp=True),
            partial(pyiqa_metric, "ssim", (sr01, hr01), options),
            None if on_y else quoted.get("ssim"),
        )
    files = {net: save_random_trunk(trunk, folder) for net, trunk in TRUNKS.items()}
    for net, file in files.items():
        yield Contest(
            f"lpips_{net}",
            0.9,
            partial(load_lpips(net, file), sr01, hr01),
            partial(pyiqa_lpips, net, file, (sr01, hr01)),
        )
    yield Contest(
        "dists",
        0.9,
        partial(load_dists(files["vgg"]), sr01, hr01),
        partial(pyiqa_dists, files["vgg"], (sr01, hr01)),
    )
    clip = save_random_clip(folder)
    model = load_clip_iqa(weights=clip)
    for name, cached in (("clip_iqa", False), ("clip_iqa, pyiqa's texts cached", True)):
        yield Contest(name, 0.9, lambda: clip_iqa(model(sr01)), partial(pyiqa_clip_iqa, clip, (sr01,), cached))


def save_random_trunk(trunk: Trunk, folder: Path) -> Path:
    """Write torchvision's random initialisation of a trunk and return the file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = trunk.build(weights=None).features.state_dict()
    torch.save({f"features.{name}": tensor for name, tensor in state.items()}, folder / trunk.weights.file)
    return folder / trunk.weights.file


def save_random_clip(folder: Path) -> Path:
    """Write a CLIP RN50 in half precision, as OpenAI's is, and return the file."""
    import open_clip
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    config = open_clip.get_model_config("RN50-quickgelu")
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        clip = CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"]), True)
        clip.logit_scale.fill_(4.6052)
        for module in clip.visual.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of one batch, so that the score depends on the image
        for name, weight in clip.visual.named_parameters():
            if name.endswith("bn3.weight"):
                weight.fill_(0.25)  # zero at initialisation: blocks that do nothing
        clip.train().encode_image(torch.rand(2, 3, 224, 224))
    state = clip.state_dict()
    torch.save({name: x.half() if x.is_floating_point() else x for name, x in state.items()}, folder / "RN50.pt")
    return folder / "RN50.pt"


def pyiqa_metric(name: str, images: tuple[Tensor, ...], options: dict[str, object]) -> Call:
    """Build a metric of pyiqa and return its call on RGB images in [0, 1]."""
    metric = create_quietly(name, options)
    return lambda: metric(*images).flatten()


def create_quietly(name: str, options: dict[str, object]) -> Any:
    """Build a metric of pyiqa; what it prints is dropped."""
    with contextlib.redirect_stdout(io.StringIO()):
        import pyiqa

        return pyiqa.create_metric(name, device=torch.device("cpu"), **options)


def pyiqa_lpips(net: Net, file: Path, images: tuple[Tensor, Tensor]) -> Call:
    """LPIPS of pyiqa with the trunk in `file` and the linear layers of the package lpips."""
    trunk = TRUNKS[net]
    with patch(f"torchvision.models.{trunk.build.__name__}", lambda **_: filled(trunk, file)):
        options = {"net": net, "pretrained": False}
        call = pyiqa_metric("lpips", images, options | {"pretrained_model_path": str(lins_file(net))})
    return call


def pyiqa_dists(file: Path, images: tuple[Tensor, Tensor]) -> Call:
    """DISTS of pyiqa with the trunk in `file`, and alpha and beta as shipped with ours."""
    from resdiff.checkpoints.io import read_state_dict
    from resdiff.metrics.dists import SHIPPED

    shipped = read_state_dict(SHIPPED)
    weights = file.with_name("dists.pth")
    torch.save({name: shipped[name].float().view(1, -1, 1, 1) for name in ("alpha", "beta")}, weights)
    with patch("torchvision.models.vgg16", lambda **_: filled(VGG, file)):
        return pyiqa_metric("dists", images, {"pretrained_model_path": str(weights)})


def pyiqa_clip_iqa(file: Path, images: tuple[Tensor], cached: bool) -> Call:
    """CLIP-IQA of pyiqa with the network in `file`. It embeds its texts in every call, unless they are `cached` here."""
    from pyiqa.archs import clip_model, clipiqa_arch

    state = torch.load(file, weights_only=True)
    with patch.object(clipiqa_arch, "load", lambda *_: clip_model.build_model(state).float()):
        metric = create_quietly("clipiqa", {})
    if cached:
        clip = metric.net.clip_model[0]
        texts = clip.encode_text(metric.net.prompt_pairs)
        clip.encode_text = lambda _: texts
    return lambda: metric(*images).flatten()


def filled(trunk: Trunk, file: Path) -> nn.Module:
    """Return torchvision's network with the features in `file`; the classifier is as it comes."""
    network = trunk.build(weights=None)
    network.load_state_dict(torch.load(file, weights_only=True), strict=False)
    return network


def torchmetrics_calls(sr: Tensor, hr: Tensor) -> dict[str, Call]:
    """Return torchmetrics' PSNR and SSIM of RGB images; {} where it is not installed."""
    if importlib.util.find_spec("torchmetrics") is None:
        return {}
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    def psnr_call() -> Tensor:
        return peak_signal_noise_ratio(sr.float(), hr.float(), data_range=255.0, reduction="none", dim=(1, 2, 3))

    def ssim_call() -> Tensor:
        return structural_similarity_index_measure(sr.float(), hr.float(), data_range=255.0, reduction="none")

    return {"psnr": psnr_call, "ssim": ssim_call}


def take_turns(calls: dict[str, Call], repeats: int) -> Times:
    """Measure the calls alternately, so that a change of the machine's pace meets all of them."""
    times = Times()
    counts = {}
    for name, call in calls.items():
        call()  # warm
        counts[name] = max(1, round(STEADY / seconds(call, 1)))
    for turn in range(repeats):
        for name in sorted(calls, reverse=bool(turn % 2)):
            getattr(times, name).append(seconds(calls[name], counts[name]))
    return times


def seconds(call: Call, count: int) -> float:
    """Return the seconds of one of `count` calls."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def row(contest: Contest, batch: int, times: Times, value: float, difference: float | None) -> tuple[str, bool]:
    """Return a line of the table, and whether it is no failure."""
    rates = [batch / statistics.median(t) if t else None for t in (times.ours, times.theirs, times.quoted)]
    shown = [f"{rate:.3g}" if rate is not None else "-" for rate in rates]
    if difference is None or rates[0] is None or rates[1] is None:
        return (
            f"| {contest.name} | {value:.4f} | {shown[0]} | - | - | {contest.bar:g}x | - | {shown[2]} | not compared |",
            True,
        )
    ratio = rates[0] / rates[1]
    problems = [
        *(["values"] if not difference <= LIMIT else []),
        *(["speed"] if ratio < contest.bar else []),
    ]
    verdict = f"FAIL: {', '.join(problems)}" if problems else "PASS"
    figures = (shown[0], shown[1], f"{ratio:.2f}x", f"{contest.bar:g}x", f"{difference:.1e}", shown[2])
    return f"| {contest.name} | {value:.4f} | {' | '.join(figures)} | {verdict} |", not problems


def compare(contest: Contest, batch: int, repeats: int, with_pyiqa: bool) -> tuple[str, bool]:
    """Measure one contest and return its row."""
    calls: dict[str, Call] = {"ours": contest.ours}
    values, difference = contest.ours().double(), None
    if with_pyiqa:
        calls["theirs"] = contest.theirs()
        difference = float((values - calls["theirs"]().double()).abs().max())
    if contest.quoted is not None:
        calls["quoted"] = contest.quoted
    return row(contest, batch, take_turns(calls, repeats), float(values[0]), difference)


def parse_args(input_args: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--repeats", type=int, default=7, help="turns; the median counts")
    parser.add_argument("--size", type=int, default=256, help="side of the images in pixels, at least 64")
    parser.add_argument("--batch", type=int, default=1, help="images per call")
    parser.add_argument("--only", default="", metavar="WORD", help="metrics whose name has this word")
    args = parser.parse_args(input_args)
    for name, least in (("threads", 1), ("repeats", 1), ("size", 64), ("batch", 1)):
        if getattr(args, name) < least:
            parser.error(f"--{name} is {getattr(args, name)}; give {least} or more")
    return args


def main(args: argparse.Namespace) -> int:
    """Print the table; return 1 when a row fails."""
    torch.set_num_threads(args.threads)
    with_pyiqa = importlib.util.find_spec("pyiqa") is not None
    print(f"torch {torch.__version__}, {args.threads} threads, {args.batch} image(s) of {args.size}x{args.size} a call")
    print(f"{os.cpu_count()} cores, load before the start {os.getloadavg()[0]:.1f}")
    if not with_pyiqa:
        print("pyiqa is not installed (pip install 'resdiff[pyiqa]', non-commercial licence): nothing to compare with")
    columns = ("metric", "value", "resdiff images/s", "pyiqa images/s", "ratio", "bar", "max difference")
    print(f"\n| {' | '.join(columns)} | torchmetrics images/s | |")
    print(f"|{'---|' * (len(columns) + 2)}")
    fine = True
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for contest in contests(args.size, args.batch, Path(folder)):
            if args.only in contest.name:
                line, passed = compare(contest, args.batch, args.repeats, with_pyiqa)
                print(line, flush=True)
                fine &= passed
    for names, reason in SKIPPED.items():
        print(f"\nSkipped: {names} ({reason}).", end="")
    print()
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main(parse_args()))
