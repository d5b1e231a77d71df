"""Degradation cases of whole training batches: the two-stage pipeline with recorded draws, and the pool of pairs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from degradation import Recorded
from torch import Tensor

from resdiff.data.degradation.kernels import delta_kernel
from resdiff.data.degradation.pool import PairPool
from resdiff.data.degradation.realesrgan import Draw, RealESRGAN, Stage, StageDraw
from resdiff.data.degradation.realesrgan_presets import DIFFBIR


class Case(Protocol):
    """One recorded file: its call arguments, and its tensors without the `in/` and `out/` prefixes."""

    config: dict[str, Any]
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]


class Decisions:
    """The random draws of the reference in call order: [function, its range or shape, value or name of the tensor]."""

    def __init__(self, case: Case) -> None:
        self.left = list(case.config["decisions"])
        self.inputs = case.inputs

    def take(self, function: str) -> Any:
        """Return what the next draw gave; ValueError when it is of another function than the pipeline asks for."""
        drawn, _, value = self.left.pop(0) if self.left else ("nothing", None, None)
        if drawn != function:
            raise ValueError(f"the pipeline draws {function}, recorded is {drawn}, {len(self.left)} before the end")
        return self.inputs[value.removeprefix("in/")] if isinstance(value, str) and value.startswith("in/") else value


def pipeline(case: Case) -> dict[str, Tensor]:
    """degradation/pipeline: one batch; the reference's draws are for the whole batch but for strength, gray, quality."""
    hq = case.inputs["hq"]
    kernel1, kernel2, sinc = (of_each(case.inputs[name], len(hq)) for name in ("kernel1", "kernel2", "sinc_kernel"))
    decisions = Decisions(case)
    degradation = degradation_of(case.config)

    first, fields1 = stage(degradation.first, decisions, kernel1)
    quality1 = decisions.take("uniform_").tolist()
    if not decisions.take("uniform") < degradation.second.blur_prob:
        kernel2 = [delta_kernel(kernel2[0].shape[-1]).float()] * len(hq)
    if isinstance(case.config["stage2_scale"], list):
        degradation = replace(degradation, factor=float(decisions.take("uniform")))
    second, fields2 = stage(degradation.second, decisions, kernel2)
    jpeg_last = decisions.take("uniform") < 0.5
    mode = decisions.take("choice") if jpeg_last else None
    quality2 = decisions.take("uniform_").tolist()
    mode = mode or decisions.take("choice")
    if decisions.left:
        raise ValueError(f"{len(decisions.left)} recorded draws are left over, the next is {decisions.left[0][0]}")

    def fields(seeds: Sequence[int], device: torch.device) -> Recorded:
        """Recorded fields of the samples that have these seeds: 0, 1, .. in the first stage, -1, -2, .. in the second."""
        stage_fields, rows = (fields1, list(seeds)) if seeds[0] >= 0 else (fields2, [-1 - seed for seed in seeds])
        grey = stage_fields.grey
        return Recorded(grey if grey is None or grey.ndim == 2 else grey[rows], stage_fields.colour[rows])

    target, lr = degradation.pair(
        hq,
        [
            Draw(
                first=replace(first[i], quality=quality1[i], seed=i),
                second=replace(second[i], quality=quality2[i], seed=-1 - i),
                is_second_order=True,
                sinc=sinc[i],
                mode=mode,
                jpeg_last=jpeg_last,
                clean=False,
            )
            for i in range(len(hq))
        ],
        fields,
    )
    return {"lq_nhwc": lr.movedim(1, -1), "gt_nhwc": target.movedim(1, -1) * 2 - 1}


def degradation_of(config: dict[str, Any]) -> RealESRGAN:
    """Return the pipeline of a file's arguments; a range of `stage2_scale` is for a draw to decide."""

    def named(base: Stage, suffix: str) -> Stage:
        return replace(
            base,
            resize_probs=tuple(config[f"resize_prob{suffix}"]),
            resize=tuple(config[f"resize_range{suffix}"]),
            gaussian_prob=config[f"gaussian_noise_prob{suffix}"],
            sigma=tuple(config[f"noise_range{suffix}"]),
            poisson_scale=tuple(config[f"poisson_scale_range{suffix}"]),
            gray_prob=config[f"gray_noise_prob{suffix}"],
            jpeg=tuple(config[f"jpeg_range{suffix}"]),
        )

    factor = config["stage2_scale"]
    return replace(
        DIFFBIR,
        first=named(DIFFBIR.first, ""),
        second=replace(named(DIFFBIR.second, "2"), blur_prob=config["second_blur_prob"]),
        factor=DIFFBIR.factor if isinstance(factor, list) else float(factor),
        sharpen=config["use_sharpener"],
    )


def stage(settings: Stage, decisions: Decisions, kernels: Sequence[Tensor]) -> tuple[list[StageDraw], Recorded]:
    """Take the draws of one stage up to its noise; qualities and seeds are filled in later."""
    factor = 1.0 if decisions.take("choices") == "keep" else decisions.take("uniform")
    mode = decisions.take("choice")
    gaussian = decisions.take("uniform") < settings.gaussian_prob
    low, high = settings.sigma if gaussian else settings.poisson_scale
    strength = decisions.take("rand") * (high - low) + low
    gray = decisions.take("rand") < settings.gray_prob
    field = "randn" if gaussian else "poisson"
    fields = Recorded(decisions.take(field) if gray.any() else None, decisions.take(field))
    return [
        StageDraw(kernel, factor, mode, gaussian, strength=s, gray=g, quality=0.0, seed=0)
        for kernel, s, g in zip(kernels, strength.tolist(), gray.tolist(), strict=True)
    ], fields


def of_each(kernels: Tensor, count: int) -> list[Tensor]:
    """Return the kernel of each sample; one may stand for all."""
    return list(kernels.expand(count, *kernels.shape[-2:]))


def pair_pool(case: Case) -> dict[str, Tensor]:
    """degradation/pair_pool: batches in order, their captions numbered on; a permutation for each once it is full."""
    size, count = case.config["queue_size"], case.config["batch"]
    pool = PairPool(size, torch.Generator())
    outputs = {}
    for i in range(sum(name.startswith("gt_") for name in case.inputs)):
        batch = {
            "gt": case.inputs[f"gt_{i}"],
            "lq": case.inputs[f"lq_{i}"],
            "txt": [str(number) for number in range(i * count, (i + 1) * count)],
        }
        given = pool.exchange(batch, case.inputs.get(f"perm_{i - size // count}"))
        outputs |= {f"gt_{i}": given["gt"], f"lq_{i}": given["lq"]}
        outputs[f"txt_{i}"] = torch.tensor([int(text) for text in given["txt"]])
    return outputs
