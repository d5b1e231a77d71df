"""`SRPipeline`: the numbered way of one image, shared by every family.

A family is a subclass with one hook, `restore()`. Reading, seeds, padding, tiling, cropping, resizing, colour and
output types happen here, by calling pure functions; nothing here names a family.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from torch import Tensor

from resdiff.color import ColorFix
from resdiff.color import color_fix as fix_color
from resdiff.images import Photo, read_photos, to_numpy, to_pil, to_tensor
from resdiff.noise import Noise, SeededNoise, SequentialNoise, seeds_from
from resdiff.resize import bicubic, pad_to_multiple
from resdiff.tiling import Box, Chop, Smooth, parse_chop, tiled

OutputType = Literal["pil", "np", "pt", "latent"]
ColorChoice = Literal["auto", ColorFix]
BATCH_PIXELS = 512 * 512  # LR pixels that run through the network together; results do not depend on it
Callback = Callable[["SRPipeline", int, int, dict[str, Tensor]], dict[str, Tensor]]
OnStep = Callable[[int, Tensor, Tensor, Tensor], Tensor]


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
    _callback_tensor_inputs: ClassVar[list[str]] = ["latents", "pred_original_sample"]

    @classmethod
    def from_pretrained(cls, model: str | Path | None = None, **kwargs: Any) -> Self:
        """Open the bundled model (None), a known name, a saved folder or a published file.

        Args:
            model: None or "resdiff-small", "bicubic", a name of `resdiff models` whose files lie in the cache, a
                folder written by `save_pretrained`, or a published checkpoint file.
            dtype: of the networks, float32 by default.
            known_as, vae_file: for published files, see `resdiff.checkpoints`.

        Raises ValueError in one line for an unknown name or a file that cannot be used.
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
        """Return the tiles of tile="auto", or those of `size` LR pixels."""
        size = size or 512
        return Smooth(size, overlap=size // 8)

    @property
    def default_steps(self) -> int:
        """Steps taken when the caller does not say."""
        return 1

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
        tile: str | int | Chop | Smooth = "auto",
        output_type: OutputType = "pil",
        callback_on_step_end: Callback | None = None,
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Enlarge one image or several.

        Args:
            lr: path, PIL image, uint8 or float array (HWC, NHWC), tensor (CHW, NCHW; floats in [0, 1]), or a list.
            prompt: for families that take text; the others warn once.
            mask: for inpainting models: grey image of lr's size, white where the content is unknown.
            scale: output over input size; None is the model's own. Sides become floor(side * scale + 0.5).
            num_inference_steps: None is the model's own.
            generator: one draws a 64-bit seed per image in order, a list gives one each.
            num_images_per_prompt: results per image, consecutive.
            latents: (B, C, H, W) standard normal noise that starts the chain, of the padded canvas' latent size.
            color_fix: "auto" (as the family was published), "none", "adain", "wavelet" or "luma".
            tile: "auto", "off", a size in LR pixels, "reference[:size[:stride]]" or a `Chop` (published tiles and order
                of random draws, which then come from `generator` itself), or a `Smooth`.
            output_type: "pil"; "np" NHWC and "pt" NCHW, floats in [0, 1] (lists where sizes differ); "latent".
            callback_on_step_end: called as (pipe, step, timestep, {"latents", "pred_original_sample"}) -> dict.

        Returns an object with `.images`, or a tuple when not return_dict. Raises ValueError for bad input.
        """
        # 1. Check inputs
        steps = self.default_steps if num_inference_steps is None else num_inference_steps
        scale = self.native_scale if scale is None else scale
        tiling = self.as_tiling(tile)
        self.check_inputs(prompt, mask, scale, steps, num_images_per_prompt, color_fix, output_type)

        # 2. Read images and masks; every result has its own seed
        photos, masks = self.read_inputs(lr, mask)
        count = len(photos) * num_images_per_prompt
        if latents is not None:
            check_latents(latents, count)
        seeds = None if isinstance(tiling, Chop) else seeds_from(generator, count)
        items = [Item(i, photos[i // num_images_per_prompt], masks[i // num_images_per_prompt]) for i in range(count)]

        results: list[Any] = []
        for batch in same_size_batches(items):
            lq = torch.stack([item.photo.pixels for item in batch]).to(self._execution_device)
            hole = None if mask is None else torch.stack([item.mask for item in batch if item.mask is not None]).to(lq)
            lq = lq if hole is None else lq * (1 - hole) - hole  # what is unknown is black

            # 3. Restore, tile by tile where the canvas is large
            noise_of: Callable[..., Noise]
            if seeds is None:
                noise_of = partial(SequentialNoise, sequential_generator(generator), lq.device)
            else:
                first = None if latents is None else latents[batch[0].index : batch[-1].index + 1]
                noise_of = partial(SeededNoise, [seeds[item.index] for item in batch], lq.device, first)
            restore = partial(
                self.restore, num_inference_steps=steps, on_step=partial(show, self, callback_on_step_end)
            )
            canvas = self.restore_canvas(restore, lq, hole, noise_of, tiling, decode=output_type != "latent")
            if output_type == "latent":
                results.extend(canvas)
                continue

            # 4. Known pixels, asked size, colour
            if hole is not None:
                canvas = canvas * hole + lq * (1 - hole)
            canvas = self.finish(canvas, lq, scale, self.default_color_fix if color_fix == "auto" else color_fix)

            # 5. Alpha, bit depth, output type
            results.extend(output(image, item.photo, output_type) for image, item in zip(canvas, batch, strict=True))
        self.maybe_free_model_hooks()
        images = collate(results, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

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
    ) -> None:
        """Raise ValueError for what cannot be meant, in one line each; warn once about an unused prompt."""
        if not isinstance(scale, Real) or not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale={scale!r} must be a positive number, such as {self.native_scale}")
        for name, count in (("num_inference_steps", steps), ("num_images_per_prompt", num_images_per_prompt)):
            if not isinstance(count, Integral):
                raise ValueError(f"{name}={count!r} must be a whole number")
        if steps < 1 or (self.max_steps is not None and steps > self.max_steps):
            raise ValueError(f"num_inference_steps={steps} must lie between 1 and {self.max_steps or 'any number'}")
        if num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt={num_images_per_prompt} must be at least 1")
        for name, value, choices in (
            ("color_fix", color_fix, get_args(ColorChoice)),
            ("output_type", output_type, get_args(OutputType)),
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

    def as_tiling(self, tile: str | int | Chop | Smooth) -> Chop | Smooth | None:
        """Return what `tile` means for this model; None is untiled."""
        if tile == "off":
            return None
        if isinstance(tile, Smooth):
            return tile
        if tile == "auto":
            return self.default_tiling()
        if isinstance(tile, int) and not isinstance(tile, bool) and tile > 0:
            return self.default_tiling(tile)
        chop = parse_chop(tile) if isinstance(tile, str) else tile
        if not isinstance(chop, Chop):
            raise ValueError(
                f'tile={tile!r} is unknown; use "auto", "off", a size in pixels or "reference[:size[:stride]]"'
            )
        return chop.at_scale(self.native_scale)

    def read_inputs(self, lr: Any, mask: Any) -> tuple[list[Photo], list[Tensor | None]]:
        """Return photos and, for each, its mask (1, h, w) in [0, 1] or None."""
        photos = read_photos(lr)
        if mask is None:
            return photos, [None] * len(photos)
        masks = [photo.pixels.mean(dim=0, keepdim=True) / 2 + 0.5 for photo in read_photos(mask, "mask")]
        if len(masks) != len(photos):
            raise ValueError(f"{len(masks)} masks for {len(photos)} images; pass one each")
        for m, photo in zip(masks, photos, strict=True):
            if m.shape[1:] != photo.pixels.shape[1:]:
                raise ValueError(
                    f"mask is {tuple(m.shape[1:])}, its image {tuple(photo.pixels.shape[1:])}; sizes must agree"
                )
        return photos, list(masks)

    def restore_canvas(
        self,
        restore: Callable[..., Tensor],  # `self.restore` with its settings
        lq: Tensor,  # (B, 3, h, w)
        mask: Tensor | None,
        noise_of: Callable[..., Noise],
        tiling: Chop | Smooth | None,
        decode: bool,
    ) -> Tensor:
        """Return (B, 3, h * native_scale, w * native_scale) clamped to [-1, 1], or the latents when not `decode`."""
        height, width = lq.shape[-2:]
        whole = lq if mask is None else torch.cat([lq, mask], dim=1)

        def run(x: Tensor, boxes: list[Box]) -> Tensor:
            padded, (h, w) = pad_to_multiple(x, self.padding_multiple)
            box = replace(boxes[0], height=padded.shape[-2], width=padded.shape[-1])
            latents = restore(padded[:, :3], noise_of(box=box), mask=padded[:, 3:] if mask is not None else None)
            if not decode:
                return latents
            image = self.decode(latents)[..., : h * self.native_scale, : w * self.native_scale]
            if not torch.isfinite(image).all():
                remedy = "check the weights" if self.dtype == torch.float32 else "use dtype=torch.float32"
                raise RuntimeError(f"the result is not finite in {self.dtype}; {remedy}")
            return image.clamp(-1, 1)

        if tiling is None or not decode or max(height, width) <= tiling.size:
            return run(whole, [Box(0, 0, height, width)])
        if isinstance(tiling, Smooth):  # padding first keeps the tiles on the network's grid
            whole, _ = pad_to_multiple(whole, self.padding_multiple)
        joined = tiled(run, whole, tiling, self.native_scale)
        return joined[..., : height * self.native_scale, : width * self.native_scale]

    def finish(self, canvas: Tensor, lq: Tensor, scale: float, color_fix: ColorFix) -> Tensor:
        """Bring the canvas to the asked size and correct its colours against the upsampled input."""
        size = scaled_size(lq.shape[-2], lq.shape[-1], scale)
        if size != tuple(canvas.shape[-2:]):
            canvas = bicubic(canvas, size, "pil")
        if color_fix != "none":
            canvas = fix_color(canvas, bicubic(lq, size, "pil"), color_fix)
        return canvas.clamp(-1, 1)


def check_latents(latents: Tensor, count: int) -> None:
    """Raise ValueError unless `latents` are finite noises, one for each of `count` results."""
    if not isinstance(latents, Tensor) or latents.ndim != 4:
        found = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"latents is {found}; pass a tensor (B, C, H, W)")
    if len(latents) != count:
        raise ValueError(f"latents holds {len(latents)} noises for {count} results; pass one each")
    if not torch.isfinite(latents).all():
        raise ValueError("latents hold NaN or Inf; pass standard normal noise")


def show(
    pipe: SRPipeline, callback: Callback | None, step: int, timestep: Tensor, latents: Tensor, x0: Tensor
) -> Tensor:
    """Show one finished step to the caller's callback; return the latents to go on with."""
    if callback is None:
        return latents
    shown = {"latents": latents, "pred_original_sample": x0}
    return (callback(pipe, step, int(timestep), shown) or shown).get("latents", latents)


@dataclass(frozen=True)
class Item:
    """One result to make: its number, photo and mask (1, h, w)."""

    index: int
    photo: Photo
    mask: Tensor | None


def same_size_batches(items: list[Item]) -> Iterator[list[Item]]:
    """Yield runs of consecutive items of one size that fit into a batch together."""
    for (height, width), group in groupby(items, key=lambda item: item.photo.pixels.shape[-2:]):
        run, limit = list(group), max(1, BATCH_PIXELS // (height * width))
        yield from (run[start : start + limit] for start in range(0, len(run), limit))


def sequential_generator(generator: torch.Generator | Sequence[torch.Generator] | None) -> torch.Generator | None:
    """Return the one generator of the published order of draws; raise ValueError for several."""
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    raise ValueError('tile="reference" draws from one generator in the published order; pass one, not a list')


def scaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Return the output size: floor(side * scale + 0.5), at least 1."""
    return max(1, math.floor(height * scale + 0.5)), max(1, math.floor(width * scale + 0.5))


def output(image: Tensor, photo: Photo, output_type: OutputType) -> Any:
    """Turn one (3, H, W) in [-1, 1] into what was asked for; alpha is enlarged by bicubic and put back."""
    if output_type == "pt":
        return to_tensor(image)
    if output_type == "np":
        return to_numpy(image)
    height, width = image.shape[-2:]
    alpha = None if photo.alpha is None else bicubic(photo.alpha[None], (height, width), "pil")[0].clamp(0, 1)
    return to_pil(image, photo, alpha)


def collate(results: list[Any], output_type: OutputType) -> Any:
    """Stack results of one size for "np", "pt" and "latent"; a list otherwise."""
    if output_type == "pil" or len({tuple(r.shape) for r in results}) > 1:
        return results
    return np.stack(results) if output_type == "np" else torch.stack(results)
