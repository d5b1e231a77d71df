"""Conformance handlers of SeeSR: kinds seesr/unet, controlnet, loop, tile_blend and gaussian_weights; addsr/student_loop.

The pipelines themselves run, given the recorded noise and embeddings.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from case import Case, check_mids
from diffusers import AutoencoderKL
from sampling import part
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from resdiff.models.ram import RAMOutput
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.autoencoding import VaeTiles
from resdiff.pipelines.seesr import SeeSRGuidance, SeeSRPipeline
from resdiff.pipelines.seesr_options import AddSROptions, SeeSROptions
from resdiff.pipelines.stable_diffusion import POSTERIOR
from resdiff.schedulers.ddpm import DDPMScheduler
from resdiff.text.tokenizer import clip_tokenizer
from resdiff.tiling import Box, Gaussian, tiled

RESIDUALS = "down_block_additional_residuals", "mid_block_additional_residual"
MID_LIMIT = 2e-4  # of intermediate results, relative to their scale


def load(network: nn.Module, state: dict[str, Tensor]) -> Any:
    """Load `state` strictly and switch to eval mode."""
    network.load_state_dict(state)
    return network.eval()


def numbered(tensors: dict[str, Tensor], name: str) -> list[Tensor]:
    """Return the tensors called `<name>_<number>`, in the order of their numbers."""
    found = {int(m[1]): x for key, x in tensors.items() if (m := re.fullmatch(rf"{name}_(\d+)", key))}
    return [found[number] for number in sorted(found)]


@torch.no_grad()
def unet(case: Case) -> dict[str, Tensor]:
    """Kind seesr/unet: one prediction, with the ControlNet's residuals where the file has them."""
    given = case.inputs
    network = load(SeeSRUNet(**case.config), case.state)
    residuals = dict(zip(RESIDUALS, (numbered(given, "down_residual") or None, given.get("mid_residual")), strict=True))
    out = network(
        given["sample"],
        given["timestep"],
        given["encoder_hidden_states"],
        image_encoder_hidden_states=given.get("image_encoder_hidden_states"),
        **residuals,
    )
    return {"sample": out.sample}


@torch.no_grad()
def controlnet(case: Case) -> dict[str, Tensor]:
    """Kind seesr/controlnet: all residuals, the same from the image and from its embedding."""
    given, config = case.inputs, dict(case.config)
    call = config.pop("_call", {})
    network = load(SeeSRControlNet(**config), case.state)
    embedded = network.embed_condition(given["controlnet_cond"])
    check_mids(case, {"cond_embedding": embedded}, MID_LIMIT)
    conditions = given["controlnet_cond"], embedded
    first, again = (
        network(
            given["sample"],
            given["timestep"],
            given["encoder_hidden_states"],
            condition,
            image_encoder_hidden_states=given.get("image_encoder_hidden_states"),
            **call,
        )
        for condition in conditions
    )
    if not torch.equal(first.mid_block_res_sample, again.mid_block_res_sample):
        raise ValueError("the embedded condition gives another result than the image")
    down = {f"down_{i}": x for i, x in enumerate(first.down_block_res_samples)}
    return down | {"mid": first.mid_block_res_sample}


def gaussian_weights(case: Case) -> dict[str, Tensor]:
    """Kind seesr/gaussian_weights: `w<side>` and `w_width<w>_height<h>`, rows are y."""
    out = {}
    for name in case.expected:
        if m := re.fullmatch(r"w(\d+)", name):
            out[name] = weights(int(m[1]), int(m[1]))
        elif m := re.fullmatch(r"w_width(\d+)_height(\d+)", name):
            out[name] = weights(int(m[2]), int(m[1]))
    return out


def weights(height: int, width: int) -> Tensor:
    """Return the weights of a tile, (height, width) float64."""
    tiling = Gaussian(max(height, width), 0, published=True)
    rows, columns = (tiling.weights(length, True, True, 1, along) for length, along in ((height, True), (width, False)))
    return rows[:, None] * columns


def tile_blend(case: Case) -> dict[str, Tensor]:
    """Kind seesr/tile_blend: recorded tiles, which lie where ours do, blended. Tiles are in order of x, then of y."""
    height, width = case.config["h"], case.config["w"]
    tiling = Gaussian(case.config["latent_tiled_size"], case.config["latent_tiled_overlap"], published=True)
    tiling = tiling.on(height, width)
    canvas, places = torch.zeros(1, 1, height, width), []

    def tile_at(tiles: Tensor, boxes: list[Box]) -> Tensor:
        places.extend(boxes)
        return tiles

    tiled(tile_at, canvas, tiling)
    order = sorted(places, key=lambda box: (box.left, box.top))
    check_mids(case, {"tile_pos_yxhw": torch.tensor([[b.top, b.left, b.height, b.width] for b in order])}, 0.0)
    by_place = dict(zip(order, numbered(case.inputs, "tile"), strict=True))
    blended = tiled(lambda tiles, boxes: torch.cat([by_place[box] for box in boxes]), canvas, tiling)
    return {"blended": blended, "weights": weights(tiling.size, tiling.size)}


