"""Which device and which floating-point type to run on, by what the machine can do, and when exactness comes first.

bfloat16 on a CPU pays with AMX (2.4 times faster than float32) and with the AVX512-BF16 of AMD's Zen (1.7 to 2.2 times,
see eval/RESULTS.md); with that of Intel's it is a little slower, without either three to six times. float16 on a CPU is
slower still, and refused.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "fp16": torch.float16,
    "float16": torch.float16,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
}
BFLOAT16_CAPABILITY = 8  # CUDA compute capability (Ampere) from which bfloat16 is native


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def default_dtype(device: torch.device | str) -> torch.dtype:
    """Return the fastest safe type on `device`.

    CUDA: bfloat16 where native, else float16. CPU: bfloat16 where its instructions are fast, else float32. Others:
    float32.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if _cuda_has_bfloat16(device) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_fast_bfloat16() else torch.float32


def check_device(name: str | torch.device | None) -> torch.device:
    """Return the device called `name` ("cpu", "cuda", "cuda:1", "mps"), or the default one for None.

    Raises ValueError when there is no device of that name.
    """
    if name is None:
        return default_device()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device is {str(name)!r}; choose cpu, cuda, cuda:0, ... or mps") from error
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if device.type not in count:
        raise ValueError(f"device is {str(name)!r}; choose cpu, cuda, cuda:0, ... or mps")
    if (device.index or 0) >= count[device.type]:
        found = f"this machine has {count[device.type]} {device.type} devices"
        raise ValueError(f"device is {str(name)!r}, but {found}; choose another, such as cpu")
    return device


def check_dtype(name: str | torch.dtype | None, device: torch.device | str) -> torch.dtype:
    """Return the type called `name` (fp32, fp16, bf16 or torch's names), or the default of `device` for None.

    Raises ValueError for an unknown name, and for a type that `device` cannot compute with at a bearable speed.
    """
    device = torch.device(device)
    if name is None:
        return default_dtype(device)
    dtype = name if isinstance(name, torch.dtype) else DTYPES.get(name.lower())
    if dtype is None or dtype not in DTYPES.values():
        raise ValueError(f"dtype is {str(name)!r}; choose fp32, fp16 or bf16")
    if dtype == torch.float16 and device.type == "cpu":
        raise ValueError("dtype is fp16, which CPUs do not compute with; choose fp32 or bf16")
    if dtype == torch.bfloat16 and device.type == "cuda" and not _cuda_has_bfloat16(device):
        raise ValueError(f"dtype is bf16, which {torch.cuda.get_device_name(device)} lacks; choose fp16 or fp32")
    return dtype


def _cuda_has_bfloat16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device)[0] >= BFLOAT16_CAPABILITY


def _cpu_has_fast_bfloat16() -> bool:
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # absent from older torch
    amx = capabilities.get("amx_tile") and capabilities.get("amx_bf16")
    zen = capabilities.get("avx512_bf16") and "AMD" in str(capabilities.get("cpu_name", ""))
    return bool(amx or zen)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute in float32 even under autocast and where TF32 is allowed: for what counts single grey levels."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


@contextmanager
def exact_inference(device: torch.device) -> Iterator[None]:
    """Run networks for numbers that are published: no gradients, full float32, convolutions by one fixed algorithm.

    By default cuDNN computes convolutions in TF32, and may choose another algorithm in every run.
    """
    fixed = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with torch.no_grad(), full_precision(device), fixed:
        yield


def is_hooked(network: torch.nn.Module) -> bool:
    """Whether accelerate or diffusers move or cast this network's weights around its calls (offloading, fp8 storage)."""
    return any(hasattr(part, "_hf_hook") or hasattr(part, "_diffusers_hook") for part in network.modules())


def find_cpp_compiler() -> str | None:
    """Return the path of the C++ compiler that torch.compile would use for CPUs ($CXX first), None where there is none."""
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))
    return next((found for name in names if (found := shutil.which(name))), None)
