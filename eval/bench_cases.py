"""The measurements of `bench_pipeline` for ResShift: which there are, and one case, run in this process."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from resdiff.eval.harness.cost import reset_peak, resident_mib

Way = Literal["plain", "compiled", "graphs", "compiled, graphs", "model offload", "sequential offload", "group offload"]
FolderWay = Literal["loop", "command"]
GPU_WAYS: tuple[Way, ...] = ("compiled", "graphs", "compiled, graphs")
OFFLOADS: tuple[Way, ...] = ("model offload", "group offload", "sequential offload")
FULL, SMALL = "full", "small"
NAMES = {SMALL: "resdiff-small", FULL: "ResShift, full size"}
TARGET_MS = {4: 40, 15: 80}  # of 128 -> 512 px on an H200, bf16, compiled, by steps
TARGET_MIB = 4096
PHOTOS = 12


@dataclass(frozen=True)
class Case:
    """One measurement."""

    model: str  # "small": the bundled model; "full": the published architecture, random weights
    side: int  # of the square input, px
    steps: int
    dtype: str  # float32 or bfloat16
    device: str = "cpu"
    way: Way | FolderWay = "plain"
    tile: int | None = None  # px of the input; None: as the pipeline chooses
    tile_batch: int = 1
    photos: int = 1  # in the folder, of the folder's ways

    @property
    def label(self) -> str:
        """How the case is called in the table."""
        text = f"{NAMES[self.model]} {self.side}->{4 * self.side}, {self.steps} steps, {self.device} {self.dtype}"
        if self.tile is not None:
            text += f", tiles of {self.tile}, {self.tile_batch} at once"
        if self.way in ("loop", "command"):
            what = "a loop of read, call, save" if self.way == "loop" else "resdiff upscale"
            return f"{what}: {self.photos} photos, {text}"
        return text if self.way == "plain" else f"{text}, {self.way}"


@dataclass(frozen=True)
class Measurement:
    """What a case cost; seconds are the fastest of the repeats, `first_seconds` those of the call before them."""

    load_seconds: float
    first_seconds: float
    wall_seconds: float
    cpu_seconds: float
    peak_mib: float  # above the process after import; on a GPU: of the allocator


def groups(best: str, cuda: bool, compiler: bool) -> dict[str, list[Case]]:
    """Return what is measured on a machine whose best CPU dtype is `best`: title -> cases, the one to compare with first."""
    other = "bfloat16" if best == "float32" else best  # shown even where it is slower: it is why float32 is chosen
    small, full = Case(SMALL, 256, 4, "float32"), Case(FULL, 64, 4, "float32")
    folder = Case(SMALL, 128, 4, best, photos=PHOTOS)
    tiled = Case(SMALL, 384, 1, best, tile=192)
    found = {
        "Precision of the bundled model": [small, replace(small, dtype=other)],
        "Precision of the full-size network": [full, replace(full, dtype=other)],
        "A folder": [replace(folder, way="loop"), replace(folder, way="command")],
        "Tiles at once": [replace(tiled, tile_batch=count) for count in (1, 2, 4)],
    }
    if compiler:
        plain = replace(small, dtype=best)
        found["Compiled blocks"] = [plain, replace(plain, way="compiled")]
    if cuda:
        for steps in (1, 4, 15):
            plain = Case(FULL, 128, steps, "bfloat16", "cuda")
            ways = [replace(plain, way=way) for way in GPU_WAYS]
            found[f"GPU, {steps} steps"] = [replace(plain, dtype="float32"), plain, *(ways if compiler else ways[1:2])]
        plain = Case(FULL, 128, 4, "bfloat16", "cuda")
        found["GPU, offloaded"] = [plain, *(replace(plain, way=way) for way in OFFLOADS)]
        tiled = replace(plain, side=512, tile=128)
        found["GPU, tiles at once"] = [replace(tiled, tile_batch=count) for count in (1, 4, 8)]
        folder = Case(SMALL, 128, 4, "bfloat16", "cuda", photos=10 * PHOTOS)
        found["GPU, a folder"] = [replace(folder, way="loop"), replace(folder, way="command")]
    return found


def left_out(cuda: bool, compiler: bool) -> list[str]:
    """Return a line for each kind of case that this machine cannot run."""
    lines = []
    if not compiler:
        lines.append("compiled blocks: no C++ compiler was found")
    if not cuda:
        lines.append("CUDA graphs, offloading, 128 -> 512 px at 1, 4 and 15 steps: there is no CUDA device")
    return lines


def target(case: Case, result: Measurement) -> str:
    """Return what is expected of the case and whether it is met; empty where nothing is."""
    expected = case.device == "cuda" and case.model == FULL and case.way.startswith("compiled")
    if not expected or case.side != 128 or case.steps not in TARGET_MS:
        return ""
    met = result.wall_seconds <= TARGET_MS[case.steps] / 1000 and result.peak_mib <= TARGET_MIB
    return f"{TARGET_MS[case.steps]} ms, {TARGET_MIB} MiB on an H200: {'met' if met else 'not met'}"


def full_size_pipeline(steps: int, dtype: Any) -> Any:
    """Return the published architecture with random weights of torch's `dtype`, scheduled for `steps`."""
    from resdiff.models.swin_unet import SwinUNet
    from resdiff.models.vq import VQAutoencoder
    from resdiff.pipelines.resshift import ResShiftPipeline
    from resdiff.schedulers.resshift import ResShiftScheduler

    scheduler = ResShiftScheduler(num_train_timesteps=max(steps, 4))
    networks = (network.eval().to(dtype) for network in (SwinUNet(lq_size=64), VQAutoencoder()))
    return ResShiftPipeline(*networks, scheduler)


