"""`SRPipeline`: the numbered way of one image, shared by every family.

A family is a subclass with one hook, `restore()`. Reading, seeds, padding, tiling, cropping, resizing, colour and
output types happen here, by calling pure functions; nothing here names a family.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import torch
from diffusers import DiffusionPipeline
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from resdiff.color import ColorFix
from resdiff.images import Photo
from resdiff.memory import align
from resdiff.noise import Noise, seeds_from
from resdiff.pipelines.call import Call, ColorChoice, Fidelity, NoOptions, OutputType, Prompt, Tile, options_of
from resdiff.pipelines.callbacks import StepShower
from resdiff.pipelines.components import ComponentsMixin
from resdiff.pipelines.finishing import (
    ImageOutput,
    SRPipelineOutput,
    Stream,
    collate,
    collected,
    cropped,
    finished,
    known_pixels_kept,
)
from resdiff.pipelines.guidance import UNGUIDED, Guidance, Steering, check_guidance
from resdiff.pipelines.inputs import (
    Item,
    check_choice,
    check_counts,
    check_fraction,
    check_latents,
    check_mask,
    check_scale,
    check_steps,
    enlarged,
    read_photos_and_masks,
    same_size_batches,
    seeded_noise,
    sequential_noise,
    stacked,
)
from resdiff.pipelines.precision import Rescue
from resdiff.pipelines.tiles import Halving, Restore, restored_bands, side_that_fits, turned, used_tile
from resdiff.resize import pad_to_multiple
from resdiff.sizes import scaled_size
from resdiff.tiling import Box, Chop, Smooth, parse_chop

BATCH_PIXELS = 512 * 512  # LR pixels that run through the network together
Callback = Callable[["SRPipeline", int, int, dict[str, Tensor]], dict[str, Tensor]]
OnStep = Callable[[int, Tensor, Tensor, Tensor], Tensor]
NoiseOf = Callable[[list[Box]], Noise]


class SRPipeline(ComponentsMixin, DiffusionPipeline):
    """Image super-resolution behind one call; `SRPipeline.from_pretrained()(lr).images[0]`.

    Subclasses set the class attributes and implement `restore`.
    """

    native_scale: int = 4
    padding_multiple: int = 1  # of the low-resolution sides
    smallest_side: int = 1  # px; smaller images are enlarged to it first
    batch_pixels: int = BATCH_PIXELS
    takes_mask: bool = False
    default_color_fix: ClassVar[ColorFix] = "none"
    max_steps: int | None = None  # None: any number
    options_type: ClassVar[type] = NoOptions  # frozen dataclass of what only this family's call takes
    _interrupt = False
    _num_timesteps = 0
    _warned_of_prompt = False
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
                cache unless they lie there, or may not be), a folder written by `save_pretrained`, a published
                checkpoint file, or SeeSR's or AddSR's folder as published.
            dtype: of the networks, float32 by default.
            known_as, vae_file: for published files, see `resdiff.checkpoints`; vae_file also beside a known name.
            base: of SeeSR, AddSR and StableSR, published or by name: Stable Diffusion (a folder, a single file or an id
                of the hub), where it does not lie beside the model or in its file.
            ram_file, dape_file: of SeeSR and AddSR: the tagger's weights, where they do not lie beside the model.
            cfw_file, prediction_type: of StableSR: the weights behind `fidelity`, and what the network predicts,
                "epsilon" or "v_prediction", where that is not what is known of the model.
            progress: whether a download shows a bar.

        Raises ValueError in one line for an unknown name, a file that cannot be used or cannot be had.
        """
        if cls is SRPipeline:
            from resdiff.pipelines.opening import open_pipeline

            return open_pipeline(model, **kwargs)
        kwargs.setdefault("dtype", torch.float32)
        pipe = super().from_pretrained(str(model), **kwargs)
        for network in pipe.networks:
            align(network)
        return pipe

    def restore(
        self,
        lq: Tensor,
        noise: Noise,
        *,
        mask: Tensor | None,
        num_inference_steps: int,
        on_step: OnStep,
        guidance: Any = UNGUIDED,
    ) -> Tensor:
        """Run the family's chain on (B, 3, h, w) in [-1, 1], sides multiples of `padding_multiple`.

        mask: (B, 1, h, w), 1 where unknown. on_step(step, timestep, latents, predicted x_0) is called after each step
        and returns the latents to go on with. guidance: what `steer` returned, for the B images. Returns the final
        latents; `decode` makes an image of them.
        """
        raise NotImplementedError

    def encode_prompt(self, text: str) -> Tensor:
        """Embed one text that is not empty, (1, ...); exactly zero where no word of it is known."""
        raise NotImplementedError

    def decode(self, latents: Tensor, guidance: Any = UNGUIDED, lq: Tensor | None = None) -> Tensor:
        """Turn what `restore` made of `lq`, under the same `guidance`, into images about [-1, 1].

        lq: as `restore` was given it, (B, 3, h, w). Returns (B, 3, h * native_scale, w * native_scale).
        """
        return latents

    def in_order(self, call: Call, tiling: Chop | Smooth | None) -> bool:
        """Whether a call's random draws come from `generator` itself, in order of use, as published."""
        return isinstance(tiling, Chop)

    def default_tiling(self, size: int | None = None) -> Smooth:
        """Return the largest tiles of tile="auto", or those of about `size` LR pixels."""
        return Smooth(size or 512, overlap=(size or 512) // 8)

    @property
    def bytes_per_pixel(self) -> int:
        """Memory that restoring takes at its peak, in bytes per LR pixel; from it tile="auto" is chosen."""
        return 16 * 12 * self.native_scale**2  # float32 images of the output's size that live at once

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the latents, and of the noise passed as `latents`, for an LR image of this size."""
        sides = (side + -side % self.padding_multiple for side in (height, width))
        return 3, *(side * self.native_scale for side in sides)  # type: ignore[return-value]

    @property
    def takes_prompt(self) -> bool:
        """Whether text steers the result, by `encode_prompt`."""
        return False

    @property
    def takes_fidelity(self) -> bool:
        """Whether there is a dial between the result that is right on average and the one with most detail."""
        return False

    @property
    def default_steps(self) -> int:
        """Steps taken when the caller does not say."""
        return 1

    def steps_taken(self, num_inference_steps: int | None, fidelity: Fidelity) -> int:
        """Return the steps of a call. Raises ValueError where the two do not go together."""
        return self.default_steps if num_inference_steps is None else num_inference_steps

    def default_guidance_scale(self, negative: bool) -> float:
        """Return the scale when the caller does not say; with a `negative` prompt one at which it counts."""
        return 2.0 if negative else 1.0

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
        prompt: Prompt = None,
        *,
        negative_prompt: Prompt = None,
        guidance_scale: float | None = None,
        fidelity: Fidelity = None,
        mask: Any = None,
        scale: float | None = None,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_images_per_prompt: int = 1,
        latents: Tensor | None = None,
        color_fix: ColorChoice = "auto",
        color_fix_strength: float = 1.0,
        tile: Tile = "auto",
        tile_batch: int = 1,
        output_type: OutputType = "pil",
        callback_on_step_end: Callback | PipelineCallback | MultiPipelineCallbacks | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents", "pred_original_sample"),
        return_dict: bool = True,
        **options: Any,
    ) -> SRPipelineOutput | tuple[Any]:
        """Enlarge one image or several.

        Args:
            lr: path, PIL image, uint8, uint16 or float array (HWC, NHWC), tensor (CHW, NCHW; floats in [0, 1]), or a
                list of these, of any sizes from 1x1.
            prompt: one text for all images, a list of one each, or a function that says one of a PIL image, for models
                that take text; the others warn once. A prompt none of whose words the model knows is as none, and
                warns once.
            negative_prompt: what the result shall not be, as `prompt`.
            guidance_scale: weight of the prompt against the negative one, or against none; 1 is the prompt alone, more
                exaggerates. None is the model's own: 1, and 2 with a negative prompt. Other than 1 takes twice as long.
            fidelity: 1 is the result nearest to the input, 0 the one with most detail of the model's own. None is the
                model's own. For models that have such a dial: the bundled one blends what its first step and its last
                one predict, StableSR fuses features of the input, where it may be a tensor or list, one per image.
            mask: for inpainting models: grey image of lr's size, white where the content is unknown.
            scale: output over input size; None is the model's own. Sides become floor(side * scale + 0.5).
            num_inference_steps: None is the model's own.
            generator: one draws a 64-bit seed per image in order, a list gives one each.
            num_images_per_prompt: results per image, consecutive.
            latents: (B, *latent_shape(h, w)) standard normal noise that starts the chain.
            color_fix: "auto" (as the family was published), "none", "adain", "wavelet" or "luma".
            color_fix_strength: 0 leaves the colours, 1 corrects them fully.
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
            options: of the family, see its `options_type`.

        Returns `SRPipelineOutput`, or a tuple of the images when not return_dict. Raises ValueError for bad input,
        TypeError for an option that the family does not have, RuntimeError where memory does not suffice or a result is
        not finite in float32, OSError where a large result has no room in the temporary folder.
        """
        # 1. Check inputs
        call = self.check_inputs(
            Call(
                prompt=prompt,
                negative_prompt=negative_prompt,
                guidance_scale=guidance_scale,
                fidelity=fidelity,
                mask=mask,
                scale=scale,
                num_inference_steps=num_inference_steps,
                num_images_per_prompt=num_images_per_prompt,
                color_fix=color_fix,
                color_fix_strength=color_fix_strength,
                tile=tile,
                tile_batch=tile_batch,
                output_type=output_type,
                options=options_of(type(self).__name__, self.options_type, options),
            )
        )
        scale, steps = call.scale, call.num_inference_steps
        tiling = self.as_tiling(tile, tile_batch)
        in_order = self.in_order(call, tiling)
        on_step = StepShower(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        self._interrupt, self._num_timesteps = False, steps

        # 2. Read images, masks and words; every result has its own seed
        photos, masks = read_photos_and_masks(lr, mask)
        count = len(photos) * num_images_per_prompt
        if latents is not None and in_order:
            raise ValueError(
                'latents are not for tile="reference" or faithful=True, which draw all noise in the published order; '
                "leave one out"
            )
        if latents is not None:
            check_latents(latents, count, [self.latent_shape(*photo.pixels.shape[-2:]) for photo in photos])
        seeds = None if in_order else seeds_from(generator, count)
        items = [Item(i, photos[i // num_images_per_prompt], masks[i // num_images_per_prompt]) for i in range(count)]
        guidance, prompts = self.steer(call, photos)
        rescue = Rescue(self.networks)
        at_once = min(tiling.size**2 if isinstance(tiling, Smooth) else self.batch_pixels, self.batch_pixels)

        results: list[Any] = []
        tile_sizes: list[int | None] = []
        for batch in same_size_batches(items, at_once, self.padding_multiple, self.smallest_side, guidance.kind):
            height, width = batch[0].photo.pixels.shape[-2:]
            asked = scaled_size(height, width, scale)
            lq = stacked([item.photo.pixels for item in batch]).to(self._execution_device)
            lq = lq if in_order else enlarged(lq, self.smallest_side)  # published sizes are the family's own
            hole = None if mask is None else torch.stack([item.mask for item in batch if item.mask is not None]).to(lq)
            lq = lq if hole is None else lq * (1 - hole) - hole  # what is unknown is black

            # 3. Restore, tile by tile where the canvas is large
            if seeds is None:
                noise_of: NoiseOf = partial(sequential_noise, generator, lq.device)
            else:
                first = None if latents is None else latents[batch[0].index : batch[-1].index + 1]
                noise_of = partial(seeded_noise, [seeds[item.index] for item in batch], lq.device, first)
            steering = guidance.of_images([item.index for item in batch])
            means = {"noise_of": noise_of, "on_step": on_step, "guidance": steering}
            if output_type == "latent":
                canvas = lq if hole is None else torch.cat([lq, hole], dim=1)
                whole = [Box(0, 0, *canvas.shape[-2:])]
                results.extend(rescue(partial(self.restore_padded, canvas, whole, num_inference_steps=steps, **means)))
                tile_sizes += [None] * len(batch)
                continue
            stream = self.restored(lq, hole, asked, call, tiling, generator=generator, rescue=rescue, **means)

            # 4. Alpha, bit depth, output type
            photos_of = [item.photo for item in batch]
            results += collected(stream.bands, photos_of, stream.size, output_type, stream.is_turned)
            tile_sizes += [stream.tile_side()] * len(batch)
        self.maybe_free_model_hooks()
        images = collate(results, output_type)
        return SRPipelineOutput(images=images, tile_sizes=tile_sizes, prompts=prompts) if return_dict else (images,)

    # --- steps of the call ---------------------------------------------------------------------------------------

    def check_inputs(self, call: Call) -> Call:
        """Return `call` with the model's own scale, steps and options where there are none.

        Raises ValueError for what cannot be meant, in one line each; warns once about an unused prompt.
        """
        scale = self.native_scale if call.scale is None else call.scale
        check_scale(scale, self.native_scale)
        if call.num_inference_steps is not None:
            check_steps(call.num_inference_steps, self.max_steps)
        check_counts({"num_images_per_prompt": call.num_images_per_prompt, "tile_batch": call.tile_batch})
        check_choice("color_fix", call.color_fix, ("auto", *get_args(ColorFix)))
        check_fraction("color_fix_strength", call.color_fix_strength, "leave", "correct")
        check_choice("output_type", call.output_type, (*get_args(ImageOutput), "latent"))
        check_mask(call.mask, self.takes_mask, scale)
        if self._execution_device.type == "cpu" and self.dtype == torch.float16:
            raise ValueError("float16 is not for CPUs; open the model with dtype=torch.float32, or move it to a GPU")
        check_guidance(call.prompt, call.negative_prompt, call.guidance_scale, call.fidelity)
        if call.fidelity is not None and not self.takes_fidelity:
            raise ValueError(
                f"fidelity={call.fidelity!r} is for models with such a dial; this one has none, leave it out"
            )
        steps = self.steps_taken(call.num_inference_steps, call.fidelity)
        if (call.prompt or call.negative_prompt) and not self.takes_prompt:
            self._warn_of_prompt(f"{type(self).__name__} takes no text; the prompt is not used")
        options = self.options_type() if call.options is None else call.options
        return replace(call, scale=scale, num_inference_steps=steps, options=options)

    def steer(self, call: Call, photos: Sequence[Photo]) -> tuple[Steering, list[str]]:
        """Return what steers the results beside their images, and the text of each; families that take text embed it."""
        results = len(photos) * call.num_images_per_prompt
        return Guidance(fidelity=call.fidelity), [""] * results

    def _warn_of_prompt(self, message: str) -> None:
        if not self._warned_of_prompt:
            self._warned_of_prompt = True
            warnings.warn(message, stacklevel=5)  # of the pipeline's call

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

    def restored(
        self,
        lq: Tensor,  # (B, 3, h, w)
        hole: Tensor | None,  # (B, 1, h, w), the mask
        asked: tuple[int, int],  # size of the result
        call: Call,
        tiling: Chop | Smooth | None,  # None: whole
        *,
        generator: torch.Generator | Sequence[torch.Generator] | None,  # for families that draw from it themselves
        rescue: Rescue,
        noise_of: NoiseOf,
        on_step: OnStep,
        guidance: Steering,
    ) -> Stream:
        """Restore a batch of one size, whole or by tiles, at the asked size and with corrected colours."""
        chain = partial(
            self.restore_padded,
            noise_of=noise_of,
            num_inference_steps=call.num_inference_steps,
            on_step=on_step,
            guidance=guidance,
        )
        canvas = lq if hole is None else torch.cat([lq, hole], dim=1)
        restore: Restore | Halving = partial(self.restore_tiles, chain=chain, rescue=rescue, guidance=guidance)
        turn = isinstance(tiling, Smooth) and lq.shape[-1] > max(lq.shape[-2], tiling.size)
        if turn:  # bands across the short side take less memory
            restore, canvas, lq, hole = turned(restore), canvas.mT, lq.mT, None if hole is None else hole.mT
            asked = asked[1], asked[0]
        if isinstance(tiling, Smooth):  # padding first keeps the tiles on the network's grid
            canvas, _ = pad_to_multiple(canvas, self.padding_multiple)
            fitting = self._fitting_tiles.get((tiling.size, call.tile_batch), tiling.size)
            restore = Halving(restore, self.native_scale, self.default_tiling, fitting, self.give_back)
        bands = restored_bands(restore, canvas, tiling, self.native_scale, call.tile_batch)

        height, width = lq.shape[-2:]
        native = height * self.native_scale, width * self.native_scale
        bands = cropped(bands, native)
        fix = self.default_color_fix if call.color_fix == "auto" else call.color_fix
        bands = finished(bands, native, asked, lq, fix, call.color_fix_strength)
        if hole is not None:
            bands = known_pixels_kept(bands, lq, hole)

        def tile_side() -> int | None:
            if isinstance(restore, Halving) and isinstance(tiling, Smooth):  # what was learnt holds for the next images
                self._fitting_tiles[tiling.size, call.tile_batch] = restore.limit
            return guidance.tile_side(height, width) or used_tile(tiling, restore, height, width)

        return Stream(bands, asked, tile_side, turn)

    def restore_padded(
        self,
        tiles: Tensor,  # (T B, 3, h, w), or 4 channels with the mask; tile-major
        boxes: list[Box],  # the T places
        *,
        noise_of: NoiseOf,
        num_inference_steps: int,
        on_step: OnStep,
        guidance: Steering = UNGUIDED,  # of the B images
    ) -> Tensor:
        """Return the latents of tiles, padded to `padding_multiple`."""
        padded, _ = pad_to_multiple(tiles, self.padding_multiple)
        places = [replace(box, height=padded.shape[-2], width=padded.shape[-1]) for box in boxes]
        mask = padded[:, 3:] if tiles.shape[1] > 3 else None
        return self.restore(
            padded[:, :3],
            noise_of(places),
            mask=mask,
            num_inference_steps=num_inference_steps,
            on_step=on_step,
            guidance=guidance.of_tiles(len(boxes)),
        )

    def restore_tiles(
        self,
        tiles: Tensor,
        boxes: list[Box],
        *,
        chain: Callable[[Tensor, list[Box]], Tensor],
        rescue: Rescue,
        guidance: Steering = UNGUIDED,
    ) -> Tensor:
        """Return images (T B, 3, h * native_scale, w * native_scale) clamped to [-1, 1]; `chain`: `restore_padded`.

        Raises RuntimeError when they are not finite, see `Rescue`.
        """
        height, width = (side * self.native_scale for side in tiles.shape[-2:])
        lq, _ = pad_to_multiple(tiles[:, :3], self.padding_multiple)
        return rescue(lambda: self.decode(chain(tiles, boxes), guidance, lq)[..., :height, :width]).clamp(-1, 1)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, *, dtype: torch.dtype | None = None, **changes: Any) -> Self:
        """As diffusers': another pipeline around the same components, other options or components given by name.

        Of a pipeline of another class its options are not taken, such as AddSR's steps and prompts for SeeSR. Unlike
        diffusers', which casts the shared networks to float32, their dtypes stay unless `dtype` is given.
        """
        if cls is SRPipeline:
            return type(pipeline).from_pipe(pipeline, dtype=dtype, **changes)
        modules, names = cls._get_signature_keys(cls)
        parts = {name: part for name, part in pipeline.components.items() if name in modules}
        options = {name: pipeline.config[name] for name in names} if type(pipeline) is cls else {}
        new = cls(**parts | options | changes)
        return new if dtype is None else new.to(dtype=dtype)
