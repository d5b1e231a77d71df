"""`resdiff upscale --dry-run`: what would be read, written, skipped and refused, from headers alone."""

from typing import TYPE_CHECKING

import typer

from resdiff.commands.facts import facts_of
from resdiff.commands.plan import Plan, say_problems
from resdiff.files.formats import printable
from resdiff.files.headers import check_result, read_header
from resdiff.runs.batch import Summary
from resdiff.runs.errors import describe
from resdiff.sizes import scaled_size

if TYPE_CHECKING:
    from resdiff.runs.restorer import Settings


def say_what_would_be_done(plan: Plan, settings: "Settings") -> Summary:
    """Print one line per file and a last one that counts; return the count."""
    scale = settings.scale or _native_scale(settings)
    say_problems(plan.problems)
    summary = Summary(failed=len(plan.problems))
    for job in plan.jobs:
        source, target = printable(job.source), printable(job.target)
        if plan.is_there(job):
            summary.skipped += 1
            unless = ", unless other options made it" if plan.resume else ""
            typer.echo(f"{source}: skipped, {target} exists{unless}")
            continue
        try:
            header = read_header(job.source)
            height, width = scaled_size(header.height, header.width, scale)
            check_result(job.target, height, width, header.has_alpha)
        except (ValueError, OSError) as error:
            summary.failed += 1
            typer.echo(f"{source}: refused, {describe(error)}")
        else:
            summary.written += 1
            typer.echo(f"{source} {header.width}x{header.height} -> {target} {width}x{height}")
    count = f"{summary.written} would be written, {summary.failed} refused, {summary.skipped} skipped"
    typer.echo(f"{plan.part}{count}; nothing was done")
    return summary


def _native_scale(settings: "Settings") -> float:
    """Return the scale of the model, which is opened only where its name, folder or file does not tell."""
    from resdiff.runs.restorer import load_pipeline

    facts = facts_of(settings.model, settings.known_as)
    return load_pipeline(settings).native_scale if facts is None else facts.scale
