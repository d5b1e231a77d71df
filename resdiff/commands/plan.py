"""What a run of `resdiff upscale` will do, settled and checked before a model is loaded."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from resdiff.files.formats import printable
from resdiff.runs.inputs import find_inputs, look, real, root_of
from resdiff.runs.jobs import Job, Shard, is_file_name, plan_outputs
from resdiff.runs.report import check_report
from resdiff.runs.watch import Watcher


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The files of this process, and what is done about those that have a result."""

    jobs: list[Job]
    part: Shard
    folder: Path | None  # of the results; None: one file is written
    suffix: str  # of the results in `folder`
    problems: list[str]  # folders that could not be looked into, one line each
    watcher: Watcher | None
    skip_existing: bool
    resume: bool
    report_file: Path | None

    def is_there(self, job: Job) -> bool:
        """Whether `job` has a result that is to be left."""
        return (self.skip_existing or self.resume) and job.target.exists()


def make_plan(
    inputs: Sequence[str],
    output: Path,
    format_name: str | None,
    *,
    shard: str | None,
    mask: Path | None,
    watch: bool,
    skip_existing: bool,
    resume: bool,
    report_file: Path | None,
) -> Plan:
    """Find the inputs, name the outputs and take this process's share. Raises ValueError in one line."""
    part = Shard.parse(shard, os.environ)
    suffix = None if format_name is None else f".{format_name.lower().lstrip('.')}"
    if watch and part.count > 1:
        raise ValueError("watch is for one process: which files come is not known beforehand; leave out --shard")
    if watch and is_file_name(output):
        raise ValueError(f"output is the file {printable(output)}, but more files may come; pass a folder")
    if watch or skip_existing or resume:
        _check_apart(inputs, output)
    found = look(inputs, output) if watch else find_inputs(inputs, output)
    jobs = plan_outputs(found.inputs, output, suffix)
    if mask is not None and (len(jobs) != 1 or not mask.is_file()):
        told = "it is no file" if len(jobs) == 1 else "pass exactly one input"
        raise ValueError(f"mask is {printable(mask)}: {told}")
    if report_file is not None:
        report_file = part.name(report_file)
        check_report(report_file)
    return Plan(
        jobs=part.of(jobs),
        part=part,
        folder=None if is_file_name(output) else output,
        suffix=suffix or ".png",
        problems=found.problems if part.index == 1 else [],  # one process tells them
        watcher=Watcher(inputs, output, suffix, jobs) if watch else None,
        skip_existing=skip_existing,
        resume=resume,
        report_file=report_file,
    )


def say_problems(problems: list[str]) -> None:
    """Print one line each on stderr."""
    for line in problems:
        typer.echo(f"Error: {line}", err=True)


def _check_apart(inputs: Sequence[str], output: Path) -> None:
    """Raise ValueError where a later look would take results for inputs."""
    for argument in inputs:
        root = root_of(argument) if argument else None
        if root is not None and real(root) == real(output):
            raise ValueError(
                f"output is the folder {printable(output)} of the inputs, whose results could not be told from them "
                "later; choose another output"
            )
