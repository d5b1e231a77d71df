"""`AddSRPipeline`: SeeSR distilled to four steps, each of which sees what the last one predicted.

AddSR (2404.01717; NJU-PCALab/AddSR pipelines/pipeline_addsr.py and test_addsr.py). Differences from the reference: the
weight of the self-refinement is an argument (its script has one and does not pass it on), fewer steps are a prefix of
the four, and large canvases are tiled as SeeSR's (the published branch for them cannot run).
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from resdiff.diffusion.gaussian import predict_x0
from resdiff.models.ram import RAM, tagger_input_bicubic
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.noise import Noise
from resdiff.pipelines.base import OnStep
from resdiff.pipelines.sampling import checked_scheduler
from resdiff.pipelines.seesr import SeeSRGuidance, SeeSRPipeline
from resdiff.pipelines.seesr_options import AddSROptions
from resdiff.schedulers.ddpm import DDPMScheduler
from resdiff.schedulers.named import scheduler_named
from resdiff.text.prompts import ADDSR_ADDED_PROMPT, NEGATIVE_PROMPT

TIMESTEPS = (999, 749, 499, 249)  # those it was distilled at


class AddSRPipeline(SeeSRPipeline):
    """AddSR; see the module docstring, `SRPipeline.__call__` and `AddSROptions`. Takes 1 to 4 steps."""

    options_type: ClassVar[type] = AddSROptions

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: SeeSRUNet,
        controlnet: SeeSRControlNet,
        scheduler: DDPMScheduler,
        tagger: RAM | None = None,
        num_inference_steps: int = 4,
        guidance_scale: float = 1.0,
        added_prompt: str = ADDSR_ADDED_PROMPT,
        negative_prompt: str = NEGATIVE_PROMPT,
        process_size: int = 512,
    ):
        super().__init__(
            vae,
            text_encoder,
            tokenizer,
            unet,
            controlnet,
            scheduler,
            tagger,
            num_inference_steps,
            guidance_scale,
            added_prompt,
            negative_prompt,
            process_size,
        )
        self.max_steps = len(TIMESTEPS)

    def sample(self, image: Tensor, noise: Noise, steps: int, on_step: OnStep, guidance: SeeSRGuidance) -> Tensor:
        """Return the latents for a condition (B, 3, H, W) in [0, 1]: x_0 is predicted, refined, noised again.

        From the second step on, the condition is psr_weight times the decoded prediction plus the rest of the LR image,
        and the image tokens are the tagger's of that condition; the text stays. At weight 0 the condition is the LR image
        and nothing is decoded on the way.
        """
        options = guidance.options
        scheduler = self.scheduler_of(options)
        timesteps = torch.tensor(TIMESTEPS[:steps], device=image.device)
        alphas_cumprod = scheduler.alphas_cumprod.to(image.device)
        x = x0 = self.begin(image, noise, scheduler, timesteps[:1], options)
        denoise = self.controlled(image, guidance)
        for i, t in enumerate(self.progress_bar(timesteps)):
            if self.interrupt:
                break
            if i > 0:
                x = scheduler.add_noise(x0, noise(i, x.shape), t[None])
                if options.psr_weight > 0 or i == 1:  # without a prediction in it, it is the same in all later steps
                    seen = self.refined(image, x0, guidance)
                    denoise = replace(denoise, networks=replace(denoise.networks, **seen))
            output = denoise(x, t, conditioning_scale=options.controlnet_conditioning_scale)
            x0 = predict_x0(output, x, alphas_cumprod[t], scheduler.config.prediction_type)
            x0 = on_step(i, t, x0, x0)
        return x0

    def scheduler_of(self, options: Any) -> DDPMScheduler:
        """Return DDPM with the noise levels of the pipeline's scheduler, whichever sampler that is: AddSR is its own."""
        return scheduler_named("ddpm", checked_scheduler(self.scheduler).config)

    def refined(self, image: Tensor, x0: Tensor, guidance: SeeSRGuidance) -> dict[str, Any]:
        """Return what the prediction x_0 makes of the denoiser's condition and, where there is a tagger, of its tokens."""
        weight, condition = guidance.options.psr_weight, image
        if weight > 0:
            predicted = self.decode(x0, guidance).clamp(-1, 1) / 2 + 0.5
            condition = weight * predicted + (1 - weight) * image
        if self.tagger is None:
            return {"image": condition}
        seen = tagger_input_bicubic(condition, self.tagger.config.image_res).to(self.tagger.dtype)
        return {"image": condition, "image_embeds": self.tagger(seen, with_logits=False).image_embeds}