@dataclass(frozen=True)
class RecordedNoise:
    """The noise of a file as a `Noise`: the posterior's, the begin's, then that of each step."""

    in_order: ClassVar[bool] = True

    case: Case

    def __call__(self, draw: int, shape: torch.Size) -> Tensor:
        """Return what was drawn; the posterior's is drawn for both branches of the guidance, and the first is used."""
        names = {POSTERIOR: "vae_sample_noise", 0: "latents_noise"}
        return self.case.inputs[names.get(draw, f"noise_{draw - 1}")][: shape[0]]

    def generators(self, draw: int) -> None:
        """Nothing else is random."""


def build(family: type[SeeSRPipeline], case: Case) -> SeeSRPipeline:
    """Build the pipeline of a case; its text encoder is never asked."""
    config = case.config
    scheduler = {k: v for k, v in config["scheduler"].items() if k != "_class"}
    if config["scheduler"].get("_class", "DDPMScheduler") != "DDPMScheduler":
        raise ValueError(f"scheduler is {config['scheduler']['_class']}; the published pipelines use DDPM")
    width = config["unet"]["cross_attention_dim"]
    text = CLIPTextConfig(hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    pipe = family(
        vae=load(AutoencoderKL(**config["vae"]), part(case.state, "vae")),
        text_encoder=CLIPTextModel(text),
        tokenizer=clip_tokenizer(),
        unet=load(SeeSRUNet(**config["unet"]), part(case.state, "unet")),
        controlnet=load(SeeSRControlNet(**config["controlnet"]), part(case.state, "controlnet")),
        scheduler=DDPMScheduler(**scheduler),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def guidance_of(case: Case, scale: float, options: Any, tiles: Gaussian | None = None) -> SeeSRGuidance:
    """Return the recorded embeddings as what steers a chain."""
    given = case.inputs
    negative = given["negative_prompt_embeds"].split(1) if scale > 1 else None
    return SeeSRGuidance(
        prompt_embeds=given["prompt_embeds"].split(1),
        negative_prompt_embeds=negative,
        image_embeds=given["ram_embeds"].split(1),
        scale=scale,
        tiles=tiles,
        tile_batch=1,
        options=options,
    )


@torch.no_grad()
def loop(case: Case) -> dict[str, Tensor]:
    """Kind seesr/loop: from the upscaled LR image to latents and image."""
    call = case.config["call"]
    tiles = VaeTiles(*call["vae_tiles"]) if call.get("vae_tiles") else "off"
    options = SeeSROptions(
        controlnet_conditioning_scale=call["conditioning_scale"],
        start_point=call["start_point"],
        start_steps=call.get("start_steps", 999),
        vae_tiling=tiles,
    )
    tiling = Gaussian(call["latent_tiled_size"], call["latent_tiled_overlap"], published=True)
    guidance = guidance_of(case, call["guidance_scale"], options, tiling)
    pipe = build(SeeSRPipeline, case)
    passed: dict[str, Tensor] = {}
    timesteps: list[int] = []

    def on_step(step: int, timestep: Tensor, latents: Tensor, x0: Tensor) -> Tensor:
        passed[f"latents_out_{step}"] = latents
        timesteps.append(int(timestep))
        return latents

    latents = pipe.sample(case.inputs["image"], RecordedNoise(case), call["num_inference_steps"], on_step, guidance)
    check_mids(case, passed | {"timesteps": torch.tensor(timesteps)}, MID_LIMIT)
    image = (pipe.decode(latents, guidance) / 2 + 0.5).clamp(0, 1)
    return {"latents": latents, "image": image}


class StubTagger(nn.Module):
    """The stand-in for RAM in AddSR's files: a linear map of the image's mean and of its means over 3 x 3 fields."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.proj = nn.Linear(*state["proj.weight"].shape[::-1])
        self.load_state_dict(state)
        self.seen: list[Tensor] = []
        self.dtype, self.config = torch.float32, type("Config", (), {"image_res": 384})

    def forward(self, images: Tensor, with_logits: bool) -> RAMOutput:
        """Return (B, 10, 512)."""
        fields = nn.functional.adaptive_avg_pool2d(images, 3).flatten(2).mT
        self.seen.append(self.proj(torch.cat([images.mean(dim=(2, 3))[:, None], fields], dim=1)))
        return RAMOutput(image_embeds=self.seen[-1], logits=None)


@torch.no_grad()
def student_loop(case: Case) -> dict[str, Tensor]:
    """Kind addsr/student_loop: the self-refining chain."""
    call = case.config["call"]
    options = AddSROptions(
        psr_weight=call["PSR_weight"],
        controlnet_conditioning_scale=call["conditioning_scale"],
        start_point=call["start_point"],
        vae_tiling="off",
    )
    pipe = build(AddSRPipeline, case)
    pipe.tagger = StubTagger(part(case.state, "ram_stub"))
    guidance = guidance_of(case, call["guidance_scale"], options)
    passed: dict[str, Tensor] = {}

    def on_step(step: int, timestep: Tensor, latents: Tensor, x0: Tensor) -> Tensor:
        passed[f"z0_{step}"] = x0
        if int(timestep) != call["timesteps"][step]:
            raise ValueError(f"step {step} is at {int(timestep)}, recorded {call['timesteps'][step]}")
        return latents

    z0 = pipe.sample(case.inputs["image"], RecordedNoise(case), len(call["timesteps"]), on_step, guidance)
    tokens = {f"ram_embeds_{i + 1}": x for i, x in enumerate(pipe.tagger.seen)}
    check_mids(case, passed | tokens, MID_LIMIT)
    return {"z0": z0, "image": (pipe.decode(z0, guidance) / 2 + 0.5).clamp(0, 1)}
