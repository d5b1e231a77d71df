"""A hash that stands for a network's configuration and weights, in a moment whatever its size."""

import hashlib
import json
from typing import Any

from torch import Tensor

SAMPLES = 64  # numbers of each tensor that count: training moves all of them


def add_module(digest: "hashlib._Hash", name: str, module: Any) -> None:
    """Add a component of a pipeline: its configuration and, of each of its tensors, the shape and some numbers."""
    digest.update(json.dumps([name, settings_of(module)], sort_keys=True, default=str).encode())
    for key, tensor in module.state_dict().items() if hasattr(module, "state_dict") else ():
        digest.update(f"{key} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(_sample(tensor))


def fingerprint(module: Any) -> str:
    """Return 64 hex digits of a network alone."""
    digest = hashlib.sha256()
    add_module(digest, "", module)
    return digest.hexdigest()


def settings_of(part: Any) -> dict[str, Any]:
    """Return a component's configuration without what says where it came from and who wrote it."""
    return {key: value for key, value in dict(getattr(part, "config", {})).items() if not key.startswith("_")}


def _sample(tensor: Tensor) -> bytes:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLES)].float().cpu().numpy().tobytes()
