"""Conformance handlers of StableSR's chains: kinds stablesr/loop_ddpm, loop_ddim and pipeline.

The pipeline itself runs, faithful to the published quirks, given the recorded noise and embeddings.
"""

import json
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from case import Case, check_mids
from diffusers import AutoencoderKL
from safetensors import safe_open
from stablesr import build_encoder, build_unet, state_of
from stablesr_vae import build_autoencoder
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from resdiff.color import color_fix
from resdiff.diffusion.gaussian import ddim_step
from resdiff.losses.diffusion import gaussian_mse
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.pipelines.sampling import begun, chain_of
from resdiff.pipelines.stable_diffusion import POSTERIOR
from resdiff.pipelines.stablesr import StableSRPipeline
from resdiff.pipelines.stablesr_faithful import eight_bits
from resdiff.pipelines.stablesr_guidance import StableSRGuidance
from resdiff.pipelines.stablesr_options import StableSROptions
from resdiff.schedulers.spaced import SpacedDDPMScheduler
from resdiff.text.tokenizer import clip_tokenizer
from resdiff.tiling import Gaussian

MID_LIMIT = 1e-3  # of intermediate latents, relative to their scale
PREDICTS = {"eps": "epsilon", "v": "v_prediction"}
FIXES = {"adain": "adain", "wavelet": "wavelet", "nofix": "none", "none": "none"}


@dataclass(frozen=True)
class RecordedNoise:
    """The noise of a file as a `Noise`: the posterior's, the begin's, then that of each step."""

    in_order: ClassVar[bool] = True

    case: Case

    def __call__(self, draw: int, shape: torch.Size) -> Tensor:
        """Return what was drawn."""
        names = {POSTERIOR: "posterior_noise", 0: "x_T_noise"}
        return self.case.inputs[names.get(draw, f"noise_{draw - 1}")]

    def generators(self, draw: int) -> None:
        """Nothing else is random."""


def config_of(case: Case, name: str) -> dict[str, Any]:
    """Return the constructor arguments of one network: the case's own, or those in the file of its weights."""
    if isinstance(case.config.get(name), dict):
        return case.config[name]
    with safe_open(case.path.with_name(case.state_files[name][0]), framework="pt") as file:
        return json.loads(file.metadata()["config"])


