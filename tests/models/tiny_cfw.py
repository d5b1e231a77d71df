"""A tiny autoencoder and fuse blocks for it, in which every parameter matters."""

import torch
from diffusers import AutoencoderKL
from torch import nn

from resdiff.models.cfw import ControllableFeatureWrapping, ResidualDenseBlock
from resdiff.models.strips import Strips

CPU = torch.device("cpu")


def enliven(network):
    """Move norms and biases away from 1 and 0."""
    for layer in network.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.normal_(layer.weight, 1, 0.3)
        if getattr(layer, "bias", None) is not None:
            nn.init.normal_(layer.bias, 0, 0.3)
    return network.eval()


def tiny_cfw(channels=(64,), num_fuse_block=1, seed=0):
    torch.manual_seed(seed)
    cfw = ControllableFeatureWrapping(channels, num_fuse_block)
    for block in cfw.modules():
        if isinstance(block, ResidualDenseBlock):
            for conv in block.convs():
                nn.init.kaiming_normal_(conv.weight)  # ten times what is initialised: all of its reach counts
    return enliven(cfw)


def tiny_vae(widths=(16, 32, 64, 32), layers=1, seed=0, **options):
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=layers,
        norm_num_groups=8,
        down_block_types=["DownEncoderBlock2D"] * len(widths),
        up_block_types=["UpDecoderBlock2D"] * len(widths),
        **options,
    )
    return enliven(vae)


def tiny_pair(widths=(16, 32, 64, 32), num_fuse_block=1, **options):
    """Return an autoencoder and fuse blocks of its sizes."""
    return tiny_vae(widths, **options), tiny_cfw(widths[1:-1], num_fuse_block)


def in_strips(x, rows):
    strips = Strips()
    for part in x.split(rows, dim=2):
        strips.append(part, CPU)
    return strips


def relative_error(ours, theirs):
    return float((ours - theirs).abs().max() / theirs.abs().max())
