"""LR images of test sets that are made from HR: bit for bit the same wherever and whenever.

An image's LR depends on the seed and the image's name alone: not on the order, the process or the number of threads.
`eval/make_testset.py` writes the same images to files.
"""

import hashlib
from contextlib import contextmanager

import torch
from torch import Tensor

from resdiff.data.degradation.presets import PRESETS, preset


def check_degradation(name: str, scale: int) -> None:
    """Raise ValueError unless `name` is a preset whose LR is smaller than HR by `scale`."""
    if (own := preset(name).scale) != scale:
        same = [other for other, each in PRESETS.items() if each.scale == scale]
        choice = f"choose one of {', '.join(same)}" if same else "no preset has that scale"
        raise ValueError(f"degradation {name} makes LR of 1/{own} of HR's sides, the scale is {scale}; {choice}")


def make_lr(hr: Tensor, degradation: str, seed: int, name: str) -> Tensor:
    """Degrade one HR image to 8-bit LR, bit for bit the same wherever and whenever it is made.

    Args:
        hr: (1 or 3, H, W) uint8, sides multiples of the preset's scale.
        degradation: a name of `resdiff.data.degradation.presets.PRESETS`.
        seed: of the test set.
        name: of the image. Two images of a set get different random numbers, one image always the same.

    Returns:
        (C, H / scale, W / scale) uint8: one channel where HR has one and the degradation adds no colour, else three.
    """
    digest = hashlib.blake2b(f"{seed}:{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little", signed=True))
    with _one_thread():
        lr = preset(degradation)((hr.cpu().float() / 255).expand(3, -1, -1)[None], generator)[0]
    values = (lr * 255).round().clamp(0, 255).to(torch.uint8)
    is_grey = len(hr) == 1 and bool((values == values[:1]).all())
    return values[:1] if is_grey else values


@contextmanager
def _one_thread():
    """Sums of another number of threads have another order, which after rounding can be another LR image."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
