"""`StableSRPipeline`: Stable Diffusion modulated by time-aware features of the LR image, decoded with a fidelity knob.

StableSR (2305.07015; IceClear/StableSR scripts/sr_val_ddpm_text_T_vqganfin_oldcanvas_tile.py and ldm/models/diffusion/
ddpm.py). The UNet is the base's own and is modulated during a call only. Differences from the reference, unless
`faithful=True`: every random draw belongs to an image, sides are padded by no more than needed and results have exactly
the asked size, DDIM's noise levels are those of the timesteps that the network sees, the guidance serves any batch, and
large canvases run as one, their latents in tiles and their autoencoder in bands.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.color import ColorFix
from resdiff.images import Photo
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.spade import SpadeModulation
from resdiff.models.time_aware_encoder import TimeAwareEncoder
from resdiff.models.vae_layers import vae_factor
from resdiff.noise import Noise
from resdiff.pipelines.autoencoding import Fusion, VaeTiles, decode, encode
from resdiff.pipelines.base import OnStep, SRPipeline
from resdiff.pipelines.call import Call
from resdiff.pipelines.denoising import Denoiser
from resdiff.pipelines.finishing import Stream
from resdiff.pipelines.guidance import fidelity_per_result, one_per_result
from resdiff.pipelines.loras import scaled_lora
from resdiff.pipelines.sampling import begun, chain_of, sampled
from resdiff.pipelines.stable_diffusion import StableDiffusionMixin
from resdiff.pipelines.stablesr_faithful import (
    PublishedDraws,
    check_published_size,
    published_image,
    published_sizes,
)
from resdiff.pipelines.stablesr_guidance import StableSRGuidance, pull_to, references, resized
from resdiff.pipelines.stablesr_networks import ModulatedUNet
from resdiff.pipelines.stablesr_options import StableSROptions
from resdiff.pipelines.text_guidance import LR_PER_LATENT
from resdiff.schedulers.named import scheduler_named
from resdiff.schedulers.spaced import SpacedDDPMScheduler
from resdiff.text.prompts import STABLESR_NEGATIVE_PROMPT
from resdiff.tiling import Gaussian

NEGATIVE_GUIDANCE = 7.0  # the published scale where there is a negative prompt
LEAST_TILE, PUBLISHED_OVERLAP = 64, 32  # latents
REFERENCE = -2  # the draw of the posterior of `reference`


class StableSRPipeline(StableDiffusionMixin, SRPipeline):
    """StableSR; see the module docstring, `SRPipeline.__call__` and, for what only this family takes, `StableSROptions`.

    `fidelity` weighs what the decoder takes from the LR image: F + fidelity * C(features, F). 0 is the base's own decoder,
    1 nearest to the input.
    """

    _optional_components = ["cfw"]  # noqa: RUF012 (diffusers reads plain lists)
    model_cpu_offload_seq = "text_encoder->unet->vae"
    _exclude_from_cpu_offload = ["modulation"]  # noqa: RUF012 (it runs inside the UNet)
    options_type: ClassVar[type] = StableSROptions
    padding_multiple = LR_PER_LATENT
    batch_pixels = 4 * 128 * 128

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        structure_encoder: TimeAwareEncoder,
        modulation: SpadeModulation,
        scheduler: SpacedDDPMScheduler,
        cfw: ControllableFeatureWrapping | None = None,  # None: fidelity is 0
        num_inference_steps: int = 200,  # defaults of the call, as published
        guidance_scale: float = 1.0,
        negative_prompt: str = STABLESR_NEGATIVE_PROMPT,
        fidelity: float = 0.5,
        process_size: int = 512,  # px; images whose result would have a shorter side are enlarged first
        color_fix: ColorFix = "adain",
    ):
        super().__init__()
        predicts, trained = scheduler.config.prediction_type, structure_encoder.config.prediction_type
        if predicts != trained:
            raise ValueError(
                f"the adapter was trained with a base that predicts {trained}, this base predicts {predicts}; use "
                f"Stable Diffusion {'2.1 (768, v)' if trained == 'v_prediction' else '2.1 base (512)'}"
            )
        modulation.check_fits(unet)
        if unet.config.cross_attention_dim != text_encoder.config.hidden_size:
            raise ValueError(
                f"unet attends to texts of width {unet.config.cross_attention_dim}, the text encoder gives "
                f"{text_encoder.config.hidden_size}; use both of one base"
            )
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            unet=unet,
            structure_encoder=structure_encoder,
            modulation=modulation,
            scheduler=scheduler,
            cfw=cfw,
        )
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            fidelity=fidelity,
            process_size=process_size,
            color_fix=color_fix,
        )
        self.smallest_side = process_size // self.native_scale
        self.max_steps = scheduler.config.num_train_timesteps
        self.default_color_fix = color_fix
        latents = process_size // 8
        self.own_tiles = Gaussian(max(LEAST_TILE, latents), max(LEAST_TILE, latents) // 2)
        self.published_tiles = Gaussian(latents, min(PUBLISHED_OVERLAP, latents // 2), published=True)

    # --- what the base class asks ------------------------------------------------------------------------------

    @property
    def takes_fidelity(self) -> bool:
        """Always; above 0 only with `cfw`, see `check_inputs`."""
        return True

    @property
    def recorded_networks(self) -> list[torch.nn.Module]:
        """All but the modulation, recorded with the UNet inside which it runs, and the autoencoder, which is fused by hooks."""
        left_out = (self.modulation, self.vae, self.cfw)
        return [network for network in super().recorded_networks if not any(network is part for part in left_out)]

    def default_guidance_scale(self, negative: bool) -> float:
        """As published: none, and 7 with a negative prompt."""
        return max(self.config.guidance_scale, NEGATIVE_GUIDANCE) if negative else self.config.guidance_scale

    def check_inputs(self, call: Call) -> Call:
        """As for every Stable Diffusion; also that there is what fuses features where fidelity is above 0."""
        call = super().check_inputs(call)
        options: StableSROptions = call.options
        most = self._own_fidelity if call.fidelity is None else float(torch.as_tensor(call.fidelity).max())
        if most > 0 and self.cfw is None:
            raise ValueError(
                f"fidelity={most:g} needs the weights of controllable feature wrapping, which this model was opened "
                "without; give vqgan_cfw_00011.ckpt as cfw_file= (resdiff convert takes it too), or pass fidelity=0"
            )
        if most > 0 and isinstance(options.vae_tiling, VaeTiles):
            raise ValueError('VaeTiles(...) cannot fuse features; use vae_tiling="bands", or pass fidelity=0')
        if options.faithful and call.output_type == "latent":
            raise ValueError('faithful=True makes images; leave out output_type="latent"')
        if call.num_inference_steps == 1 and options.scheduler == "euler":
            raise ValueError(
                "euler takes its only step at t = 0, where nothing is noisy; take 2 steps, or another sampler"
            )
        return call

    @property
    def _own_fidelity(self) -> float:
        return 0.0 if self.cfw is None else self.config.fidelity

    def in_order(self, call: Call, tiling: Any) -> bool:
        """Whether draws come in the published order, from `generator` itself."""
        return call.options.faithful

    def steer(self, call: Call, photos: Sequence[Photo]) -> tuple[StableSRGuidance, list[str]]:
        """Embed the texts; one row, one fidelity and one reference for each result."""
        options: StableSROptions = call.options
        each, results = call.num_images_per_prompt, len(photos) * call.num_images_per_prompt
        texts = [""] * results
        if options.prompt_embeds is None:
            texts = one_per_result("prompt", call.prompt, photos, results)
        rows, negative = self.embedded(call, texts, photos)
        if options.faithful:
            for photo in photos:
                height, width = photo.pixels.shape[-2:]
                check_published_size(height, width, call.scale or self.native_scale, self.config.process_size)
        guidance = StableSRGuidance(
            prompt_embeds=rows,
            negative_prompt_embeds=negative,
            scale=call.guidance_scale or 0.0,
            tiles=self.latent_tiles("reference" if options.faithful and call.tile == "auto" else call.tile),
            tile_batch=call.tile_batch,
            options=options,
            fidelity=fidelity_per_result(call.fidelity, len(photos), results, self._own_fidelity),
            reference=references(options.reference, len(photos), each),
        )
        return guidance, texts

    def restored(
        self, lq: Tensor, hole: Tensor | None, asked: tuple[int, int], call: Call, tiling: Any, **means: Any
    ) -> Stream:
        """As for every family; or, `faithful`, by the published sizes and windows, one image after the other."""
        if not call.options.faithful:
            return super().restored(lq, hole, asked, call, tiling, **means)
        draws, guidance, rescue = PublishedDraws(means["generator"]), means["guidance"], means["rescue"]
        fix = self.default_color_fix if call.color_fix == "auto" else call.color_fix
        images = []
        for i, photo in enumerate(lq.split(1)):
            own = guidance.of_images([i])

            def restore(image: Tensor, noise: Noise, own: StableSRGuidance = own) -> Tensor:
                latents = self.sample(image, noise, call.num_inference_steps, means["on_step"], own)
                return self.decode_fused(latents, image, own)

            images.append(
                published_image(
                    photo,
                    call.scale,
                    self.config.process_size,
                    lambda image, noise, restore=restore: rescue(lambda: restore(image, noise)),
                    draws,
                    fix,
                    call.color_fix_strength,
                )
            )
        result = torch.cat(images) * 2 - 1
        sizes = published_sizes(lq.shape[-2], lq.shape[-1], call.scale, self.config.process_size)
        factor = vae_factor(self.vae)
        is_cut = guidance.tiles is not None and guidance.tiles.cuts(*(side // factor for side in sizes.network))
        side = guidance.tiles.size * LR_PER_LATENT if is_cut else None
        return Stream(iter([result]), (result.shape[-2], result.shape[-1]), lambda: side)

    # --- the chain -----------------------------------------------------------------------------------------------

    def upsampled(self, lq: Tensor) -> Tensor:
        """Return `lq` (B, 3, h, w) in [-1, 1] enlarged by the published bicubic (torch's)."""
        return resized(lq, (lq.shape[-2] * self.native_scale, lq.shape[-1] * self.native_scale))

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
        return self.sample(self.upsampled(lq), noise, num_inference_steps, on_step, guidance)

    def sample(self, image: Tensor, noise: Noise, steps: int, on_step: OnStep, guidance: StableSRGuidance) -> Tensor:
        """Return the latents for an enlarged LR image (B, 3, H, W) in [-1, 1]."""
        z, reference = self.encode(image, noise, guidance.options), None
        if guidance.reference is not None:
            size = image.shape[-2], image.shape[-1]
            images = torch.cat([resized(one.to(image), size) for one in guidance.reference])
            reference = encode(self.vae, images, noise(REFERENCE, z.shape), guidance.options.vae_tiling)
        return self.sample_from(z, noise, steps, on_step, guidance, reference)

    def sample_from(
        self,
        z: Tensor,  # (B, 4, h, w), the scaled latents of the LR image: where the chain begins and what the encoder sees
        noise: Noise,
        steps: int,
        on_step: OnStep,
        guidance: StableSRGuidance,
        reference: Tensor | None = None,  # latents that the predicted x_0 is pulled to, the published way with faces
    ) -> Tensor:
        """Return the latents at the end of the chain, float32; all arithmetic beside the networks' is float32."""
        options: StableSROptions = guidance.options
        chain = chain_of(self.scheduler_of(options), steps, options)
        x = begun(chain.scheduler, chain.first, noise(0, z.shape), z if options.start_point == "lr" else None)
        denoise = self.modulated(z, guidance)
        guide = None if reference is None else pull_to(reference, options, chain.timesteps.tolist())
        with scaled_lora(self.unet, options.lora_scale), self.modulation.attached(self.unet):
            return sampled(self, chain, x, lambda x, t, step: denoise(x, t), noise, on_step, options.eta, guide)

    def modulated(self, z: Tensor, guidance: StableSRGuidance) -> Denoiser:
        """Return the networks as a function of x_t and t, to be called while the modulation is attached to the UNet."""
        networks = ModulatedUNet(self.unet, self.structure_encoder, z, guidance.options.for_attention)
        return self.denoiser(networks, guidance, z.device)

    def scheduler_of(self, options: StableSROptions) -> Any:
        """Return the scheduler of a call, faithful ones with the published noise levels."""
        scheduler = super().scheduler_of(options)
        if not options.faithful:
            return scheduler
        name = options.scheduler if isinstance(options.scheduler, str) else "ddpm"
        if name not in ("ddpm", "ddim") or not (options.scheduler is None or isinstance(options.scheduler, str)):
            raise ValueError(
                'faithful=True has the published samplers, scheduler="ddpm" or "ddim"; leave out the other'
            )
        return scheduler_named(name, dict(self.scheduler.config) | {"published": True})

    def decode(self, latents: Tensor, guidance: Any = None, lq: Tensor | None = None) -> Tensor:
        """Return the float32 images of latents, about [-1, 1], not clamped; features of `lq` are fused by fidelity."""
        if guidance is None or lq is None:
            return super().decode(latents, guidance, lq)
        return self.decode_fused(latents, self.upsampled(lq), guidance)

    def decode_fused(self, latents: Tensor, image: Tensor, guidance: StableSRGuidance) -> Tensor:
        """Return the images of latents with features of the enlarged LR image (B, 3, H, W); without, where fidelity is 0."""
        if not any(guidance.fidelity):
            return super().decode(latents, guidance)
        fusion = Fusion(self.cfw, image, torch.tensor(guidance.fidelity, device=latents.device))
        return decode(self.vae, latents, guidance.options.vae_tiling, fusion)
