"""`SRPipeline`: the numbered way of one image, shared by every family.

A family is a subclass with one hook, `restore()`. Reading, seeds, padding, tiling, cropping, resizing, colour and
output types happen here, by calling pure functions; nothing here names a family.
"""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from torch import Tensor

from resdiff.color import ColorFix
from resdiff.cuda_graphs import disable_cuda_graphs, enable_cuda_graphs, forget_recordings
from resdiff.memory import give_back
from resdiff.noise import Noise, SeededNoise, SequentialNoise, StackedNoise, seeds_from
from resdiff.pipelines.callbacks import StepShower
from resdiff.pipelines.finishing import ImageOutput, collected, finished, known_pixels_kept
from resdiff.pipelines.inputs import Item, check_latents, read_photos_and_masks, same_size_batches, sequential_generator
from resdiff.pipelines.precision import Rescue
from resdiff.pipelines.tiles import Halving, Restore, restored_bands, side_that_fits, turned
from resdiff.resize import pad_to_multiple
from resdiff.sizes import LARGEST_SCALE, scaled_size
from resdiff.tiling import Box, Chop, Smooth, parse_chop

logger = logging.getLogger(__name__)

OutputType: TypeAlias = ImageOutput | Literal["latent"]
ColorChoice: TypeAlias = Literal["auto"] | ColorFix
Tile: TypeAlias = str | int | Chop | Smooth
BATCH_PIXELS = 512 * 512  # LR pixels that run through the network together
Callback = Callable[["SRPipeline", int, int, dict[str, Tensor]], dict[str, Tensor]]
OnStep = Callable[[int, Tensor, Tensor, Tensor], Tensor]
NoiseOf = Callable[[list[Box]], Noise]


@dataclass
class SRPipelineOutput(BaseOutput):
    """images: as `output_type` says; tile_sizes: per result the side of its tiles in LR pixels, None if not tiled."""

    images: Any
    tile_sizes: list[int | None]


