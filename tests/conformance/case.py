"""A conformance case: one file of tensors recorded from a published implementation, and the comparison with ours.

Error and tolerances are those of the README that lies beside the vectors: error = max|ours - theirs| /
max(1, max|theirs|) over a tensor. Integers and booleans must be equal; 8-bit images may differ by one level in fewer
than 1 % of their values, float images that were rounded to 8 bits in `Tolerance.share` of them; float64 is for tables,
which must agree to 1e-12.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

TABLE_LIMIT = 1e-12  # float64
LEVELS_LIMIT = 0.01  # uint8: share of the values that are one level off
LEVEL = 1 / 255  # of an image in [0, 1]
ROUNDING = 1e-5  # relative errors count from here: a gradient that is zero by construction is recorded as 1e-9 of noise


@dataclass(frozen=True)
class Tolerance:
    """Bound of the error of floating-point tensors; float64 ones are tables unless it says otherwise."""

    limit: float
    relative: bool = False  # error over max|theirs| even where that is below 1: losses and gradients
    double: bool = False  # bounds float64 tensors as well: figures that were computed, not tables
    share: float = 0.0  # of the values may be one 8-bit level further off: rounding ties of an image in [0, 1]


@dataclass(frozen=True)
class Case:
    """One file: the constructor and call arguments in the reference's names, and its tensors without their prefixes."""

    path: Path
    kind: str  # "<system>/<kind>"
    config: Any  # what the JSON holds: an object, or the list of calls that a file records
    state: dict[str, Tensor]  # weights and buffers; floats are float32, whatever they were stored as
    inputs: dict[str, Tensor]
    expected: dict[str, Tensor]
    mid: dict[str, Tensor]  # intermediate results, to find where a difference begins
    state_files: Mapping[str, Sequence[str]] = field(default_factory=dict)  # network -> files beside this one


@dataclass(frozen=True)
class NotCompared:
    """What a handler returns in place of a tensor that it cannot give, with the reason."""

    reason: str


Outputs = Mapping[str, Tensor | NotCompared]
Handler = Callable[[Case], Outputs]
Tolerances = Mapping[str, Tolerance]  # by pattern of the tensor's name; the first that fits counts


def read_kind(path: Path) -> str:
    """Return the kind of a file without reading its tensors.

    Raises ValueError for a file without one, and what safetensors raises for a file that is none.
    """
    with safe_open(path, framework="pt") as file:
        kind = (file.metadata() or {}).get("kind")
    if not kind:
        raise ValueError("no `kind` in the metadata; it must say <system>/<kind>")
    return kind


def read_case(path: Path) -> Case:
    """Read a vector file.

    Raises ValueError when its metadata is incomplete or it holds nothing to compare, and what safetensors raises for a
    damaged file.
    """
    kind = read_kind(path)
    groups: dict[str, dict[str, Tensor]] = {"state": {}, "in": {}, "out": {}, "mid": {}}
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata().get("config", "{}"))
        state_files = json.loads(file.metadata().get("state_files", "{}"))
        for key in file.keys():  # noqa: SIM118 (a safetensors file is not a mapping)
            group, _, name = key.partition("/")
            if group not in groups or not name:
                raise ValueError(f"tensor {key!r} is in none of {', '.join(groups)}")
            groups[group][name] = file.get_tensor(key)
    if not isinstance(config, (dict, list)):
        raise ValueError(f"config is {config!r}; it must be a JSON object or list")
    if not groups["out"]:
        raise ValueError("no out/* tensor, so there is nothing to compare")
    return Case(
        path, kind, config, in_float32(groups["state"]), groups["in"], groups["out"], groups["mid"], state_files
    )


