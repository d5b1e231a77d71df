"""The sizes of the published networks, and whether a file has exactly their names and shapes.

Where a file only has to be some network of the family, its sizes are deduced instead (`resdiff.checkpoints.shapes`).
Sources: configs/ of zsyOAOA/ResShift (2307.12348, 2403.07319) and wyf0912/SinSR (2311.14760).
"""

from pathlib import Path
from typing import Any

from accelerate import init_empty_weights

from resdiff.checkpoints.io import check_fit, read_shapes
from resdiff.checkpoints.known import KnownAutoencoder, KnownModel
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder

COMPUTED = ("*.relative_position_index", "*.attn_mask")  # buffers of the reference that ours computes
TRAINING_LOSS = ("loss.*",)  # discriminator and perceptual network that VQGAN's trainer saves with the autoencoder

# What all published networks share; they differ in what comes in and goes out.
SWIN_UNET: dict[str, Any] = {
    "image_size": 64,
    "model_channels": 160,
    "num_res_blocks": (2, 2, 2, 2),
    "attention_resolutions": (64, 32, 16, 8),
    "channel_mult": (1, 2, 2, 4),
    "num_head_channels": 32,
    "swin_depth": 2,
    "swin_embed_dim": 192,
    "window_size": 8,
    "mlp_ratio": 4.0,
}


def arguments(published: KnownModel | KnownAutoencoder) -> dict[str, Any]:
    """Return the constructor arguments of the published `SwinUNet` or `VQAutoencoder`."""
    if isinstance(published, KnownAutoencoder):
        return {
            "ch": published.ch,
            "ch_mult": published.ch_mult,
            "num_res_blocks": published.num_res_blocks,
            "z_channels": published.latent_channels,
            "embed_dim": published.latent_channels,
            "n_embed": published.n_embed,
        }
    channels = published.autoencoder.latent_channels
    sinsr = published.condition == "sinsr"  # the LR image comes with x and is counted among its channels
    return SWIN_UNET | {
        "in_channels": channels + 3 if sinsr else channels,
        "out_channels": channels,
        "lq_size": None if sinsr else SWIN_UNET["image_size"] * published.lq_factor,
        "cond_mask": published.cond_mask,
    }


def check_layout(published: KnownModel | KnownAutoencoder, file: str | Path) -> None:
    """Raise CheckpointError, one line, unless `file` has every name and shape of the published network and no others."""
    is_autoencoder = isinstance(published, KnownAutoencoder)
    with init_empty_weights():
        network = VQAutoencoder(**arguments(published)) if is_autoencoder else SwinUNet(**arguments(published))
    check_fit(network, read_shapes(file), TRAINING_LOSS if is_autoencoder else COMPUTED, file)
