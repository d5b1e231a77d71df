"""Many files through one pipeline. Nothing heavy is imported before it is needed.

`run` decodes the next file and encodes the last one in threads beside the model, and goes on after a bad file.
"""

import os
import shutil
import sys
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdiff.formats import check_transparency
from resdiff.jobs import Job, check_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from tqdm import tqdm

    from resdiff.images import Photo

Restore = Callable[[list["Photo"]], list["Image"]]  # same length and order


@dataclass
class Summary:
    """How a run ended."""

    written: int = 0
    failed: int = 0
    skipped: int = 0
    interrupted: bool = False

    def __str__(self) -> str:
        return f"{self.written} written, {self.failed} failed, {self.skipped} skipped"

    @property
    def exit_code(self) -> int:
        """0 when every file was written or skipped, 1 when any failed or Ctrl-C left some out."""
        return int(self.failed > 0 or self.interrupted)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `resdiff upscale` was asked for; None is the pipeline's own default."""

    model: str | None = None
    known_as: str | None = None
    device: str | None = None
    dtype: str | None = None
    scale: float | None = None
    num_inference_steps: int | None = None
    prompt: str | None = None
    seed: int = 0
    color_fix: str = "auto"
    tile: str | int = "auto"
    mask: Path | None = None

    @property
    def one_generator(self) -> bool:
        """Whether draws come in the published order, from one generator through all tiles of one image."""
        return isinstance(self.tile, str) and self.tile.startswith("reference")


def load_pipeline(settings: Settings) -> Any:
    """Return the `SRPipeline` that `settings` name, on its device. ValueError or OSError, one line, when there is none."""
    from resdiff.devices import check_device, check_dtype

    device = check_device(settings.device)
    dtype = check_dtype(settings.dtype, device)
    from diffusers.utils.logging import disable_progress_bar

    from resdiff.pipelines import SRPipeline

    disable_progress_bar()  # of loading; a command shows one bar, that of its files
    pipe = SRPipeline.from_pretrained(settings.model, dtype=dtype, known_as=settings.known_as).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def restorer(pipe: Any, settings: Settings) -> Restore:
    """Return photos -> PIL images through `pipe`, every photo with a generator of the same seed.

    A result therefore depends neither on the order of the files nor on the batch size. With tile="reference" one
    generator is drawn from in the published order: pass one photo at a time.

    Raises ValueError when the model cannot do what `settings` ask for.
    """
    import torch

    pipe.as_tiling(settings.tile)
    pipe.check_inputs(
        prompt=settings.prompt,
        mask=settings.mask,
        scale=settings.scale or pipe.native_scale,
        steps=settings.num_inference_steps or pipe.default_steps,
        num_images_per_prompt=1,
        color_fix=settings.color_fix,
        output_type="pil",
    )

    def restore(photos: list["Photo"]) -> list["Image"]:
        generators = [torch.Generator().manual_seed(settings.seed) for _ in photos]
        return pipe(
            photos,
            settings.prompt,
            mask=settings.mask,
            scale=settings.scale,
            num_inference_steps=settings.num_inference_steps,
            generator=generators[0] if settings.one_generator else generators,
            color_fix=settings.color_fix,
            tile=settings.tile,
        ).images

    return restore


def run(
    jobs: Sequence[Job],
    restore: Restore,
    *,
    batch_size: int = 1,  # images per call of the model; only images of one size share a call
    quality: int = 95,  # of JPEG, WebP and AVIF
    skipped: int = 0,  # files left out before, for the summary
    debug: bool = False,  # raise the first failure
) -> Summary:
    """Restore every job's source into its target. A failure is reported in one line on stderr, and the rest go on.

    At most one batch is read ahead and two are being written, so that memory does not grow with the number of files.
    On KeyboardInterrupt, files already restored are still written.
    """
    from tqdm import tqdm

    batches = deque(_batches(jobs, batch_size))
    summary = Summary(skipped=skipped)
    bar = tqdm(
        total=len(jobs),
        unit=" images",
        file=sys.stderr,
        bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]",
    )
    reports = _Reports(summary, bar, debug)
    writing: deque[tuple[Job, Future[None]]] = deque()
    with bar, ThreadPoolExecutor(max_workers=2) as pool:
        try:
            reading = _read_batch(pool, batches)
            while reading:
                ready, reading = reading, _read_batch(pool, batches)
                for job, image in _restored(_decoded(ready, reports), restore, reports):
                    writing.append((job, pool.submit(_write, image, job.target, quality)))
                while len(writing) > 2 * batch_size:
                    reports.finished(*writing.popleft())
        except KeyboardInterrupt:
            summary.interrupted = True
        while writing:
            reports.finished(*writing.popleft())
    return summary