def load(case: Case) -> Any:
    """Return the pipeline of a case, on its device, prepared in its way."""
    import torch

    from resdiff import SRPipeline

    dtype = getattr(torch, case.dtype)
    pipe = SRPipeline.from_pretrained(dtype=dtype) if case.model == SMALL else full_size_pipeline(case.steps, dtype)
    pipe.set_progress_bar_config(disable=True)
    if case.way == "model offload":
        pipe.enable_model_cpu_offload()
    elif case.way == "sequential offload":
        pipe.enable_sequential_cpu_offload()
    elif case.way == "group offload":
        pipe.enable_group_offload(torch.device(case.device), offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(case.device)
    if case.way.startswith("compiled"):
        pipe.compile_networks(fullgraph=True)
    if case.way.endswith("graphs"):
        pipe.enable_cuda_graphs()
    return pipe


def fastest(run: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the least wall and CPU seconds of `run`."""
    walls, cpus = [], []
    for _ in range(repeats):
        started, cpu = time.perf_counter(), time.process_time()
        run()
        walls.append(time.perf_counter() - started)
        cpus.append(time.process_time() - cpu)
    return min(walls), min(cpus)


def timed(run: Callable[[], object], repeats: int) -> tuple[float, float, float]:
    """Return wall seconds of a first run, and the least wall and CPU seconds of those after it; 0 repeats: of the first."""
    first, cpu = fastest(run, 1)
    return first, *(fastest(run, repeats) if repeats else (first, cpu))


def measure_calls(case: Case, repeats: int) -> Measurement:
    """Measure calls of one photo."""
    import torch

    if case.model == FULL:
        from resdiff.models import swin_unet, vq  # noqa: F401  (counted as import, not as load)
    baseline = resident_mib("VmRSS")
    reset_peak(torch.device("cpu"))
    started = time.perf_counter()
    pipe = load(case)
    loading = time.perf_counter() - started
    photo = torch.rand(1, 3, case.side, case.side, generator=torch.Generator().manual_seed(0))

    def call() -> None:
        pipe(
            photo,
            num_inference_steps=case.steps,
            generator=torch.Generator().manual_seed(0),
            tile="auto" if case.tile is None else case.tile,
            tile_batch=case.tile_batch,
            output_type="pt",
        )
        if case.device == "cuda":
            torch.cuda.synchronize()

    first, wall, cpu = timed(call, repeats)
    peak = torch.cuda.max_memory_allocated() / 2**20 if case.device == "cuda" else resident_mib("VmHWM") - baseline
    return Measurement(loading, first, wall, cpu, peak)


def write_photos(folder: Path, count: int, side: int) -> list[Path]:
    """Write smooth random photos: their files are about as large as those of real ones."""
    import numpy as np
    from PIL import Image

    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")
    return sorted(folder.iterdir())


def upscale_in_a_loop(case: Case, photos: list[Path], output: Path) -> None:
    """Do what a script would: open the model; read, call, save one photo after the other."""
    import torch

    pipe = load(case)
    output.mkdir()
    for path in photos:
        done = pipe(path, num_inference_steps=case.steps, generator=torch.Generator().manual_seed(0))
        done.images[0].save(output / path.name, compress_level=1)  # as the command does


def upscale_by_command(case: Case, photos: list[Path], output: Path) -> None:
    """Run `resdiff upscale` in this process, whose imports are paid for."""
    from resdiff import cli

    dtype = {"float32": "fp32", "bfloat16": "bf16"}[case.dtype]
    options = ["--steps", str(case.steps), "--device", case.device, "--dtype", dtype]
    arguments = ["upscale", str(photos[0].parent), "--output", str(output), *options]
    code = cli.app(args=arguments, prog_name="resdiff", standalone_mode=False)
    if code:
        raise RuntimeError(f"resdiff upscale ended with {code}")


def measure_folder(case: Case, repeats: int) -> Measurement:
    """Measure a folder of photos, loading the model included."""
    import torch

    import resdiff.pipelines.resshift
    import resdiff.runs.batch
    import resdiff.runs.restorer  # noqa: F401  (imports are not what is measured)

    run = upscale_in_a_loop if case.way == "loop" else upscale_by_command
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder) / "photos", case.photos, case.side)
        outputs = (Path(folder) / f"results-{i}" for i in range(repeats + 1))
        baseline = resident_mib("VmRSS")
        reset_peak(torch.device("cpu"))
        first, wall, cpu = timed(lambda: run(case, photos, next(outputs)), repeats)
        results = [path for path in Path(folder).glob("results-*/*.png") if path.is_file()]
        if len(results) != case.photos * (repeats + 1):
            raise RuntimeError(f"{len(results)} results of {case.photos * (repeats + 1)} were written")
    peak = torch.cuda.max_memory_allocated() / 2**20 if case.device == "cuda" else resident_mib("VmHWM") - baseline
    return Measurement(0.0, first, wall, cpu, peak)


def measure(case: Case, repeats: int) -> Measurement:
    """Run one case in this process."""
    return (measure_folder if case.way in ("loop", "command") else measure_calls)(case, repeats)