class SRPipeline(DiffusionPipeline):
    """Image super-resolution behind one call; `SRPipeline.from_pretrained()(lr).images[0]`.

    Subclasses set the class attributes and implement `restore`.
    """

    native_scale: int = 4
    padding_multiple: int = 1  # of the low-resolution sides
    takes_prompt: ClassVar[bool] = False
    takes_mask: bool = False
    default_color_fix: ClassVar[ColorFix] = "none"
    max_steps: int | None = None  # None: any number
    _interrupt = False
    _num_timesteps = 0
    _fitting_tiles: dict[tuple[int, int], int]  # largest side for which memory sufficed, by (side asked for, batch)
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "pred_original_sample"]

    def __init__(self) -> None:
        super().__init__()
        self._fitting_tiles = {}

    @classmethod
    def from_pretrained(cls, model: str | Path | None = None, **kwargs: Any) -> Self:
        """Open the bundled model (None), a known name, a saved folder or a published file.

        Args:
            model: None or "resdiff-small", "bicubic", a name of `resdiff models` (its files are downloaded into the
                cache unless they lie there), a folder written by `save_pretrained`, or a published checkpoint file.
            dtype: of the networks, float32 by default.
            known_as, vae_file: for published files, see `resdiff.checkpoints`; vae_file also beside a known name.
            progress: whether a download shows a bar.

        Raises ValueError in one line for an unknown name, a file that cannot be used or cannot be had.
        """
        if cls is SRPipeline:
            from resdiff.pipelines.opening import open_pipeline

            return open_pipeline(model, **kwargs)
        kwargs.setdefault("dtype", torch.float32)
        return super().from_pretrained(str(model), **kwargs)

    def restore(
        self, lq: Tensor, noise: Noise, *, mask: Tensor | None, num_inference_steps: int, on_step: OnStep
    ) -> Tensor:
        """Run the family's chain on (B, 3, h, w) in [-1, 1], sides multiples of `padding_multiple`.

        mask: (B, 1, h, w), 1 where unknown. on_step(step, timestep, latents, predicted x_0) is called after each step
        and returns the latents to go on with. Returns the final latents; `decode` makes an image of them.
        """
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Turn the result of `restore` into images (B, 3, h * native_scale, w * native_scale), about [-1, 1]."""
        return latents

    def default_tiling(self, size: int | None = None) -> Smooth:
        """Return the largest tiles of tile="auto", or those of about `size` LR pixels."""
        size = size or 512
        return Smooth(size, overlap=size // 8)

    @property
    def bytes_per_pixel(self) -> int:
        """Memory that restoring takes at its peak, in bytes per LR pixel; from it tile="auto" is chosen."""
        return 16 * 12 * self.native_scale**2  # float32 images of the output's size that live at once

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the latents, and of the noise passed as `latents`, for an LR image of this size."""
        sides = (side + -side % self.padding_multiple for side in (height, width))
        return 3, *(side * self.native_scale for side in sides)  # type: ignore[return-value]

    @property
    def default_steps(self) -> int:
        """Steps taken when the caller does not say."""
        return 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the call that is running, or of the last one."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has set `_interrupt`: no further step is taken, and the best image so far is returned."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        lr: Any,
        prompt: str | list[str] | None = None,
        *,
        mask: Any = None,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_images_per_prompt: int = 1,
        latents: Tensor | None = None,
        color_fix: ColorChoice = "auto",
        tile: Tile = "auto",
        tile_batch: int = 1,
        output_type: OutputType = "pil",
        callback_on_step_end: Callback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents", "pred_original_sample"),
        return_dict: bool = True,
    ) -> SRPipelineOutput | tuple[Any]:
        """Enlarge one image or several.

        Args:
            lr: path, PIL image, uint8, uint16 or float array (HWC, NHWC), tensor (CHW, NCHW; floats in [0, 1]), or a
                list of these, of any sizes from 1x1.
            prompt: for families that take text; the others warn once.
            mask: for inpainting models: grey image of lr's size, white where the content is unknown.
            scale: output over input size; None is the model's own. Sides become floor(side * scale + 0.5).
            num_inference_steps: None is the model's own.
            generator: one draws a 64-bit seed per image in order, a list gives one each.
            num_images_per_prompt: results per image, consecutive.
            latents: (B, *latent_shape(h, w)) standard normal noise that starts the chain.
            color_fix: "auto" (as the family was published), "none", "adain", "wavelet" or "luma".
            tile: "auto" (as large as the free memory and the model allow), "off", a size in LR pixels,
                "reference[:size[:stride]]" or a `Chop` (published tiles and order of random draws, which then come
                from `generator` itself), or a `Smooth`. Where memory runs out, tiles are halved and work goes on,
                except with "off" and published tiles.
            tile_batch: tiles that run through the network together.
            output_type: "pil", 8 bits; "picture", a `resdiff.pictures.Picture` with the 16 bits of the input where it
                has them; "np" NHWC and "pt" NCHW, floats in [0, 1] without alpha (lists where sizes differ); "latent".
            callback_on_step_end: called as (pipe, step, timestep, tensors) -> dict after each step, of each tile; may
                set `pipe._interrupt`.
            callback_on_step_end_tensor_inputs: which of "latents" and "pred_original_sample" it is shown.

        Returns `SRPipelineOutput`, or a tuple of the images when not return_dict. Raises ValueError for bad input,
        RuntimeError where memory does not suffice or a result is not finite in float32, OSError where a large result
        has no room in the temporary folder.
        """
        # 1. Check inputs
        steps = self.default_steps if num_inference_steps is None else num_inference_steps
        scale = self.native_scale if scale is None else scale
        self.check_inputs(prompt, mask, scale, steps, num_images_per_prompt, color_fix, output_type, tile_batch)
        tiling = self.as_tiling(tile, tile_batch)
        on_step = StepShower(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        self._interrupt, self._num_timesteps = False, steps

        # 2. Read images and masks; every result has its own seed
        photos, masks = read_photos_and_masks(lr, mask)
        count = len(photos) * num_images_per_prompt
        if latents is not None and isinstance(tiling, Chop):
            raise ValueError('latents are not for tile="reference", which draws the noise of each tile; leave one out')
        if latents is not None:
            check_latents(latents, count, [self.latent_shape(*photo.pixels.shape[-2:]) for photo in photos])
        seeds = None if isinstance(tiling, Chop) else seeds_from(generator, count)
        items = [Item(i, photos[i // num_images_per_prompt], masks[i // num_images_per_prompt]) for i in range(count)]
        rescue = Rescue(self.networks)
        at_once = min(tiling.size**2 if isinstance(tiling, Smooth) else BATCH_PIXELS, BATCH_PIXELS)

        results: list[Any] = []
        tile_sizes: list[int | None] = []
        for batch in same_size_batches(items, at_once, self.padding_multiple):
            lq = stacked([item.photo.pixels for item in batch]).to(self._execution_device)
            hole = None if mask is None else torch.stack([item.mask for item in batch if item.mask is not None]).to(lq)
            lq = lq if hole is None else lq * (1 - hole) - hole  # what is unknown is black

            # 3. Restore, tile by tile where the canvas is large
            if seeds is None:
                noise_of: NoiseOf = partial(sequential_noise, sequential_generator(generator), lq.device)
            else:
                first = None if latents is None else latents[batch[0].index : batch[-1].index + 1]
                noise_of = partial(seeded_noise, [seeds[item.index] for item in batch], lq.device, first)
            canvas = lq if hole is None else torch.cat([lq, hole], dim=1)
            chain = partial(self.restore_padded, noise_of=noise_of, num_inference_steps=steps, on_step=on_step)
            if output_type == "latent":
                whole = [Box(0, 0, *canvas.shape[-2:])]
                results.extend(rescue(partial(chain, canvas, whole)))
                tile_sizes += [None] * len(batch)
                continue
            restore = partial(self.restore_tiles, chain=chain, rescue=rescue)
            turn = isinstance(tiling, Smooth) and lq.shape[-1] > max(lq.shape[-2], tiling.size)
            if turn:  # bands across the short side take less memory
                restore, canvas, lq, hole = turned(restore), canvas.mT, lq.mT, None if hole is None else hole.mT
            if isinstance(tiling, Smooth):  # padding first keeps the tiles on the network's grid
                canvas, _ = pad_to_multiple(canvas, self.padding_multiple)
                fitting = self._fitting_tiles.get((tiling.size, tile_batch), tiling.size)
                restore = Halving(restore, self.native_scale, self.default_tiling, fitting, self.give_back)
            bands = restored_bands(restore, canvas, tiling, self.native_scale, tile_batch)

            # 4. Asked size, colour, known pixels
            height, width = lq.shape[-2:]
            native = height * self.native_scale, width * self.native_scale
            size = scaled_size(height, width, scale)
            bands = cropped(bands, native)
            bands = finished(bands, native, size, lq, self.default_color_fix if color_fix == "auto" else color_fix)
            if hole is not None:
                bands = known_pixels_kept(bands, lq, hole)

            # 5. Alpha, bit depth, output type
            results += collected(bands, [item.photo for item in batch], size, output_type, turn)
            tile_sizes += [used_tile(tiling, restore, height, width)] * len(batch)
            if isinstance(restore, Halving) and isinstance(tiling, Smooth):  # what was learnt holds for the next images
                self._fitting_tiles[tiling.size, tile_batch] = restore.limit
        self.maybe_free_model_hooks()
        images = collate(results, output_type)
        return SRPipelineOutput(images=images, tile_sizes=tile_sizes) if return_dict else (images,)

    # --- steps of the call ---------------------------------------------------------------------------------------

    def check_inputs(
        self,
        prompt: str | list[str] | None,
        mask: Any,
        scale: float,
        steps: int,
        num_images_per_prompt: int,
        color_fix: str,
        output_type: str,
        tile_batch: int = 1,
    ) -> None:
        """Raise ValueError for what cannot be meant, in one line each; warn once about an unused prompt."""
        if not isinstance(scale, Real) or not 0 < scale <= LARGEST_SCALE:
            raise ValueError(
                f"scale={scale!r} must be a positive number up to {LARGEST_SCALE}, such as {self.native_scale}"
            )
        counts = {"num_images_per_prompt": num_images_per_prompt, "tile_batch": tile_batch}
        for name, count in {"num_inference_steps": steps, **counts}.items():
            if not isinstance(count, Integral):
                raise ValueError(f"{name}={count!r} must be a whole number")
        if steps < 1 or (self.max_steps is not None and steps > self.max_steps):
            raise ValueError(f"num_inference_steps={steps} must lie between 1 and {self.max_steps or 'any number'}")
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name}={count} must be at least 1")
        for name, value, choices in (
            ("color_fix", color_fix, ("auto", *get_args(ColorFix))),
            ("output_type", output_type, (*get_args(ImageOutput), "latent")),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(choices)}")
        if self.takes_mask and mask is None:
            raise ValueError("this is an inpainting model; pass mask=, a grey image that is white where lr is unknown")
        if mask is not None and not self.takes_mask:
            raise ValueError("mask is for inpainting models; this one takes none")
        if mask is not None and scale != 1:
            raise ValueError(f"scale={scale} with a mask: inpainting keeps the size, leave scale out")
        if self._execution_device.type == "cpu" and self.dtype == torch.float16:
            raise ValueError("float16 is not for CPUs; open the model with dtype=torch.float32, or move it to a GPU")
        if prompt and not self.takes_prompt and not getattr(self, "_warned_of_prompt", False):
            self._warned_of_prompt = True
            warnings.warn(f"{type(self).__name__} takes no text; the prompt is not used", stacklevel=4)

    def as_tiling(self, tile: Tile, tile_batch: int = 1) -> Chop | Smooth | None:
        """Return what `tile` means for this model on its device; None is untiled. Raises ValueError."""
        if tile == "off":
            return None
        if isinstance(tile, Smooth):
            if tile.size % self.padding_multiple or tile.step % self.padding_multiple:
                raise ValueError(
                    f"{tile}: size and size - overlap must be multiples of {self.padding_multiple} for this model"
                )
            return tile
        if tile == "auto":
            largest = self.default_tiling()
            fitting = side_that_fits(self._execution_device, self.bytes_per_pixel, tile_batch)
            return largest if fitting >= largest.size else self.default_tiling(max(1, fitting))
        if isinstance(tile, int) and not isinstance(tile, bool) and tile > 0:
            return self.default_tiling(tile)
        chop = parse_chop(tile) if isinstance(tile, str) else tile
        if not isinstance(chop, Chop):
            raise ValueError(
                f'tile={tile!r} is unknown; use "auto", "off", a size in pixels or "reference[:size[:stride]]"'
            )
        return chop.at_scale(self.native_scale)

    def restore_padded(
        self,
        tiles: Tensor,  # (T B, 3, h, w), or 4 channels with the mask; tile-major
        boxes: list[Box],  # the T places
        *,
        noise_of: NoiseOf,
        num_inference_steps: int,
        on_step: OnStep,
    ) -> Tensor:
        """Return the latents of tiles, padded to `padding_multiple`."""
        padded, _ = pad_to_multiple(tiles, self.padding_multiple)
        places = [replace(box, height=padded.shape[-2], width=padded.shape[-1]) for box in boxes]
        mask = padded[:, 3:] if tiles.shape[1] > 3 else None
        return self.restore(
            padded[:, :3], noise_of(places), mask=mask, num_inference_steps=num_inference_steps, on_step=on_step
        )

    def restore_tiles(
        self, tiles: Tensor, boxes: list[Box], *, chain: Callable[[Tensor, list[Box]], Tensor], rescue: Rescue
    ) -> Tensor:
        """Return images (T B, 3, h * native_scale, w * native_scale) clamped to [-1, 1]; `chain`: `restore_padded`.

        Raises RuntimeError when they are not finite, see `Rescue`.
        """
        height, width = (side * self.native_scale for side in tiles.shape[-2:])
        return rescue(lambda: self.decode(chain(tiles, boxes))[..., :height, :width]).clamp(-1, 1)

    @property
    def networks(self) -> list[torch.nn.Module]:
        """The components that have weights."""
        return [part for part in self.components.values() if isinstance(part, torch.nn.Module)]

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, *, dtype: torch.dtype | None = None, **changes: Any) -> Self:
        """As diffusers': another pipeline around the same components, other options or components given by name.

        Unlike diffusers', which casts the shared networks to float32, their dtypes stay unless `dtype` is given.
        """
        if cls is SRPipeline:
            return type(pipeline).from_pipe(pipeline, dtype=dtype, **changes)
        _, options = cls._get_signature_keys(cls)
        new = cls(**pipeline.components | {name: pipeline.config[name] for name in options} | changes)
        return new if dtype is None else new.to(dtype=dtype)

    def give_back(self) -> None:
        """Free what is held for speed alone: recorded CUDA graphs, and what torch's allocator keeps."""
        forget_recordings(self.networks)
        give_back()

    def enable_cuda_graphs(self, limit: int = 8) -> None:
        """Record and replay the networks' calls on CUDA devices, `limit` shapes each; see `resdiff.cuda_graphs`."""
        enable_cuda_graphs(self.networks, limit)

    def disable_cuda_graphs(self) -> None:
        """Call the networks directly again, and free what was recorded."""
        disable_cuda_graphs(self.networks)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As diffusers, but the files may be read by whom the umask says: safetensors makes them private."""
        super().save_pretrained(save_directory, *args, **kwargs)
        umask = os.umask(0)
        os.umask(umask)
        for file in Path(save_directory).rglob("*.safetensors"):
            file.chmod(0o666 & ~umask)


def stacked(images: Sequence[Tensor]) -> Tensor:
    """Stack images; a single one, which may be large, without a copy."""
    return images[0][None] if len(images) == 1 else torch.stack(list(images))


def seeded_noise(seeds: Sequence[int], device: torch.device, first: Tensor | None, boxes: list[Box]) -> Noise:
    """Return the noise of stacked tiles that depends on seeds and places only."""
    return StackedNoise([SeededNoise(seeds, device, first, box) for box in boxes])


def sequential_noise(generator: torch.Generator | None, device: torch.device, boxes: list[Box]) -> Noise:
    """Return the noise of stacked tiles in the published order of draws."""
    return SequentialNoise(generator, device)


def cropped(bands: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield the first rows and columns of a stream, `size` in all."""
    left = size[0]
    for band in bands:
        if left > 0:
            yield band[..., :left, : size[1]]
        left -= band.shape[-2]


def used_tile(tiling: Chop | Smooth | None, restore: Restore | Halving, height: int, width: int) -> int | None:
    """Return the side of the tiles that an image was cut into, None for the whole image."""
    side = max(height, width)
    size = side if tiling is None else tiling.size
    size = min(size, restore.limit) if isinstance(restore, Halving) else size
    return size if size < side else None


def collate(results: list[Any], output_type: OutputType) -> Any:
    """Stack results of one size for "np", "pt" and "latent"; a list otherwise."""
    if output_type in ("pil", "picture") or len({tuple(r.shape) for r in results}) > 1:
        return results
    if len(results) == 1:  # it may be large: no copy
        return results[0][None]
    return np.stack(results) if output_type == "np" else torch.stack(results)