def in_float32(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they were used, whatever they were stored as."""
    return {name: x.float() if x.is_floating_point() else x for name, x in state.items()}


def read_state(path: Path) -> dict[str, Tensor]:
    """Return only the weights of a vector file; raises what safetensors raises for a damaged one."""
    with safe_open(path, framework="pt") as file:
        names = [key for key in file.keys() if key.startswith("state/")]  # noqa: SIM118
        return in_float32({name.removeprefix("state/"): file.get_tensor(name) for name in names})


@dataclass(frozen=True)
class Comparison:
    """One tensor: error against limit, or why they cannot be compared."""

    name: str
    error: float
    limit: float
    problem: str = ""

    @property
    def excess(self) -> float:
        """Error in units of the limit; above 1 is too much, infinite where nothing is allowed or comparable."""
        if self.problem:
            return math.inf
        if self.limit == 0:
            return math.inf if self.error else 0.0
        return self.error / self.limit


def compare(name: str, ours: Tensor, theirs: Tensor, tolerance: Tolerance) -> Comparison:
    """Compare one tensor with the recorded one; equal infinities agree, NaN agrees with nothing."""
    if ours.dtype != theirs.dtype:
        return Comparison(name, math.nan, math.nan, f"dtype is {ours.dtype}, recorded {theirs.dtype}")
    if ours.shape != theirs.shape:
        return Comparison(name, math.nan, math.nan, f"shape is {tuple(ours.shape)}, recorded {tuple(theirs.shape)}")
    if ours.is_floating_point() and bool(torch.isnan(ours).any() | torch.isnan(theirs).any()):
        return Comparison(name, math.nan, math.nan, "NaN")
    if ours.numel() == 0:
        return Comparison(name, 0.0, 0.0)

    if theirs.dtype == torch.uint8:
        levels = (ours.int() - theirs.int()).abs()
        share = float((levels > 0).double().mean())
        problem = f"{int(levels.max())} levels off" if levels.max() > 1 else ""
        if share >= LEVELS_LIMIT:
            problem = problem or f"{share:.2%} of the values are off"
        return Comparison(name, share, LEVELS_LIMIT, problem)
    if not theirs.is_floating_point():
        return Comparison(name, float((ours.long() - theirs.long()).abs().max()), 0.0)

    a, b = ours.detach().double(), theirs.double()
    errors = torch.where(a == b, 0.0, (a - b).abs())
    finite = b[b.isfinite()].abs()
    scale = float(finite.max()) if len(finite) else 0.0
    if theirs.dtype == torch.float64 and not tolerance.double:
        return Comparison(name, float(errors.max()) / max(1.0, scale), TABLE_LIMIT)
    errors = errors / max(ROUNDING if tolerance.relative else 1.0, scale)
    tied = (errors > tolerance.limit) & (errors <= LEVEL + tolerance.limit)
    if float(tied.double().mean()) <= tolerance.share:
        errors = errors.where(~tied, 0.0)
    return Comparison(name, float(errors.max()), tolerance.limit)


def check_mids(case: Case, steps: Mapping[str, Tensor], limit: float) -> None:
    """Raise ValueError, which fails the case, where an intermediate result is not the recorded one, if there is one."""
    for name in steps.keys() & case.mid.keys():
        result = compare(f"mid/{name}", steps[name], case.mid[name], Tolerance(limit, double=True))
        if not result.excess <= 1:
            raise ValueError(f"{result.name}: {result.problem or f'error {result.error:.2e}'}")


@dataclass(frozen=True)
class Verdict:
    """All tensors of a case; `problem` is empty when it passed."""

    error: float  # of the tensor that is nearest to, or furthest beyond, its limit
    limit: float
    compared: int
    total: int
    problem: str
    left_out: dict[str, str]  # name -> the handler's reason


def judge(outputs: Outputs, expected: Mapping[str, Tensor], tolerances: Tolerances) -> Verdict:
    """Compare what a handler returned with every recorded tensor; names must be the same on both sides."""
    left_out = {name: x.reason for name, x in outputs.items() if isinstance(x, NotCompared) and name in expected}
    results = [
        compare(name, ours, theirs, tolerance_of(name, tolerances))
        for name, theirs in sorted(expected.items())
        if isinstance(ours := outputs.get(name), Tensor)
    ]
    problems = [f"{r.name}: {r.problem or f'error {r.error:.2e}'}" for r in results if not r.excess <= 1]
    problems += [f"{name}: not computed" for name in sorted(expected.keys() - outputs.keys())]
    problems += [f"{name}: computed but not in the file" for name in sorted(outputs.keys() - expected.keys())]
    if not results:
        problems.append("nothing was compared")
    worst = max(results, key=lambda r: r.excess, default=Comparison("", math.nan, math.nan))
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Verdict(
        error=worst.error,
        limit=worst.limit,
        compared=len(results),
        total=len(expected),
        problem=problems[0] + more if problems else "",
        left_out=left_out,
    )


def tolerance_of(name: str, tolerances: Tolerances) -> Tolerance:
    """Return the tolerance of the first pattern that fits a tensor's name."""
    for pattern, tolerance in tolerances.items():
        if fnmatchcase(name, pattern):
            return tolerance
    raise ValueError(f"no tolerance for {name}; end the table with '*'")
