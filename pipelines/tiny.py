"""A Stable Diffusion 2 that is thousands of times too small, with random weights, for tests and demonstrations.

Blocks of the UNet have 64 channels and more: with 32, as in many toys, every group of the normalisation is one channel,
which hides the time embedding, and errors in it.
"""

from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from resdiff.diffusion.gaussian import PredictionType
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.ram import RAM
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.models.spade import SpadeModulation
from resdiff.models.time_aware_encoder import TimeAwareEncoder
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.stablesr import StableSRPipeline
from resdiff.schedulers.ddpm import DDPMScheduler
from resdiff.schedulers.spaced import SpacedDDPMScheduler
from resdiff.text.tokenizer import clip_tokenizer

WIDTH = 64  # of text embeddings
FUSED_WIDTHS = (16, 32, 32, 32)  # of an autoencoder whose inner levels are fused: their norm has 32 groups
STRUCTURE = 32  # channels of StableSR's features of the LR image
UNET: dict[str, Any] = {
    "block_out_channels": (64, 128),
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "layers_per_block": 1,
    "attention_head_dim": (2, 4),
    "cross_attention_dim": WIDTH,
    "use_linear_projection": True,
}
UP_BLOCKS = ("UpBlock2D", "CrossAttnUpBlock2D")
STD = 0.05  # of layers that begin at zero and would say nothing
CONDITION_STD = 0.2  # of the weights that embed the ControlNet's image, of which little would be left
TAGS = ("animal", "cat", "fur", "grass", "house", "sky", "tree", "water")
STEPS = 4  # by default, of all families
SIDE = 64  # px of the result from which the pipelines do not enlarge the image first

Adapter = TypeVar("Adapter", bound=SeeSRPipeline)


def tiny_stable_diffusion(seed: int = 0, widths: tuple[int, ...] = (16, 16, 32, 32)) -> dict[str, Any]:
    """Return the components of a tiny base: vae, text_encoder, tokenizer, scheduler; the same for the same seed.

    widths: of the autoencoder's levels.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            block_out_channels=widths,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=8,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                hidden_size=WIDTH,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=2,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=0,
            )
        )
    return {
        "vae": vae.eval(),
        "text_encoder": text_encoder.eval(),
        "tokenizer": clip_tokenizer(),
        "scheduler": sd2_scheduler(),
    }


def sd2_scheduler() -> DDPMScheduler:
    """Return DDPM with the noise levels of Stable Diffusion 2."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False
    )


def tiny_adapter(family: type[Adapter], seed: int = 0) -> Adapter:
    """Return a pipeline of SeeSR's kind, `SeeSRPipeline` or `AddSRPipeline`, around a tiny base."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        unet = SeeSRUNet(**UNET, up_block_types=UP_BLOCKS, use_image_cross_attention=True)
        controlnet = SeeSRControlNet(
            **UNET, conditioning_embedding_out_channels=(8, 8, 16, 16), use_image_cross_attention=True
        )
        tagger = RAM(
            image_res=32,
            embed_dim=16,
            depths=(2, 2),
            num_heads=(2, 4),
            window_size=4,
            hidden_size=32,
            intermediate_size=64,
            num_classes=len(TAGS),
            tags=list(TAGS),
            thresholds=[0.5] * len(TAGS),
        )
        wake(controlnet)
        for weight in controlnet.controlnet_cond_embedding.parameters():
            nn.init.normal_(weight, std=CONDITION_STD)
    networks = {"unet": unet.eval(), "controlnet": controlnet.eval(), "tagger": tagger.eval()}
    return family(**tiny_stable_diffusion(seed), **networks, num_inference_steps=STEPS, process_size=SIDE)


def tiny_stablesr(
    seed: int = 0, prediction_type: PredictionType = "epsilon", process_size: int = SIDE
) -> StableSRPipeline:
    """Return StableSR around a tiny base, with controllable feature wrapping."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        base = tiny_stable_diffusion(seed, FUSED_WIDTHS)
        networks = {
            "unet": UNet2DConditionModel(**UNET, up_block_types=UP_BLOCKS),
            "structure_encoder": TimeAwareEncoder(
                model_channels=STRUCTURE,
                out_channels=STRUCTURE,
                num_res_blocks=1,
                attention_resolutions=(2,),
                channel_mult=(1, 1),
                num_heads=2,
                prediction_type=prediction_type,
            ),
            "modulation": SpadeModulation(UNET["block_out_channels"], UNET["layers_per_block"], STRUCTURE),
            "cfw": ControllableFeatureWrapping.for_vae(base["vae"], num_fuse_block=1),
        }
    scheduler = SpacedDDPMScheduler(prediction_type=prediction_type)
    networks = {name: network.eval() for name, network in networks.items()}
    parts = base | networks | {"scheduler": scheduler}
    return StableSRPipeline(**parts, num_inference_steps=STEPS, process_size=process_size)


def wake(network: nn.Module) -> None:
    """Give the weights that are zero, as a new ControlNet's are, random values."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=STD)
