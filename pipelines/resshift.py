"""`ResShiftPipeline`: residual shifting, in the latent space of a VQ autoencoder or directly on pixels.

ResShift (2307.12348; zsyOAOA/ResShift sampler.py) and SinSR (2311.14760; wyf0912/SinSR), and the bundled model, which
has no autoencoder. Super-resolution x4, inpainting and face restoration x1 are the same pipeline with other options.
"""

from collections.abc import Sequence
from functools import partial
from numbers import Real
from typing import Self, get_args

import torch
from torch import Tensor

from resdiff.checkpoints.resshift import Published, load_published
from resdiff.images import Photo
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.noise import Noise
from resdiff.pipelines.base import OnStep, SRPipeline
from resdiff.pipelines.call import Call, Fidelity
from resdiff.pipelines.guidance import UNGUIDED, Guidance, dialled, embedded_guidance, guided, one_per_result
from resdiff.resize import BicubicKernel, bicubic
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.sizes import scaled_size
from resdiff.tiling import Smooth


class ResShiftPipeline(SRPipeline):
    """The residual-shifting family; see the module docstring and `SRPipeline.__call__`."""

    _optional_components = ["vae", "text_encoder"]  # noqa: RUF012 (diffusers reads plain lists)
    model_cpu_offload_seq = "text_encoder->unet->vae"
    _exclude_from_cpu_offload = ["text_encoder"]  # noqa: RUF012 (small, and its layers are used without being called)

    def __init__(
        self,
        unet: SwinUNet | PixelUNet,
        vae: VQAutoencoder | None,  # None: the chain runs on pixels
        scheduler: ResShiftScheduler,
        text_encoder: PromptEncoder | None = None,  # None, or a unet without `prompt_dim`: takes no text
        scale: int = 4,  # 1 for inpainting and face restoration
        padding_multiple: int = 64,  # of the low-resolution sides; the published `padding_offset`, `lq_size`
        upsampling: str = "torch",  # the bicubic kernel that makes y of the low-resolution image
        num_inference_steps: int | None = None,  # default of the call; None: all steps of the schedule
        tile_size: int = 512,  # larger images are cut into tiles of this many low-resolution pixels
        psr_weight: float = 0.0,  # how much of what a step predicted the next one sees as its low-resolution image
    ):
        super().__init__()
        if upsampling not in get_args(BicubicKernel):
            raise ValueError(
                f"upsampling={upsampling!r} is unknown; choose one of {', '.join(get_args(BicubicKernel))}"
            )
        for name, count in (("scale", scale), ("padding_multiple", padding_multiple), ("tile_size", tile_size)):
            if type(count) is not int or count < 1:  # True is an int as well
                raise ValueError(f"{name}={count!r} must be a whole number, at least 1")
        if num_inference_steps is not None and num_inference_steps not in range(1, len(scheduler) + 1):
            raise ValueError(f"num_inference_steps={num_inference_steps!r} must lie between 1 and {len(scheduler)}")
        if not 0 <= psr_weight <= 1:
            raise ValueError(f"psr_weight={psr_weight!r} must lie in [0, 1]")
        said, heard = len(text_encoder.config.attributes) if text_encoder else 0, getattr(unet.config, "prompt_dim", 0)
        if said and heard and said != heard:
            raise ValueError(
                f"text_encoder gives {said} attributes and unet takes {heard}; pass the one it was trained with"
            )
        for network in (unet, vae):
            if network is not None and network.dtype != torch.float32:  # in float32 it gains nothing and rounds more
                network.to(memory_format=torch.channels_last)
        self.register_modules(unet=unet, vae=vae, scheduler=scheduler, text_encoder=text_encoder)
        self.register_to_config(
            scale=scale,
            padding_multiple=padding_multiple,
            upsampling=upsampling,
            num_inference_steps=num_inference_steps,
            tile_size=tile_size,
            psr_weight=psr_weight,
        )
        self.native_scale = scale
        self.padding_multiple = padding_multiple
        self.takes_mask = bool(getattr(unet.config, "cond_mask", False))
        self.max_steps = len(scheduler)

    @classmethod
    def from_published(cls, published: Published, dtype: torch.dtype = torch.float32) -> Self:
        """Build the pipeline of published checkpoints, as `resdiff.checkpoints.resshift.resolve` found them.

        Raises CheckpointError in one line.
        """
        parts = load_published(published, dtype)
        return cls(
            **parts,
            scale=published.known.scale,
            padding_multiple=parts["unet"].config.lq_size or parts["unet"].config.image_size,
            num_inference_steps=published.known.num_inference_steps,
            tile_size=published.known.tile_size,
        )

    @property
    def default_steps(self) -> int:
        """Steps taken when the caller does not say: as published, else all that were trained."""
        return self.config.num_inference_steps or len(self.scheduler)

    @property
    def takes_prompt(self) -> bool:
        """Whether there are a text encoder and a network that listens to it."""
        return self.text_encoder is not None and getattr(self.unet.config, "prompt_dim", 0) > 0

    @property
    def takes_fidelity(self) -> bool:
        """Whether the network has a predictor: the first step then gives the posterior mean."""
        return hasattr(self.unet, "predict")

    def steps_taken(self, num_inference_steps: int | None, fidelity: Fidelity) -> int:
        """Return the steps of a call: the first gives all of `fidelity` 1, and less of it takes a second."""
        steps = super().steps_taken(num_inference_steps, fidelity)
        if not (fidelity is None or isinstance(fidelity, Real)):
            raise ValueError("fidelity is one number for all images of this model; pass a float")
        if fidelity is not None and fidelity < 1 and steps < 2:
            raise ValueError(
                f"fidelity={fidelity} needs at least 2 steps; raise num_inference_steps, or leave out fidelity"
            )
        return 1 if fidelity == 1 else steps

    def encode_prompt(self, text: str) -> Tensor:
        """Return what `text` says of the photo, (1, attributes) float32; zeros where no word of it is known."""
        return self.text_encoder(tokenize([text]).to(self._execution_device))

    def steer(self, call: Call, photos: Sequence[Photo]) -> tuple[Guidance, list[str]]:
        """Embed what was said; return also the text of each result. Warns once about a text of unknown words alone."""
        results = len(photos) * call.num_images_per_prompt
        said = {"prompt": call.prompt, "negative_prompt": call.negative_prompt}
        texts = {name: one_per_result(name, value, photos, results) for name, value in said.items()}
        if not self.takes_prompt:
            return Guidance(fidelity=call.fidelity), [""] * results
        guidance, ignored = embedded_guidance(
            self.encode_prompt, texts, call.guidance_scale, self.default_guidance_scale, call.fidelity
        )
        if ignored:
            self._warn_of_prompt(
                f"{ignored[0]!r} changes nothing: to the model it says nothing; its card lists the words"
            )
        return guidance, texts["prompt"]

    def default_tiling(self, size: int | None = None) -> Smooth:
        """Tiles that are exact where the receptive field is bounded, else the published size and overlap."""
        multiple = self.padding_multiple
        if isinstance(self.unet, PixelUNet):
            halo, smallest = self.unet.receptive_radius, 64  # pixels that a tile must add to be worth its halo
            overlap = 2 * halo + multiple
            return Smooth(
                max((size or self.config.tile_size) // multiple * multiple, overlap + smallest), overlap, halo
            )
        size = max(multiple, (size or self.config.tile_size) // multiple * multiple)
        return Smooth(size, overlap=size // 8)

    @property
    def bytes_per_pixel(self) -> int:
        """Peak of the widest layers, of which about eight tensors live at once (measured), and of the images."""
        if self.vae is None:
            layers = self.unet.config.channels[0] * self.unet.dtype.itemsize
        else:
            layers = self.vae.config.ch * self.native_scale**2 * self.vae.dtype.itemsize
        return 8 * layers + super().bytes_per_pixel

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, H, W) of the latents for an LR image of this size; see `SRPipeline.latent_shape`."""
        channels, *sides = super().latent_shape(height, width)
        if self.vae is None:
            return channels, sides[0], sides[1]
        return self.vae.config.embed_dim, sides[0] // self.vae.factor, sides[1] // self.vae.factor

    def upsample(self, lq: Tensor) -> Tensor:
        """Return y's image: `lq` (B, 3, h, w) enlarged by the native scale, not clamped."""
        if self.native_scale == 1:
            return lq
        return bicubic(lq, scaled_size(lq.shape[-2], lq.shape[-1], self.native_scale), self.config.upsampling)

    def encode(self, image: Tensor) -> Tensor:
        """Return the float32 latents of images (B, 3, H, W) in [-1, 1]; the images themselves without autoencoder."""
        return image if self.vae is None else self.vae.encode(image.to(self.vae.dtype)).float()

    def decode(self, latents: Tensor, guidance: Guidance = UNGUIDED, lq: Tensor | None = None) -> Tensor:
        """Return the float32 images of float32 latents, not clamped. Codes are chosen before anything is rounded."""
        return latents if self.vae is None else self.vae.decode(latents).float()

    def refined(self, lq: Tensor, x0: Tensor) -> Tensor:
        """Return what the next step sees of `lq`: `psr_weight` of it is the image of the latents x0, reduced.

        Prediction-based self-refinement of AddSR (2404.01717), for students that were distilled with it. lq: (B, 3, h, w)
        in [-1, 1].
        """
        weight = self.config.psr_weight
        predicted = bicubic(self.decode(x0).clamp(-1, 1), (lq.shape[-2], lq.shape[-1]), "pil")
        return weight * predicted + (1 - weight) * lq

    def restore(
        self,
        lq: Tensor,
        noise: Noise,
        *,
        mask: Tensor | None,
        num_inference_steps: int,
        on_step: OnStep,
        guidance: Guidance = UNGUIDED,
    ) -> Tensor:
        """Algorithm 2 of ResShift: from y plus noise down to x_0; see `SRPipeline.restore`.

        The schedule's arithmetic is float32 whatever the networks' dtype. The last step uses no noise; where draws are
        in order it is drawn all the same: the reference does, and the next tile's draws follow. `guidance.fidelity`
        blends what the first step predicts, the posterior mean, with what the last one does.
        """
        y = self.encode(self.upsample(lq))
        self.scheduler.set_timesteps(num_inference_steps, device=y.device)
        dtype = self.unet.dtype
        guidance = guidance.to(y.device, dtype)
        conditions = self._looked_at(lq)
        if mask is not None:
            conditions["mask"] = (2 * mask - 1).to(dtype)
        embeddings = self.unet.embed(self.scheduler.timesteps, dtype)  # (steps, E), once for all
        x_t = self.scheduler.prior_sample(y, noise(0, y.shape))
        first = x0 = y  # the first prediction and the latest, until there is one
        for i, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:  # what is half noise is of no use: the last prediction is
                x_t = x0
                break
            if i > 0 and self.config.psr_weight:
                conditions |= self._looked_at(self.refined(lq, x0))
            model_input = self.scheduler.scale_model_input(x_t, t).to(dtype)
            embedding = embeddings[i : i + 1]
            denoise = partial(self.unet, model_input, t.expand(len(x_t)), embedding=embedding, **conditions)
            model_output = guided(denoise, guidance)
            # what is not looked at is not drawn: in the deterministic step, and in the last one
            unused = self.scheduler.config.deterministic or (i == num_inference_steps - 1 and not noise.in_order)
            step_noise = y if unused else noise(i + 1, x_t.shape)
            step = self.scheduler.step(model_output, t, x_t, y=y, noise=step_noise)
            x0 = step.pred_original_sample
            first = x0 if i == 0 else first
            x_t = on_step(i, t, step.prev_sample, x0)
        return x_t if num_inference_steps == 1 else dialled(first, x_t, guidance.fidelity)

    def _looked_at(self, lq: Tensor) -> dict[str, Tensor]:
        """Return the network's condition on a low-resolution image, with what it makes of that alone."""
        seen = {"lq": lq.to(self.unet.dtype)}
        return seen | {"prediction": self.unet.predict(seen["lq"])} if self.takes_fidelity else seen
