"""`SeeSRPipeline`: Stable Diffusion with a ControlNet and image cross-attention, prompted by tags and by the user.

SeeSR (2311.16518; cswry/SeeSR pipelines/pipeline_seesr.py and test_seesr.py). The turbo variant is the same class around
sd-turbo's weights. Differences from the reference: the LR image is encoded once, not once for each branch of the
guidance, every random draw belongs to an image and not to the call, odd sides are padded and not resized, and the
latents of a large canvas are tiled with more overlap unless tile="reference".
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.color import ColorFix
from resdiff.fingerprint import fingerprint
from resdiff.images import Photo
from resdiff.models.ram import RAM, tagger_input
from resdiff.models.seesr import IMAGE_DIM, SeeSRControlNet, SeeSRUNet
from resdiff.models.vae_layers import vae_factor
from resdiff.noise import Noise
from resdiff.pipelines.autoencoding import VaeTiles
from resdiff.pipelines.base import OnStep, SRPipeline
from resdiff.pipelines.call import Call
from resdiff.pipelines.denoising import Denoiser
from resdiff.pipelines.guidance import one_per_result
from resdiff.pipelines.loras import scaled_lora
from resdiff.pipelines.sampling import begun, chain_of, sampled
from resdiff.pipelines.seesr_networks import ControlledUNet
from resdiff.pipelines.seesr_options import AdapterOptions, SeeSROptions
from resdiff.pipelines.stable_diffusion import Rows, StableDiffusionMixin
from resdiff.pipelines.text_guidance import LR_PER_LATENT, TextGuidance, given_rows
from resdiff.resize import bicubic
from resdiff.schedulers.ddpm import DDPMScheduler
from resdiff.text.prompts import ADDED_PROMPT, NEGATIVE_PROMPT
from resdiff.text.tags import read_tags, tags_key, write_tags
from resdiff.tiling import Gaussian

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SeeSRGuidance(TextGuidance):
    """What steers SeeSR's and AddSR's chains beside the image."""

    image_embeds: Rows  # each (1, N, 512)


class SeeSRPipeline(StableDiffusionMixin, SRPipeline):
    """SeeSR; see the module docstring, `SRPipeline.__call__` and, for what only this family takes, `SeeSROptions`."""

    _optional_components = ["tagger"]  # noqa: RUF012 (diffusers reads plain lists)
    model_cpu_offload_seq = "tagger->text_encoder->unet->vae"
    options_type: ClassVar[type] = SeeSROptions
    default_color_fix: ClassVar[ColorFix] = "adain"
    padding_multiple = LR_PER_LATENT
    batch_pixels = 4 * 128 * 128
    own_tiles = Gaussian(96, 32)
    published_tiles = Gaussian(96, 4, published=True)

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

    def check_inputs(self, call: Call) -> Call:
        """As for every Stable Diffusion; also that what is needed for tags and image tokens is there."""
        call = super().check_inputs(call)
        options: AdapterOptions = call.options
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
        return call

    # --- words ---------------------------------------------------------------------------------------------------

    def steer(self, call: Call, photos: Sequence[Photo]) -> tuple[SeeSRGuidance, list[str]]:
        """Look at the photos for tags and tokens, join the texts and embed them; one row for each result."""
        options: AdapterOptions = call.options
        each, results = call.num_images_per_prompt, len(photos) * call.num_images_per_prompt
        tags, tokens = self._looked_at(photos, options)
        texts = [""] * results
        if options.prompt_embeds is None:
            said = one_per_result("prompt", call.prompt, photos, results)
            texts = [self._joined(tags[i // each], text, options) for i, text in enumerate(said)]
        rows, negative = self.embedded(call, texts, photos)
        guidance = SeeSRGuidance(
            prompt_embeds=rows,
            negative_prompt_embeds=negative,
            image_embeds=tuple(tokens[i // each] for i in range(results)),
            scale=call.guidance_scale or 0.0,
            tiles=self.latent_tiles(call.tile),
            tile_batch=call.tile_batch,
            options=self._with_published_vae(call, options),
        )
        return guidance, texts

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
        """Return the latents for a condition (B, 3, H, W) in [0, 1]."""
        options: SeeSROptions = guidance.options
        chain = chain_of(self.scheduler_of(options), steps, options)
        x = self.begin(image, noise, chain.scheduler, chain.first, options)
        denoise, count = self.controlled(image, guidance), len(chain.timesteps)

        def evaluate(x: Tensor, t: Tensor, step: int) -> Tensor:
            is_controlled = options.control_guidance_start <= step / count
            is_controlled &= (step + 1) / count <= options.control_guidance_end
            return denoise(x, t, conditioning_scale=options.controlnet_conditioning_scale if is_controlled else 0.0)

        return sampled(self, chain, x, evaluate, noise, on_step, options.eta)

    def begin(self, image: Tensor, noise: Noise, scheduler: Any, first: Tensor, options: AdapterOptions) -> Tensor:
        """Return the x_t that a chain starts from at timestep `first`, for a condition (B, 3, H, W) in [0, 1]."""
        z = self.encode(image * 2 - 1, noise, options) if options.start_point == "lr" else None
        return begun(scheduler, first, noise(0, self.latents_of(image)), z)

    def controlled(self, image: Tensor, guidance: SeeSRGuidance) -> Denoiser:
        """Return the networks as a function of x_t, t and the ControlNet's weight."""
        networks = ControlledUNet(
            unet=self.unet,
            controlnet=self.controlnet,
            image=image,
            factor=vae_factor(self.vae),
            image_embeds=torch.cat(guidance.image_embeds).to(image.device),
            cross_attention_kwargs=guidance.options.for_attention,
        )
        return self.denoiser(networks, guidance, image.device)
