"""Tiny pipelines with random weights, one per kind of the family."""

import copy

import pytest
import torch

from resdiff.checkpoints.known import bundled_folder
from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.base import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.stablesr import StableSRPipeline
from resdiff.pipelines.tiny import tiny_adapter, tiny_stablesr
from resdiff.schedulers.resshift import ResShiftScheduler

WORDS = ("sharp", "soft")


def randomise(module: torch.nn.Module, std: float = 0.08) -> torch.nn.Module:
    """Give zero-initialised layers something to say."""
    for name, parameter in module.named_parameters():
        if name.endswith("weight") and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=std)
    return module.eval()


def pixel_pipeline() -> ResShiftPipeline:
    torch.manual_seed(0)
    unet = PixelUNet(channels=(8, 12), num_blocks=(1, 1), embed_dim=16)
    scheduler = ResShiftScheduler.from_pretrained(bundled_folder() / "scheduler")
    return quiet(ResShiftPipeline(randomise(unet), None, scheduler, padding_multiple=2, upsampling="pil"))


def worded_pipeline() -> ResShiftPipeline:
    """The bundled model's kind with words: WORDS are known, each with an effect of its own."""
    torch.manual_seed(1)
    unet = PixelUNet(channels=(8, 12), num_blocks=(1, 1), denoiser_blocks=(1,), embed_dim=16, prompt_dim=4)
    encoder = randomise(PromptEncoder(dim=4, width=6), std=0.5)
    torch.nn.init.zeros_(encoder.table.weight)
    for ids in tokenize(WORDS):
        torch.nn.init.normal_(encoder.table.weight.data[ids[0]])
    scheduler = ResShiftScheduler.from_pretrained(bundled_folder() / "scheduler")
    unet = randomise(unet, std=0.15)
    return quiet(ResShiftPipeline(unet, None, scheduler, encoder, padding_multiple=2, upsampling="pil"))


def latent_pipeline(scale: int = 4, mask: bool = False) -> ResShiftPipeline:
    torch.manual_seed(0)
    unet = SwinUNet(
        image_size=16,
        model_channels=32,
        num_res_blocks=(1,),
        channel_mult=(1,),
        attention_resolutions=(16,),
        num_head_channels=16,
        swin_embed_dim=32,
        window_size=4,
        mlp_ratio=2,
        lq_size=16 * 4 // scale,
        cond_mask=mask,
    )
    vae = VQAutoencoder(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, n_embed=4)  # few codes: ties are rare
    scheduler = ResShiftScheduler(num_train_timesteps=4, min_noise_level=0.2)
    return quiet(
        ResShiftPipeline(randomise(unet), randomise(vae), scheduler, scale=scale, padding_multiple=16 * 4 // scale)
    )


def quiet(pipe: SRPipeline) -> SRPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def pixel() -> ResShiftPipeline:
    """The bundled model's kind: pixels, no autoencoder."""
    return pixel_pipeline()


@pytest.fixture(scope="module")
def worded() -> ResShiftPipeline:
    """The bundled model's kind, with a text encoder that knows two words."""
    return worded_pipeline()


@pytest.fixture(scope="module")
def latent() -> ResShiftPipeline:
    """The published kind: Swin UNet in the latent space of a VQ autoencoder."""
    return latent_pipeline()


@pytest.fixture(scope="module")
def inpainting() -> ResShiftPipeline:
    """The published inpainting kind: x1, mask input."""
    return latent_pipeline(scale=1, mask=True)


@pytest.fixture(scope="module")
def seesr() -> SeeSRPipeline:
    """SeeSR around a tiny Stable Diffusion."""
    return quiet(tiny_adapter(SeeSRPipeline))


@pytest.fixture(scope="module")
def addsr() -> AddSRPipeline:
    """AddSR around a tiny Stable Diffusion."""
    return quiet(tiny_adapter(AddSRPipeline))


@pytest.fixture(scope="module")
def stablesr() -> StableSRPipeline:
    """StableSR around a tiny Stable Diffusion, with controllable feature wrapping."""
    return quiet(tiny_stablesr())


@pytest.fixture(params=["pixel", "latent", "seesr", "addsr", "stablesr"])
def pipe(request) -> SRPipeline:
    """Each family in turn, and each of its kinds."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["pixel", "latent"])
def residual(request) -> ResShiftPipeline:
    """Each kind of residual shifting in turn."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def own(pipe):
    """Each family, the test's own: hooks and recordings stay where they are put."""
    return quiet(copy.deepcopy(pipe))


@pytest.fixture
def own_residual(residual):
    """Each kind of residual shifting, the test's own."""
    return quiet(copy.deepcopy(residual))