def build(
    case: Case, vae: AutoencoderKL | None = None, cfw: ControllableFeatureWrapping | None = None
) -> StableSRPipeline:
    """Build the pipeline of a case; its text encoder is never asked, its autoencoder only where it is given."""
    unet, modulation = build_unet(config_of(case, "unet"), state_of(case, "unet"))
    predicts = PREDICTS[case.config["parameterization"]]
    encoder = build_encoder(config_of(case, "struct_encoder"), state_of(case, "struct_encoder"))
    encoder.register_to_config(prediction_type=predicts)
    width = unet.config.cross_attention_dim
    text = CLIPTextConfig(hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    pipe = StableSRPipeline(
        vae=AutoencoderKL() if vae is None else vae,
        text_encoder=CLIPTextModel(text),
        tokenizer=clip_tokenizer(),
        unet=unet,
        structure_encoder=encoder,
        modulation=modulation,
        scheduler=SpacedDDPMScheduler(
            beta_start=case.config.get("linear_start", 0.00085),
            beta_end=case.config.get("linear_end", 0.012),
            prediction_type=predicts,
        ),
        cfw=cfw,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guidance_of(case: Case, sampler: str, fidelity: float = 0.0) -> StableSRGuidance:
    """Return the recorded embeddings and options as what steers a chain."""
    config, text = case.config, case.inputs["context"]
    scale = config.get("cfg_scale")
    own = dict(config.get("reference") or {})
    names = {"reference_lr": "reference_lr", "reference_step": "reference_steps", "reference_range": "reference_range"}
    given = {names[key]: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
    if "reference_lr" in given:  # which the reference divides by the batch size
        given["reference_lr"] /= len(text)
    options = StableSROptions(
        faithful=True,
        scheduler=sampler,
        eta=config.get("eta", 0.0),
        start_point="noise" if config.get("x_T") == "noise" else "lr",
        **given,
    )
    tile = config.get("tile")
    return StableSRGuidance(
        prompt_embeds=text.split(1),
        negative_prompt_embeds=case.inputs["uncond_context"].split(1) if scale is not None else None,
        scale=1.0 if scale is None else scale,
        tiles=None if tile is None else Gaussian(*tile, published=True),
        tile_batch=1,
        options=options,
        fidelity=(fidelity,) * len(text),
        reference=None,
    )


def run_chain(case: Case, pipe: StableSRPipeline, sampler: str) -> dict[str, Tensor]:
    """Return x_T and the latents at the end; those on the way are compared."""
    given, config, guidance, noise = case.inputs, case.config, guidance_of(case, sampler), RecordedNoise(case)
    passed: dict[str, Tensor] = {}
    taken: list[int] = []

    def on_step(step: int, timestep: Tensor, latents: Tensor, x0: Tensor) -> Tensor:
        passed.update({f"x_after_step_{step}": latents, f"pred_x0_{step}": x0})
        taken.append(int(timestep))
        return latents

    z, steps = given["struct_latent"], config["steps"]
    chain = chain_of(pipe.scheduler_of(guidance.options), steps, guidance.options)
    x_t = begun(chain.scheduler, chain.first, noise(0, z.shape), None if config.get("x_T") == "noise" else z)
    sample = pipe.sample_from(z, noise, steps, on_step, guidance, given.get("reference_sr"))
    check_mids(case, passed, MID_LIMIT)
    expected = config.get("ori_timesteps") or config["model_timesteps"]
    if taken != expected[::-1]:
        raise ValueError(f"the chain takes the timesteps {taken}, recorded are {expected[::-1]}")
    return {"x_T": x_t, "sample": sample}


@torch.no_grad()
def loop_ddpm(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/loop_ddpm: the chain, and where it is recorded the training loss."""
    pipe = build(case)
    out = run_chain(case, pipe, "ddpm")
    if "train_loss" in case.expected:
        z, x0, noise, t = (case.inputs[name] for name in ("struct_latent", "train_z_gt", "train_noise", "train_t"))
        scheduler = pipe.scheduler
        x_t = scheduler.add_noise(x0, noise, t)
        guidance = guidance_of(case, "ddpm")
        with pipe.modulation.attached(pipe.unet):
            output = pipe.modulated(z, guidance)(x_t, t)
        alpha_bar = scheduler.alphas_cumprod[t][:, None, None, None]
        out["train_loss"] = gaussian_mse(output, x0, noise, alpha_bar, scheduler.config.prediction_type).mean()
    return out


@torch.no_grad()
def loop_ddim(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/loop_ddim: the chain and its tables, by ascending timestep."""
    pipe = build(case)
    out = run_chain(case, pipe, "ddim")
    guidance = guidance_of(case, "ddim")
    scheduler = chain_of(pipe.scheduler_of(guidance.options), case.config["steps"], guidance.options).scheduler
    alphas, before = scheduler.alpha_bars[1:], scheduler.alpha_bars[:-1]
    zeros = torch.zeros_like(alphas)
    _, variance = ddim_step(zeros, zeros, alphas, before, case.config["eta"])
    tables = {"ddim_alphas": alphas, "ddim_alphas_prev": before, "ddim_sigmas": variance.sqrt()}
    return out | {name: table.float() for name, table in tables.items()}


@torch.no_grad()
def pipeline(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/pipeline: from the enlarged image to 8 bits."""
    config, image = case.config, case.inputs["image"]
    own = replace(case, config=config_of(case, "autoencoder"), state=state_of(case, "autoencoder"))
    vae, cfw = build_autoencoder(own)
    vae.register_to_config(scaling_factor=config["scale_factor"])
    pipe, noise = build(case, vae, cfw), RecordedNoise(case)
    guidance = guidance_of(case, "ddpm", config["dec_w"])
    z = pipe.encode(image, noise, guidance.options)
    sample = pipe.sample(image, noise, config["steps"], lambda step, t, x, x0: x, guidance)
    decoded = pipe.decode_fused(sample, image, guidance)
    check_mids(case, {"struct_latent": z, "sample": sample, "decoded": decoded}, MID_LIMIT)
    result = color_fix(decoded, image, FIXES[config["colorfix"]])
    levels = (eight_bits(result) * 255).round().to(torch.uint8)
    if len(levels) == 1 and case.expected["result_u8"].ndim == 3:
        levels = levels[0]
    return {
        "result": result,
        "result_01": ((result + 1) / 2).clamp(0, 1),
        "result_u8": levels.movedim(-3, -1).contiguous(),
    }
