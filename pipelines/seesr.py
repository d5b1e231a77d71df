"""`SeeSRPipeline`: Stable Diffusion with a ControlNet and image cross-attention, prompted by tags and by the user.

SeeSR (2311.16518; cswry/SeeSR pipelines/pipeline_seesr.py and test_seesr.py). The turbo variant is the same class around
sd-turbo's weights. Differences from the reference: the LR image is encoded once, not once for each branch of the
guidance, every random draw belongs to an image and not to the call, odd sides are padded and not resized, and the
latents of a large canvas are tiled with more overlap unless tile="reference".
"""

import inspect
import logging
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from diffusers.loaders import StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.color import ColorFix
from resdiff.diffusion.gaussian import predict_x0
from resdiff.fingerprint import fingerprint
from resdiff.images import Photo
from resdiff.models.ram import RAM, tagger_input
from resdiff.models.seesr import IMAGE_DIM, SeeSRControlNet, SeeSRUNet
from resdiff.models.vae_layers import vae_factor
from resdiff.noise import Noise
from resdiff.pipelines.autoencoding import VaeTiles, decode, encode
from resdiff.pipelines.base import OnStep, SRPipeline
from resdiff.pipelines.call import Call, Tile
from resdiff.pipelines.denoising import Denoiser
from resdiff.pipelines.guidance import one_per_result
from resdiff.pipelines.inputs import enlarged_size
from resdiff.pipelines.loras import check_lora, scaled_lora
from resdiff.pipelines.seesr_guidance import LR_PER_LATENT, SeeSRGuidance, given_rows, latent_tiles
from resdiff.pipelines.seesr_options import AdapterOptions, SeeSROptions
from resdiff.resize import bicubic
from resdiff.schedulers.ddpm import DDPMScheduler, StockDDPMScheduler
from resdiff.schedulers.named import scheduler_named
from resdiff.text.clip import LongPrompt, encode_text, equal_lengths
from resdiff.text.prompts import ADDED_PROMPT, NEGATIVE_PROMPT
from resdiff.text.tags import read_tags, tags_key, write_tags

logger = logging.getLogger(__name__)

POSTERIOR = -1  # the draw of the autoencoder's posterior; 0 begins the chain, 1.. are its steps


