"""From what `resdiff upscale` was asked for to a function that restores photos. Imports nothing heavy at module level."""

import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from resdiff.checkpoints.known import BUNDLED
from resdiff.scalars import key_values
from resdiff.sizes import scaled_size

if TYPE_CHECKING:
    from resdiff.images import Photo
    from resdiff.pictures import Picture

# settings that the pipeline's call takes by the same name
ASKED = (
    "prompt",
    "negative_prompt",
    "guidance_scale",
    "fidelity",
    "mask",
    "num_inference_steps",
    "color_fix",
    "tile_batch",
)
Memory = Literal["cuda_peak_mib", "process_peak_mib_so_far"]


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
    negative_prompt: str | None = None
    guidance_scale: float | None = None
    fidelity: float | None = None
    seed: int = 0
    color_fix: str = "auto"
    tile: str | int = "auto"
    tile_batch: int = 1
    mask: Path | None = None
    options: tuple[str, ...] = ()  # of the model's family, "key=value" each
    compile: bool = False
    cuda_graphs: bool = False

    @property
    def one_generator(self) -> bool:
        """Whether draws come in the published order, from one generator through all tiles or windows of one image."""
        is_published = isinstance(self.tile, str) and self.tile.startswith("reference")
        return is_published or key_values(self.options).get("faithful") is True


@dataclass(frozen=True)
class Restored:
    """One result, and what it took."""

    picture: "Picture"
    tile: int | None = None  # LR pixels of a tile's side; None: not tiled
    peak_mib: float | None = None  # memory, see `Restorer.memory`


def load_pipeline(settings: Settings) -> Any:
    """Return the `SRPipeline` that `settings` name, on its device. ValueError or OSError, one line, when there is none."""
    from resdiff.devices import check_device, check_dtype, find_cpp_compiler
    from resdiff.runs.launcher import local_device, share_cores

    device = check_device(local_device(settings.device, os.environ))
    dtype = check_dtype(settings.dtype, device)
    share_cores(os.environ)
    from diffusers.utils.logging import disable_progress_bar

    from resdiff.pipelines import SRPipeline

    disable_progress_bar()  # of loading; a command shows one bar, that of its files
    pipe = SRPipeline.from_pretrained(settings.model, dtype=dtype, known_as=settings.known_as).to(device)
    pipe.set_progress_bar_config(disable=True)
    if settings.compile:
        if device.type == "cpu" and find_cpp_compiler() is None:
            raise ValueError("compile needs a C++ compiler, which is not found; install g++, or leave it out")
        pipe.compile_networks()
    if settings.cuda_graphs:
        pipe.enable_cuda_graphs()
    return pipe


class Restorer:
    """Photos -> finished pictures through `pipe`, every photo with a generator of the same seed.

    A result therefore depends neither on the order of the files nor, to 8 bits, on the batch size. With tile="reference" one
    generator is drawn from in the published order: pass one photo at a time.

    Raises ValueError when the model cannot do what `settings` ask for.
    """

    def __init__(self, pipe: Any, settings: Settings):
        from resdiff.pipelines.call import Call, options_of

        self.pipe = pipe
        self.settings = settings
        self.scale: float = settings.scale or pipe.native_scale
        self.leaves_cores: bool = pipe.device.type != "cpu"  # for reading and writing beside it
        on_cuda = pipe.device.type == "cuda"
        self.memory: Memory = "cuda_peak_mib" if on_cuda else "process_peak_mib_so_far"
        self.asked = {name: getattr(settings, name) for name in ASKED} | {"scale": self.scale, "output_type": "picture"}
        self.options = key_values(settings.options)
        try:
            options = options_of(type(pipe).__name__, pipe.options_type, self.options)
        except TypeError as error:  # a wrong name is the user's here, not the programmer's
            raise ValueError(str(error)) from error
        call = pipe.check_inputs(Call(**self.asked, tile=settings.tile, options=options))
        self.steps: int = call.num_inference_steps
        tiling = pipe.as_tiling(settings.tile, settings.tile_batch)
        # chosen once for all files: by the memory that is free now, which would come and go
        is_chosen = settings.tile == "auto" and tiling is not None
        self.tile: str | int = tiling.size if is_chosen else settings.tile
        self.tiles_are_exact: bool = is_chosen and tiling.halo > 0

    def size(self, photo: "Photo") -> tuple[int, int]:
        """Return the (height, width) of the result for `photo`."""
        return scaled_size(photo.pixels.shape[-2], photo.pixels.shape[-1], self.scale)

    def __call__(self, photos: list["Photo"]) -> list[Restored]:
        """Restore photos of one size; same length and order."""
        import torch

        settings = self.settings
        generators = [torch.Generator().manual_seed(settings.seed) for _ in photos]
        if self.memory == "cuda_peak_mib":
            torch.cuda.reset_peak_memory_stats(self.pipe.device)
        done = self.pipe(
            photos,
            **self.asked,
            **self.options,
            tile=self.tile,
            generator=generators[0] if settings.one_generator else generators,
        )
        peak = self._peak_mib()
        return [Restored(image, tile, peak) for image, tile in zip(done.images, done.tile_sizes, strict=True)]

    def record(self) -> dict[str, Any]:
        """Return what decides the pixels, by the name of its option, with the defaults filled in.

        A mask and the weights stand for themselves by a hash: files may be moved or copied to another machine.
        """
        settings, pipe = self.settings, self.pipe
        fix = pipe.default_color_fix if settings.color_fix == "auto" else settings.color_fix
        return {
            "model": settings.model or BUNDLED,
            "scale": float(self.scale),
            "steps": self.steps,
            "prompt": settings.prompt,
            "negative-prompt": settings.negative_prompt,
            "guidance-scale": self._guidance_scale(),
            "fidelity": None if settings.fidelity is None else float(settings.fidelity),
            "seed": settings.seed,
            "color-fix": fix,
            "tile": "auto" if self.tiles_are_exact else self.tile,
            "device": pipe.device.type,
            "dtype": str(pipe.dtype).removeprefix("torch."),
            "compile": settings.compile,  # other kernels round otherwise
            "mask": None if settings.mask is None else hashlib.sha256(settings.mask.read_bytes()).hexdigest()[:16],
            "weights": weights_hash(pipe),
            **({"option": self.options} if self.options else {}),
        }

    def _guidance_scale(self) -> float | None:
        """Return the scale that counts; None where nothing is said, as in records from before there were words."""
        settings = self.settings
        if not (settings.prompt or settings.negative_prompt) or not self.pipe.takes_prompt:
            return None
        if settings.guidance_scale is not None:
            return float(settings.guidance_scale)
        return float(self.pipe.default_guidance_scale(bool(settings.negative_prompt)))

    def _peak_mib(self) -> float:
        if self.memory == "cuda_peak_mib":
            import torch

            return torch.cuda.max_memory_allocated(self.pipe.device) / 2**20
        return process_peak_mib()


def weights_hash(pipe: Any) -> str:
    """Return 16 hex digits that stand for the configuration and weights of `pipe`."""
    from resdiff.fingerprint import add_module, settings_of

    digest = hashlib.sha256(json.dumps(settings_of(pipe), sort_keys=True, default=str).encode())
    for part in sorted(pipe.components):
        add_module(digest, part, pipe.components[part])
    return digest.hexdigest()[:16]


def process_peak_mib() -> float:
    """Return the most memory that this process has held so far, in MiB."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10  # bytes there, KiB elsewhere
