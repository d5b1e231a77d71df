"""`resdiff doctor`: this machine as resdiff sees it, what a bug report needs. The network is not tried."""

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from resdiff import __version__
from resdiff.commands.messages import one_line_errors, set_messages
from resdiff.commands.options import Debug

if TYPE_CHECKING:
    import torch

NEEDED = (
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "safetensors",
    "numpy",
    "Pillow",
    "imagecodecs",
    "tifffile",
    "filelock",
    "psutil",
)
OPTIONAL = {  # package -> what is missing without it
    "xformers": "its attention; torch's own is used",
    "triton": "torch.compile on CUDA",
    "lpips": "the LPIPS metric and loss",
    "open_clip_torch": "CLIP metrics",
    "tensorboard": "curves of a training",
}
CAPABILITIES = ("avx2", "avx512_f", "avx512_bf16", "amx_tile", "amx_bf16", "neon", "sve")


def doctor(debug: Debug = False) -> None:
    """Show versions, devices, precisions, attention backends, cache and what is missing: what a bug report needs."""
    set_messages(debug)
    with one_line_errors(debug):
        for name, value in _lines():
            typer.echo(f"{name:16} {value}")


def _lines() -> Iterator[tuple[str, str]]:
    yield "resdiff", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in NEEDED:
        found = _version(package)
        yield package, found or "MISSING: install resdiff again"
    for package, use in OPTIONAL.items():
        found = _version(package)
        yield package, found or f"not installed: {use}"
    yield from _devices()
    yield from _places()
    yield "network", "not tried; resdiff models fetch NAME says what goes wrong"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> Iterator[tuple[str, str]]:
    import psutil
    import torch

    from resdiff.attention import usable_backend
    from resdiff.devices import default_device, default_dtype
    from resdiff.memory import free_memory

    default = default_device()
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older torch
    named = [name for name in CAPABILITIES if capabilities.get(name)]
    yield "cpu", f"{capabilities.get('cpu_name') or platform.processor() or platform.machine()}"
    yield "cpu threads", f"{torch.get_num_threads()} of {os.cpu_count()} cores; OMP_NUM_THREADS sets them"
    yield "cpu capabilities", ", ".join(named) or "none that matter"
    yield "memory", f"{_gib(free_memory(torch.device('cpu')))} free of {_gib(psutil.virtual_memory().total)}"
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        devices.append(torch.device("mps"))
    for device in devices:
        mark = ", the default" if device.type == default.type and not device.index else ""
        if device.type == "cuda":
            name, total = torch.cuda.get_device_name(device), torch.cuda.get_device_properties(device).total_memory
            yield f"device {device}", f"{name}, {_gib(free_memory(device))} free of {_gib(total)}{mark}"
        else:
            yield f"device {device}", f"usable{mark}"
        fast = str(default_dtype(device)).removeprefix("torch.")
        yield "  dtypes", f"{', '.join(_dtypes(device))}; {fast} unless told otherwise"
    if torch.version.cuda is None and not torch.backends.mps.is_available():
        yield "cuda", "this torch is built without it"
    elif not torch.cuda.is_available():
        yield "cuda", "no device, or no driver for it"
    backends = ["sdpa", "eager"]
    if _version("xformers") is not None and usable_backend("xformers") == "xformers":
        backends.append("xformers")
    yield "attention", ", ".join(backends)


def _dtypes(device: "torch.device") -> list[str]:
    from resdiff.devices import check_dtype

    usable = []
    for name in ("fp32", "bf16", "fp16"):
        try:
            check_dtype(name, device)
        except ValueError:
            continue
        usable.append(name)
    return usable


def _places() -> Iterator[tuple[str, str]]:
    from resdiff.canvas import temporary_folder
    from resdiff.checkpoints.cache import cache_dir, offline
    from resdiff.devices import find_cpp_compiler

    cache = cache_dir()
    size = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) if cache.is_dir() else 0
    yield "cache", f"{cache} ($RESDIFF_CACHE), {_gib(size)} used, {_free(cache)}"
    temporary = temporary_folder()
    yield "temporary files", f"{temporary} ($TMPDIR), {_free(temporary)}"
    if offline():
        yield "downloads", "off (RESDIFF_OFFLINE or HF_HUB_OFFLINE)"
    compiler = find_cpp_compiler()
    yield "c++ compiler", compiler or "none: torch.compile needs one on the CPU"


def _free(folder: Path) -> str:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    writable = "" if os.access(existing, os.W_OK) else ", not writable"
    return f"{_gib(shutil.disk_usage(existing).free)} free{writable}"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