@dataclass
class _Reports:
    """Counts what became of each file, and says what went wrong."""

    summary: Summary
    bar: "tqdm[Any]"
    debug: bool

    def finished(self, job: Job, future: "Future[None]") -> None:
        try:
            future.result()
        except Exception as error:  # whatever happens to one file must not end the run
            self.failed(job, error)
        else:
            self.summary.written += 1
            self.bar.update()

    def failed(self, job: Job, error: Exception) -> None:
        if self.debug:
            raise error
        self.summary.failed += 1
        self.bar.write(f"Error: {describe(error, job.source)}", file=sys.stderr)
        self.bar.update()


def describe(error: BaseException, source: Path | None = None) -> str:
    """Put `error` into one line that names the file `source`; the type is told where the text alone may not be clear."""
    text = " ".join(line.strip() for line in str(error).splitlines()[:1])
    if not isinstance(error, (ValueError, OSError)) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if source is None or str(source) in text else f"{source}: {text}"


def _batches(jobs: Sequence[Job], batch_size: int) -> list[list[Job]]:
    """Split the jobs into batches of one image size each, in the order in which a size first appears."""
    if batch_size == 1:
        return [[job] for job in jobs]
    by_size: dict[tuple[int, int] | Path, list[Job]] = {}
    for job in jobs:
        by_size.setdefault(_peek_size(job.source) or job.source, []).append(job)
    return [group[i : i + batch_size] for group in by_size.values() for i in range(0, len(group), batch_size)]


def _peek_size(path: Path) -> tuple[int, int] | None:
    """Return (width, height) as displayed, from the header alone; None when the file has to speak for itself."""
    from PIL import ExifTags, Image

    try:
        with Image.open(path) as image:
            turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except Exception:  # the reader will say what is wrong with it
        return None


def _read_batch(pool: ThreadPoolExecutor, batches: "deque[list[Job]]") -> "list[tuple[Job, Future[Photo]]]":
    return [(job, pool.submit(_decode, job)) for job in batches.popleft()] if batches else []


def _decode(job: Job) -> "Photo":
    from resdiff.images import read_photos

    photo = read_photos(job.source)[0]
    check_transparency(job.target, photo.alpha is not None)  # before the model works on it in vain
    return photo


def _decoded(ready: "list[tuple[Job, Future[Photo]]]", reports: _Reports) -> "list[tuple[Job, Photo]]":
    decoded = []
    for job, future in ready:
        try:
            decoded.append((job, future.result()))
        except Exception as error:  # as in _Reports.finished
            reports.failed(job, error)
    return decoded


def _restored(batch: "list[tuple[Job, Photo]]", restore: Restore, reports: _Reports) -> "list[tuple[Job, Image]]":
    if not batch:
        return []
    try:
        images = restore([photo for _, photo in batch])
    except Exception as error:  # out of memory, for one
        if len(batch) == 1 or reports.debug:
            reports.failed(batch[0][0], error)
            return []
        return [done for one in batch for done in _restored([one], restore, reports)]
    return [(job, image) for (job, _), image in zip(batch, images, strict=True)]


def _write(image: "Image", target: Path, quality: int) -> None:
    from resdiff.images import save_image

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(image, target, quality=quality)
    except OSError as error:  # a full disk, a read-only file system
        raise OSError(f"{target} cannot be written: {error.strerror or error}; choose another output") from error


def convert_checkpoints(files: Sequence[Path], out_dir: Path, known_as: str | None, dtype: str) -> None:
    """Write the pipeline of published checkpoint `files` to `out_dir`, whole or not at all.

    Raises ValueError or OSError in one line: `out_dir` is a file or not empty, or the files cannot be used.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise ValueError(f"{out_dir} exists and is not an empty folder; choose another")
    check_folder(out_dir.parent)
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{file} does not exist; check the name" if not file.exists() else f"{file} is a folder; pass a file"
            )
    from resdiff.devices import DTYPES
    from resdiff.pipelines.resshift import ResShiftPipeline

    pipe = ResShiftPipeline.from_published(list(files), known_as, DTYPES[dtype])
    temporary = out_dir.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        pipe.save_pretrained(temporary)
        if out_dir.exists():
            out_dir.rmdir()
        os.replace(temporary, out_dir)
    except OSError as error:  # a full disk, a read-only file system
        raise OSError(f"{out_dir} cannot be written: {error.strerror or error}; choose another folder") from error
    finally:  # on KeyboardInterrupt too, nothing is left behind
        shutil.rmtree(temporary, ignore_errors=True)
