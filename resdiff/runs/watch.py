"""New files in folders that somebody else writes to: `resdiff upscale --watch`."""

from collections.abc import Sequence
from pathlib import Path

from resdiff.runs.inputs import Input, look, root_of
from resdiff.runs.jobs import Job, plan_outputs

Signature = tuple[int, int]  # bytes, modification time in ns


class Watcher:
    """Tells which files have come, once they are complete.

    A file is taken when its size and modification time are those of the look before. A file that failed is taken again
    when it has changed; one that was restored is not.

    Args:
        arguments: as of `find_inputs`. Raises ValueError when none is a folder or a pattern.
        output: folder of the results.
        suffix: as of `plan_outputs`.
        jobs: what is known already.
    """

    def __init__(self, arguments: Sequence[str], output: Path, suffix: str | None, jobs: Sequence[Job]):
        if all(root_of(argument) is None for argument in arguments):
            raise ValueError("watch needs a folder or a quoted pattern as an input; leave --watch out for single files")
        self.arguments, self.output, self.suffix = list(arguments), output, suffix
        self.jobs = {job.source: job for job in jobs}
        self.tried = {job.source: _signature(job.source) for job in jobs}
        self.seen: dict[Path, Signature | None] = {}
        self.problems: list[str] = []  # of the last look that were not told before
        self._told: set[str] = set()
        self._refused: set[Path] = set()

    def look(self) -> list[Job]:
        """Return the jobs of the files that have become ready since the last look."""
        found = look(self.arguments, self.output)
        self.problems = [line for line in found.problems if line not in self._told]
        self._told.update(self.problems)
        ready = [one for one in found.inputs if self._is_ready(one.path)]
        jobs = [job for one in ready for job in self._jobs(one)]
        for job in jobs:
            self.jobs[job.source], self.tried[job.source] = job, self.seen.pop(job.source)
        return jobs

    def _is_ready(self, path: Path) -> bool:
        now = _signature(path)
        known = path in self.jobs
        if (
            now is None
            or path in self._refused
            or (known and (now == self.tried[path] or self.jobs[path].target.exists()))
        ):
            return False
        still = self.seen.get(path) == now
        self.seen[path] = now
        return still

    def _jobs(self, one: Input) -> list[Job]:
        if one.path in self.jobs:
            return [self.jobs[one.path]]
        try:
            return plan_outputs([one], self.output, self.suffix, {job.target for job in self.jobs.values()})
        except ValueError as error:  # a name that is taken twice over, a folder that cannot be made
            self.problems.append(str(error))
            self._refused.add(one.path)
            return []


def _signature(path: Path) -> Signature | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
