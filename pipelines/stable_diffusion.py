"""`StableDiffusionMixin`: what the families on Stable Diffusion share: words, LoRAs, latents, samplers, decoding."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL
from diffusers.loaders import StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.models.vae_layers import vae_factor
from resdiff.noise import Noise
from resdiff.pipelines.autoencoding import decode, encode
from resdiff.pipelines.call import Call, Tile
from resdiff.pipelines.denoising import Denoiser, Networks
from resdiff.pipelines.guidance import one_per_result
from resdiff.pipelines.inputs import enlarged_size
from resdiff.pipelines.loras import check_lora, scaled_lora
from resdiff.pipelines.sampling import checked_scheduler
from resdiff.pipelines.stable_diffusion_options import StableDiffusionOptions
from resdiff.pipelines.text_guidance import TextGuidance, given_rows, latent_tiles
from resdiff.schedulers.named import scheduler_named
from resdiff.text.clip import LongPrompt, encode_text, equal_lengths
from resdiff.tiling import Gaussian

POSTERIOR = -1  # the draw of the autoencoder's posterior; 0 begins the chain, 1.. are its steps
Rows = tuple[Tensor, ...]


class StableDiffusionMixin(StableDiffusionLoraLoaderMixin, TextualInversionLoaderMixin):
    """Goes before `SRPipeline` among the bases of a family.

    LoRAs (`load_lora_weights`) and textual inversions of the base model fit; a UNet called `unet` and a text encoder
    called `text_encoder` are where diffusers looks for them.
    """

    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    unet: Any
    scheduler: Any
    config: Any
    smallest_side: int
    native_scale: int
    _execution_device: torch.device
    own_tiles: Gaussian  # of the latents
    published_tiles: Gaussian
    _warned_of_negative = False

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
        enlarged = enlarged_size(height, width, self.smallest_side)
        _, *sides = super().latent_shape(*enlarged)
        factor = vae_factor(self.vae)
        return self.vae.config.latent_channels, sides[0] // factor, sides[1] // factor

    def latent_tiles(self, tile: Tile) -> Gaussian | None:
        """Return how the latents are cut; raises ValueError for a tile that cannot be meant."""
        return latent_tiles(tile, self.own_tiles, self.published_tiles)

    def as_tiling(self, tile: Tile, tile_batch: int = 1) -> None:
        """The canvas is never cut, its latents are; raises ValueError for a tile that cannot be meant."""
        self.latent_tiles(tile)

    def check_inputs(self, call: Call) -> Call:
        """As for every family; also that the scheduler is one, and words are said once and count."""
        call = super().check_inputs(call)
        options: StableDiffusionOptions = call.options
        self.scheduler_of(options)
        if options.prompt_embeds is not None and call.prompt:
            raise ValueError("prompt and prompt_embeds are both given; leave one out")
        scale = call.guidance_scale
        if scale is None:
            scale = self.default_guidance_scale(bool(call.negative_prompt))
        if call.negative_prompt and scale <= 1 and not self._warned_of_negative:
            self._warned_of_negative = True
            warnings.warn(
                f"negative_prompt is not used with guidance_scale={scale:g}; it takes one above 1", stacklevel=4
            )
        return replace(call, guidance_scale=scale)

    # --- words ---------------------------------------------------------------------------------------------------

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

    def embedded(self, call: Call, texts: Sequence[str], photos: Sequence[Any]) -> tuple[Rows, Rows | None]:
        """Return the embeddings of the results' texts, or those given, and of what they shall not be.

        Each row is (1, L, C), L the same for the two of a result; without guidance there are no negative ones.
        """
        options: StableDiffusionOptions = call.options
        width, each = self.text_encoder.config.hidden_size, call.num_images_per_prompt
        if options.prompt_embeds is not None:
            rows = given_rows("prompt_embeds", options.prompt_embeds, width, len(photos), each)
        else:
            rows = self._rows(texts, options)
        scale = call.guidance_scale
        if scale is None or scale <= 1:
            return rows, None
        if options.negative_prompt_embeds is not None:
            negative = given_rows("negative_prompt_embeds", options.negative_prompt_embeds, width, len(photos), each)
        else:
            default = self.config.negative_prompt if call.negative_prompt is None else call.negative_prompt
            said = one_per_result("negative_prompt", default, photos, len(texts))
            negative = self._rows(said, replace(options, clip_skip=None))  # as in diffusers
        if any(row.shape != other.shape for row, other in zip(rows, negative, strict=True)):
            empty = self.encode_prompt("")
            pairs = [equal_lengths(pair, empty) for pair in zip(rows, negative, strict=True)]
            rows, negative = tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs)
        return rows, negative

    def _rows(self, texts: Sequence[str], options: StableDiffusionOptions) -> Rows:
        settings = {name: getattr(options, name) for name in ("long_prompt", "prompt_weighting", "clip_skip")}
        with scaled_lora(self.text_encoder, options.lora_scale):
            rows = {text: self.encode_prompt(text, **settings) for text in dict.fromkeys(texts)}
        return tuple(rows[text] for text in texts)

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

    def scheduler_of(self, options: Any) -> Any:
        """Return the scheduler of a call: the pipeline's, another of its noise levels by name, or the one given."""
        if isinstance(options.scheduler, str):
            return scheduler_named(options.scheduler, self.scheduler.config)
        return checked_scheduler(self.scheduler if options.scheduler is None else options.scheduler)

    def encode(self, image: Tensor, noise: Noise, options: StableDiffusionOptions) -> Tensor:
        """Return a sample of the posterior of images (B, 3, H, W) in [-1, 1] as scaled latents, float32."""
        return encode(self.vae, image, noise(POSTERIOR, self.latents_of(image)), options.vae_tiling)

    def latents_of(self, image: Tensor) -> torch.Size:
        """Return the shape of the latents of images (B, 3, H, W)."""
        factor = vae_factor(self.vae)
        sides = (side // factor for side in image.shape[-2:])
        return torch.Size((len(image), self.vae.config.latent_channels, *sides))

    def denoiser(self, networks: Networks, guidance: TextGuidance, device: torch.device) -> Denoiser:
        """Return a family's networks as a function of x_t and t, with the tiles and the guidance of a call."""
        return Denoiser(
            networks=networks,
            prompt_embeds=torch.cat(guidance.prompt_embeds).to(device),
            negative_prompt_embeds=None
            if guidance.negative_prompt_embeds is None
            else torch.cat(guidance.negative_prompt_embeds).to(device),
            guidance_scale=guidance.scale,
            guidance_rescale=guidance.options.guidance_rescale,
            tiles=guidance.tiles,
            tile_batch=guidance.tile_batch,
        )

    def decode(self, latents: Tensor, guidance: TextGuidance | None = None, lq: Tensor | None = None) -> Tensor:
        """Return the float32 images of latents, about [-1, 1], not clamped."""
        return decode(self.vae, latents, "auto" if guidance is None else guidance.options.vae_tiling)