class SeeSRPipeline(SRPipeline, StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin):
    """SeeSR; see the module docstring, `SRPipeline.__call__` and, for what only this family takes, `SeeSROptions`.

    LoRAs (`load_lora_weights`) and textual inversions of the base model fit; a UNet called `unet` and a text encoder
    called `text_encoder` are where diffusers looks for them.
    """

    _optional_components = ["tagger"]  # noqa: RUF012 (diffusers reads plain lists)
    model_cpu_offload_seq = "tagger->text_encoder->unet->vae"
    options_type: ClassVar[type] = SeeSROptions
    default_color_fix: ClassVar[ColorFix] = "adain"
    padding_multiple = LR_PER_LATENT
    batch_pixels = 4 * 128 * 128
    _warned_of_negative = False

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: SeeSRUNet,
        controlnet: SeeSRControlNet,
        scheduler: DDPMScheduler,
        tagger: RAM | None = None,  # None: calls must bring `image_embeds`
        num_inference_steps: int = 50,  # defaults of the call, as published
        guidance_scale: float = 5.5,
        added_prompt: str = ADDED_PROMPT,
        negative_prompt: str = NEGATIVE_PROMPT,
        process_size: int = 512,  # px; images whose result would have a shorter side are enlarged first
    ):
        super().__init__()
        width = text_encoder.config.hidden_size
        for name, network in (("unet", unet), ("controlnet", controlnet)):
            ours = SeeSRUNet if name == "unet" else SeeSRControlNet
            if not (isinstance(network, ours) and network.config.use_image_cross_attention):
                raise ValueError(f"{name} has no image cross-attention; pass SeeSR's, not that of the base model")
            if network.config.cross_attention_dim != width:
                raise ValueError(
                    f"{name} attends to texts of width {network.config.cross_attention_dim}, the text encoder gives "
                    f"{width}; adapter and base do not match: SeeSR needs a Stable Diffusion 2 base"
                )
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            controlnet=controlnet,
            scheduler=scheduler,
            tagger=tagger,
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            added_prompt=added_prompt,
            negative_prompt=negative_prompt,
            process_size=process_size,
        )
        self.smallest_side = process_size // self.native_scale
        self.max_steps = scheduler.config.num_train_timesteps

    # --- what the base class asks ------------------------------------------------------------------------------

    @property
    def takes_prompt(self) -> bool:
        """Always."""
        return True

    @property
    def default_steps(self) -> int:
        """As published, or as the folder says."""
        return self.config.num_inference_steps

    def default_guidance_scale(self, negative: bool) -> float:
        """As published, or as the folder says."""
        return self.config.guidance_scale

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the latents for an LR image of this size; see `SRPipeline.latent_shape`."""
        _, *sides = super().latent_shape(*enlarged_size(height, width, self.smallest_side))
        factor = vae_factor(self.vae)
        return self.vae.config.latent_channels, sides[0] // factor, sides[1] // factor

    def as_tiling(self, tile: Tile, tile_batch: int = 1) -> None:
        """The canvas is never cut, its latents are; raises ValueError for a tile that cannot be meant."""
        latent_tiles(tile)

    def check_inputs(self, call: Call) -> Call:
        """As for every family; also that the scheduler is one, and what is needed for tags and embeddings is there."""
        call = super().check_inputs(call)
        options: AdapterOptions = call.options
        self.scheduler_of(options)
        if self.tagger is None and options.image_embeds is None:
            raise ValueError(
                "this model was opened without RAM and DAPE, which look at the image; pass image_embeds= (B, N, 512), or "
                "open it with ram_file= and dape_file="
            )
        asks_tags = options.tags is None and options.prompt_embeds is None
        if self.tagger is None and asks_tags:
            raise ValueError("there is no tagger to find tags; pass tags=, tags=False or prompt_embeds=")
        if asks_tags and self.tagger.config.tags is None:
            raise ValueError(
                "the tagger has no list of tags; convert the model with ram_tag_list.txt and "
                "ram_tag_list_threshold.txt beside RAM's weights, or pass tags= or tags=False"
            )
        if options.prompt_embeds is not None and call.prompt:
            raise ValueError("prompt and prompt_embeds are both given; leave one out")
        scale = self.config.guidance_scale if call.guidance_scale is None else call.guidance_scale
        if call.negative_prompt and scale <= 1 and not self._warned_of_negative:
            self._warned_of_negative = True
            warnings.warn(
                f"negative_prompt is not used with guidance_scale={scale:g}; it takes one above 1", stacklevel=3
            )
        return replace(call, guidance_scale=scale)

    # --- words ---------------------------------------------------------------------------------------------------

    def steer(self, call: Call, photos: Sequence[Photo]) -> tuple[SeeSRGuidance, list[str]]:
        """Look at the photos for tags and tokens, join the texts and embed them; one row for each result."""
        options: AdapterOptions = call.options
        results = len(photos) * call.num_images_per_prompt
        each = call.num_images_per_prompt
        width = self.text_encoder.config.hidden_size
        tags, tokens = self._looked_at(photos, options)
        if options.prompt_embeds is not None:
            texts, rows = [""] * results, given_rows("prompt_embeds", options.prompt_embeds, width, len(photos), each)
        else:
            said = one_per_result("prompt", call.prompt, photos, results)
            texts = [self._joined(tags[i // each], text, options) for i, text in enumerate(said)]
            rows = self._embedded(texts, options)
        negative = None
        if call.guidance_scale > 1:
            if options.negative_prompt_embeds is not None:
                given = options.negative_prompt_embeds
                negative = given_rows("negative_prompt_embeds", given, width, len(photos), each)
            else:
                default = self.config.negative_prompt if call.negative_prompt is None else call.negative_prompt
                said = one_per_result("negative_prompt", default, photos, results)
                negative = self._embedded(said, replace(options, clip_skip=None))  # as in diffusers
            if any(row.shape != other.shape for row, other in zip(rows, negative, strict=True)):
                empty = self.encode_prompt("")
                pairs = [equal_lengths(pair, empty) for pair in zip(rows, negative, strict=True)]
                rows, negative = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        guidance = SeeSRGuidance(
            prompt_embeds=rows,
            negative_prompt_embeds=negative,
            image_embeds=tuple(tokens[i // each] for i in range(results)),
            scale=call.guidance_scale,
            tiles=latent_tiles(call.tile),
            tile_batch=call.tile_batch,
            options=self._with_published_vae(call, options),
        )
        return guidance, texts

    def encode_prompt(
        self,
        text: str,
        *,
        long_prompt: LongPrompt = "truncate",
        prompt_weighting: bool = False,
        clip_skip: int | None = None,
    ) -> Tensor:
        """Embed one text, (1, 77 n, C), as `prompt_embeds` and `negative_prompt_embeds` take it."""
        return encode_text(
            self.tokenizer,
            self.text_encoder,
            self.maybe_convert_prompt(text, self.tokenizer),
            long_prompt=long_prompt,
            clip_skip=clip_skip,
            weighting=prompt_weighting,
            device=self._execution_device,
        )

    def _embedded(self, texts: Sequence[str], options: AdapterOptions) -> tuple[Tensor, ...]:
        settings = {name: getattr(options, name) for name in ("long_prompt", "prompt_weighting", "clip_skip")}
        with scaled_lora(self.text_encoder, options.lora_scale):
            rows = {text: self.encode_prompt(text, **settings) for text in dict.fromkeys(texts)}
        return tuple(rows[text] for text in texts)

    def _joined(self, tags: Any, prompt: str, options: AdapterOptions) -> str:
        added = self.config.added_prompt if options.added_prompt is None else options.added_prompt
        return options.prompt_layout(tags, prompt, added)

    def _looked_at(self, photos: Sequence[Photo], options: AdapterOptions) -> tuple[list[Any], list[Tensor]]:
        """Return the tags and the image tokens (1, N, 512) of each photo; both may be given."""
        given = options.tags
        if given is False or isinstance(given, str) or (given is None and options.prompt_embeds is not None):
            tags: list[Any] = [given] * len(photos)
        else:
            tags = [None] * len(photos) if given is None else list(given)
        if len(tags) != len(photos):
            raise ValueError(f"tags is a list of {len(tags)} for {len(photos)} images; pass one each, or one for all")
        tokens: list[Any] = [None] * len(photos)
        if options.image_embeds is not None:
            tokens = list(given_rows("image_embeds", options.image_embeds, IMAGE_DIM, len(photos)))
        asks = options.prompt_embeds is None
        tagger = fingerprint(self.tagger) if options.tags_cache and asks and self.tagger is not None else None
        for i, photo in enumerate(photos):
            if tokens[i] is None or (tags[i] is None and asks):
                embeds, found = self._tagged(photo, asks and tags[i] is None, tagger)
                tokens[i] = embeds if tokens[i] is None else tokens[i]
                tags[i] = found if tags[i] is None else tags[i]
        return tags, tokens

    def _tagged(self, photo: Photo, asks: bool, kept_as: str | None) -> tuple[Tensor, str | None]:
        """Ask the tagger for the tokens of a photo and, where asked, for its tags.

        kept_as: the tagger's name in the file beside the photo that may know them already; None: there is none.
        """
        path = photo.path if asks and kept_as is not None else None
        key = "" if path is None or kept_as is None else tags_key(path, kept_as)
        tags = None if path is None else read_tags(path, key)
        pixels = tagger_input(photo.pixels[None].to(self._execution_device), self.tagger.config.image_res)
        seen = self.tagger(pixels.to(self.tagger.dtype), with_logits=asks and tags is None)
        if seen.logits is not None:
            tags = self.tagger.tags(seen.logits)[0]
            if path is not None:
                write_tags(path, key, tags)
        return seen.image_embeds, tags

    def _with_published_vae(self, call: Call, options: AdapterOptions) -> AdapterOptions:
        """tile="reference" means the published autoencoder's tiles too, unless they are chosen."""
        is_published = isinstance(call.tile, str) and call.tile.startswith("reference")
        return replace(options, vae_tiling=VaeTiles()) if is_published and options.vae_tiling == "auto" else options

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,  # of diffusers' `lora_state_dict`
    ) -> None:
        """As diffusers', but a LoRA of another base is a ValueError in one line, and leaves the networks as they are."""
        given = pretrained_model_name_or_path_or_dict
        parts = self.lora_state_dict(dict(given) if isinstance(given, dict) else given, **kwargs)
        check_lora(parts[0], self.unet, self.text_encoder)
        super().load_lora_weights(given, adapter_name, hotswap, **kwargs)

    # --- the chain -----------------------------------------------------------------------------------------------

    def condition(self, lq: Tensor) -> Tensor:
        """Return the ControlNet's image: `lq` (B, 3, h, w) in [-1, 1] enlarged by bicubic (Pillow's), in [0, 1]."""
        size = lq.shape[-2] * self.native_scale, lq.shape[-1] * self.native_scale
        return (bicubic(lq, size, "pil") / 2 + 0.5).clamp(0, 1)

    def restore(
        self,
        lq: Tensor,
        noise: Noise,
        *,
        mask: Tensor | None,
        num_inference_steps: int,
        on_step: OnStep,
        guidance: Any,
    ) -> Tensor:
        """Run the chain from the noised LR image, or noise, to latents; see `SRPipeline.restore`."""
        with scaled_lora(self.unet, guidance.options.lora_scale):
            return self.sample(self.condition(lq), noise, num_inference_steps, on_step, guidance)

    def sample(self, image: Tensor, noise: Noise, steps: int, on_step: OnStep, guidance: SeeSRGuidance) -> Tensor:
        """Return the latents for a condition (B, 3, H, W) in [0, 1]; all arithmetic beside the networks' is float32.

        As published, DDPM starts from t = 999 (`start_steps`) although its first step is at an earlier timestep; other
        samplers start at their first timestep.
        """
        options: SeeSROptions = guidance.options
        scheduler = self.scheduler_of(options)
        scheduler.set_timesteps(steps)  # on the CPU: a step that looks at them does not wait for the device
        begin = sum(int(t) > options.first_timestep for t in scheduler.timesteps)
        begin += -begin % scheduler.order  # samplers of second order take each timestep twice
        timesteps = scheduler.timesteps[begin:]
        if not len(timesteps):
            asked = f"start_steps={options.start_steps}" if options.strength is None else f"strength={options.strength}"
            raise ValueError(
                f"{asked} leaves no step of {steps}, the last of which is at {int(scheduler.timesteps[-1])}; raise it"
            )
        if begin and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(begin)
        is_ddpm = isinstance(scheduler, StockDDPMScheduler)
        first = timesteps.new_tensor([options.first_timestep]) if is_ddpm else timesteps[:1]
        x = self.begin(image, noise, scheduler, first, options)
        denoise = self.denoiser(image, guidance)
        x0, on_device = x, timesteps.to(image.device)
        for i, t in enumerate(self.progress_bar(timesteps)):
            if self.interrupt:
                return x0
            is_controlled = options.control_guidance_start <= i / len(timesteps)
            is_controlled &= (i + 1) / len(timesteps) <= options.control_guidance_end
            weight = options.controlnet_conditioning_scale if is_controlled else 0.0
            output = denoise(scheduler.scale_model_input(x, t), on_device[i], weight)
            x0 = self.predicted(scheduler, output, x, t)
            x = scheduler.step(output, t, x, **draws(scheduler, options.eta, noise, i + 1, x.shape)).prev_sample
            x = on_step(i, t, x, x0)
        return x

    def scheduler_of(self, options: Any) -> Any:
        """Return the scheduler of a call: the pipeline's, another of its noise levels by name, or the one given."""
        if isinstance(options.scheduler, str):
            return scheduler_named(options.scheduler, self.scheduler.config)
        return checked_scheduler(self.scheduler if options.scheduler is None else options.scheduler)

    def begin(self, image: Tensor, noise: Noise, scheduler: Any, first: Tensor, options: AdapterOptions) -> Tensor:
        """Return the x_t that a chain starts from: the LR image's latents noised to timestep `first`, or noise alone."""
        factor = vae_factor(self.vae)
        shape = torch.Size(
            (len(image), self.vae.config.latent_channels, image.shape[-2] // factor, image.shape[-1] // factor)
        )
        if options.start_point == "noise":
            return noise(0, shape) * scheduler.init_noise_sigma
        z = encode(self.vae, image * 2 - 1, noise(POSTERIOR, shape), options.vae_tiling)
        return scheduler.add_noise(z, noise(0, shape), first)

    def denoiser(self, image: Tensor, guidance: SeeSRGuidance) -> Denoiser:
        """Return the networks as a function of x_t, t and the ControlNet's weight."""
        options, negative = guidance.options, guidance.negative_prompt_embeds
        return Denoiser(
            unet=self.unet,
            controlnet=self.controlnet,
            image=image,
            factor=vae_factor(self.vae),
            prompt_embeds=torch.cat(guidance.prompt_embeds).to(image.device),
            negative_prompt_embeds=None if negative is None else torch.cat(negative).to(image.device),
            image_embeds=torch.cat(guidance.image_embeds).to(image.device),
            guidance_scale=guidance.scale,
            guidance_rescale=options.guidance_rescale,
            tiles=guidance.tiles,
            tile_batch=guidance.tile_batch,
            cross_attention_kwargs={k: v for k, v in (options.cross_attention_kwargs or {}).items() if k != "scale"},
        )

    @staticmethod
    def predicted(scheduler: Any, output: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return the x_0 that the network's output at x_t means, for callbacks and for a call that is interrupted."""
        x = scheduler.scale_model_input(x, t)
        kind = scheduler.config.prediction_type
        return predict_x0(output, x, scheduler.alphas_cumprod[t.long()], kind)

    def decode(self, latents: Tensor, guidance: SeeSRGuidance | None = None) -> Tensor:
        """Return the float32 images of latents, about [-1, 1], not clamped."""
        return decode(self.vae, latents, "auto" if guidance is None else guidance.options.vae_tiling)


def checked_scheduler(scheduler: Any) -> Any:
    """Return `scheduler`; raises ValueError if it is none of Stable Diffusion's, as those of flow matching."""
    if not hasattr(scheduler, "alphas_cumprod") or not hasattr(scheduler, "add_noise"):
        name = type(scheduler).__name__
        raise ValueError(f"{name} is no scheduler of Stable Diffusion; use one such as DDPMScheduler or DDIMScheduler")
    return scheduler


def draws(scheduler: Any, eta: float, noise: Noise, draw: int, shape: torch.Size) -> dict[str, Any]:
    """Return the arguments by which a scheduler's step gets its noise, where it uses any."""
    takes = inspect.signature(scheduler.step).parameters
    arguments: dict[str, Any] = {"eta": eta} if "eta" in takes else {}
    if "variance_noise" in takes:
        is_random = isinstance(scheduler, DDPMScheduler) or eta > 0
        is_random |= str(getattr(scheduler.config, "algorithm_type", "")).startswith("sde")
        return arguments | ({"variance_noise": noise(draw, shape)} if is_random else {})
    return arguments | ({"generator": noise.generators(draw)} if "generator" in takes else {})
