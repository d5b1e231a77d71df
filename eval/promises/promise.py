"""One promise: what was measured, the bound, and whether it holds; and the tables of many."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

REPORTED = ""  # the bound of a figure that is only reported


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A row of the tables."""

    name: str
    where: str  # the images it was measured on
    measured: float  # NaN: not defined on these images
    bound: str = REPORTED
    met: bool | None = None  # None: only reported
    digits: int = 3  # after the point, in the table
    remark: str = ""

    @property
    def verdict(self) -> str:
        """What the last column says."""
        return {None: "", True: "pass", False: "FAIL"}[self.met]

    def document(self) -> dict[str, Any]:
        """Return the promise as JSON can hold it: an undefined figure is None."""
        return asdict(self) | {"measured": self.measured if math.isfinite(self.measured) else None}


def at_least(name: str, where: str, measured: float, bound: float, *, digits: int = 3, remark: str = "") -> Promise:
    """Promise that holds when measured >= bound; an undefined figure does not hold."""
    return Promise(
        name=name, where=where, measured=measured, bound=f">= {bound:g}", met=measured >= bound, digits=digits,
        remark=remark,
    )  # fmt: skip


def at_most(name: str, where: str, measured: float, bound: float, *, digits: int = 3, remark: str = "") -> Promise:
    """Promise that holds when measured <= bound; an undefined figure does not hold."""
    return Promise(
        name=name, where=where, measured=measured, bound=f"<= {bound:g}", met=measured <= bound, digits=digits,
        remark=remark,
    )  # fmt: skip


def above_zero(name: str, where: str, measured: float, *, digits: int = 3, remark: str = "") -> Promise:
    """Promise that holds when measured > 0; an undefined figure does not hold."""
    return Promise(
        name=name, where=where, measured=measured, bound="> 0", met=measured > 0, digits=digits, remark=remark
    )


def table(promises: Iterable[Promise]) -> str:
    """Return a Markdown table: promise, images, measured, bound, verdict."""
    rows: list[Sequence[str]] = [("", "on", "measured", "bound", ""), ("---",) * 5]
    for p in promises:
        measured = f"{p.measured:.{p.digits}f}" if math.isfinite(p.measured) else "n/a"
        rows.append((p.name, p.where, f"{measured} {p.remark}".strip(), p.bound, p.verdict))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def summary(promises: Sequence[Promise]) -> str:
    """Return one line: how many of the judged promises hold, and the names of those that do not."""
    judged = [p for p in promises if p.met is not None]
    failed = [f"{p.name} ({p.where})" for p in judged if not p.met]
    held = f"{len(judged) - len(failed)} of {len(judged)} promises hold"
    return f"{held}; FAIL: {'; '.join(failed)}" if failed else held
