"""`resdiff upscale`: files, folders and patterns through one model."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resdiff.checkpoints.known import BUNDLED
from resdiff.commands.messages import EXIT_CODES, INTERRUPTED, one_line_errors, say_error, set_messages
from resdiff.commands.options import (
    COLOR_FIXES,
    TILES,
    Debug,
    KnownAs,
    MaxPixels,
    dial,
    one_of,
    positive_scale,
    positive_steps,
    seed_64,
    set_max_pixels,
    tiling,
)
from resdiff.commands.plan import Plan, make_plan, say_problems
from resdiff.files.formats import FORMATS

if TYPE_CHECKING:
    from resdiff.runs.batch import Saving, Summary
    from resdiff.runs.jobs import Job
    from resdiff.runs.restorer import Settings

LOOK_EVERY = 1.0  # seconds between two looks of --watch


def upscale(
    inputs: Annotated[list[str], typer.Argument(metavar="IN", help="Files, folders (recursive) or quoted patterns.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder, or a file for a single input.")],
    model: Annotated[
        str | None, typer.Option(help="Name of `models`, folder or published file. [resdiff-small]")
    ] = None,
    known_as: KnownAs = None,
    scale: Annotated[float | None, typer.Option(help="Output side over input side. [the model's own]")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps. [the model's own]")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Text, for models that take any: what the result shall be.")
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What it shall not be.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Weight of the prompt; more than 1 exaggerates. [the model's own]")
    ] = None,
    fidelity: Annotated[
        float | None, typer.Option(help="From 0, most detail, to 1, right on average. [what the steps give]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Every file is restored with this seed.")] = 0,
    color_fix: Annotated[str, typer.Option(help=f"Colour correction: {', '.join(COLOR_FIXES)}.")] = "auto",
    tile: Annotated[str, typer.Option(help=f"{', '.join(TILES)}, or a size in pixels of the input.")] = "auto",
    tile_batch: Annotated[int, typer.Option(min=1, help="Tiles of one image that are restored together.")] = 1,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the model's family, as scheduler=unipc of SeeSR; may be repeated."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps. [cuda where there is one]")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, fp16 or bf16. [the fastest safe one]")] = None,
    compile_networks: Annotated[
        bool, typer.Option("--compile", help="Compile the networks' blocks: a minute at first, then faster.")
    ] = False,
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Replay the networks' calls, on CUDA: faster for tiles of one size.")
    ] = False,
    format_name: Annotated[
        str | None, typer.Option("--format", help=f"Of the results: {', '.join(name[1:] for name in FORMATS)}. [png]")
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of jpg, webp and avif.")] = 95,
    compress_level: Annotated[int, typer.Option(min=0, max=9, help="Of png: 0 fastest, 9 smallest.")] = 1,
    strip_metadata: Annotated[bool, typer.Option("--strip-metadata", help="Leave out EXIF, ICC and DPI.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size that are restored together.")] = 1,
    max_pixels: MaxPixels = None,
    mask: Annotated[Path | None, typer.Option(help="White where to inpaint; for inpainting models, one input.")] = None,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave out files that have a result.")] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on after a stop: as --skip-existing, but the options must be those of the run before, and what a "
            "killed process left half done is removed. A result older than its source is left.",
        ),
    ] = False,
    report_file: Annotated[
        Path | None, typer.Option("--report", help="JSON file: size, seconds, memory, tile, error of each file.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="i/n: take every n-th file from the i-th. [from RANK and WORLD_SIZE of a launcher]"),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Then wait for new files, until Ctrl-C.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be read and written.")] = False,
    debug: Debug = False,
) -> None:
    """Enlarge images. Results keep the folder below IN and the name; nothing that was given is overwritten."""
    from resdiff.commands.dry_run import say_what_would_be_done
    from resdiff.runs.batch import Saving
    from resdiff.runs.restorer import Settings

    set_messages(debug)
    with one_line_errors(debug):
        settings = Settings(
            model=model,
            known_as=known_as,
            device=device,
            dtype=dtype,
            scale=positive_scale(scale),
            num_inference_steps=positive_steps(steps),
            prompt=prompt,
            negative_prompt=negative_prompt,
            guidance_scale=dial("guidance-scale", guidance_scale),
            fidelity=dial("fidelity", fidelity, most=1),
            seed=seed_64(seed),
            color_fix=one_of("color-fix", color_fix, COLOR_FIXES),
            tile=tiling(tile),
            tile_batch=tile_batch,
            mask=mask,
            options=tuple(option or ()),
            compile=compile_networks,
            cuda_graphs=cuda_graphs,
        )
        saving = Saving(quality=quality, compress_level=compress_level, strip_metadata=strip_metadata)
        plan = make_plan(
            inputs,
            output,
            format_name,
            shard=shard,
            mask=mask,
            watch=watch,
            skip_existing=skip_existing,
            resume=resume,
            report_file=report_file,
        )
        set_max_pixels(max_pixels)
        if dry_run:
            summary = say_what_would_be_done(plan, settings)
        else:
            say_problems(plan.problems)
            summary = carry_out(plan, settings, saving, batch_size, debug)
            _say(summary, plan)
            _leave(summary)
        raise typer.Exit(summary.exit_code)


upscale.__doc__ = f"{upscale.__doc__}\n\n{EXIT_CODES}"


def carry_out(plan: Plan, settings: "Settings", saving: "Saving", batch_size: int, debug: bool) -> "Summary":
    """Restore what `plan` says and write the report. ValueError or OSError, one line, before the first file."""
    from resdiff.runs import batch, restorer
    from resdiff.runs.report import Report
    from resdiff.runs.resume import begin_run, remove_leftovers

    is_there = plan.is_there
    summary = batch.Summary(failed=len(plan.problems))
    if plan.folder is not None:
        remove_leftovers({plan.folder, *(job.target.parent for job in plan.jobs)})
    restore = None
    # a resumed run has its options compared also where nothing is left to do
    if plan.watcher is not None or plan.resume or not all(is_there(job) for job in plan.jobs):
        restore = restorer.Restorer(restorer.load_pipeline(settings), settings)
        if plan.folder is not None:
            written = {"format": plan.suffix.lstrip("."), **_by_option(vars(saving))}
            run = begin_run(
                plan.folder, restore.record() | written, resume=plan.resume, keep_existing=plan.skip_existing
            )
            is_there = run.has if plan.resume else is_there
    told = vars(settings) | {"model": settings.model or BUNDLED, "batch_size": batch_size}
    report = Report(
        plan.report_file,
        told | vars(saving) | {"shard": f"{plan.part.index}/{plan.part.count}"},
        "process_peak_mib_so_far" if restore is None else restore.memory,
        resume=plan.resume,
    )
    waiting = []
    for job in plan.jobs:
        if is_there(job):
            summary.skipped += 1
            report.add(batch.entry_of(job, skipped=True))
        else:
            waiting.append(job)
    if restore is not None:
        for jobs in _with_new_files(waiting, plan, summary):
            batch.run(
                jobs,
                restore,
                batch_size=1 if settings.one_generator else batch_size,  # draws follow one another through the batch
                saving=saving,
                is_done=is_there,
                summary=summary,
                report=report,
                show_bar=os.environ.get("LOCAL_RANK", "0") == "0",
                beside=restore.leaves_cores,
                debug=debug,
            )
    try:
        report.write(vars(summary))
    except OSError as error:
        say_error(error)
        summary.report_lost = True
    return summary


def _with_new_files(jobs: "list[Job]", plan: Plan, summary: "Summary") -> "Iterator[list[Job]]":
    """Yield `jobs`, then what comes until Ctrl-C, which is the way to end a watch and no interruption."""
    if jobs:
        yield jobs
    try:
        while plan.watcher is not None and not (summary.interrupted or summary.stopped):
            new = plan.watcher.look()
            say_problems(plan.watcher.problems)
            summary.failed += len(plan.watcher.problems)
            if new:
                yield new
            time.sleep(LOOK_EVERY)
    except KeyboardInterrupt:
        return


def _by_option(settings: dict[str, object]) -> dict[str, object]:
    return {name.replace("_", "-"): value for name, value in settings.items()}


def _leave(summary: "Summary") -> None:
    """Wait before ending in failure until the other processes of a launcher, which would end them, are done."""
    from resdiff.runs.launcher import count_done, wait_for_others

    if not summary.interrupted:
        count_done(os.environ)
        if summary.exit_code:
            wait_for_others(os.environ)


def _say(summary: "Summary", plan: Plan) -> None:
    text = f"{plan.part}{summary}"
    if summary.stopped:
        left = max(0, len(plan.jobs) - summary.written - summary.failed - summary.skipped)
        text += f"; {summary.stopped}, {left} left: make room and run again with --resume"
    if summary.interrupted:
        text += f"; {INTERRUPTED}"
    typer.echo(text, err=summary.interrupted or summary.stopped is not None)
