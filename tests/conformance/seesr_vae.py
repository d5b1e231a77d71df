"""Conformance handler of the tiled VAE: kind seesr/tiled_vae."""

import torch
from case import Case, check_mids
from diffusers import AutoencoderKL
from torch import Tensor

from resdiff.models.vae_hook import DECODER_PAD, ENCODER_PAD, Tile, decode_hooked, encode_hooked, tile_layout


def boxes(name: str, layout: list[Tile]) -> dict[str, Tensor]:
    """The recorded boxes of a layout, [x1, x2, y1, y2] each."""
    return {
        f"{name}_in_bboxes": torch.tensor([tile.source for tile in layout]),
        f"{name}_out_bboxes": torch.tensor([tile.target for tile in layout]),
    }


def tiled_vae(case: Case) -> dict[str, Tensor]:
    """Encoder and decoder in tiles, with shared and with fast statistics, and untiled."""
    vae = AutoencoderKL(**case.config["vae"]).eval()
    vae.load_state_dict(case.state)
    image, z = case.inputs["image"], case.inputs["latent"]
    image_tile, latent_tile = case.config["encoder_tile_size"], case.config["decoder_tile_size"]
    factor = 2 ** (len(case.config["vae"]["block_out_channels"]) - 1)
    check_mids(
        case,
        boxes("enc", tile_layout(*image.shape[-2:], image_tile, ENCODER_PAD, down=factor))
        | boxes("dec", tile_layout(*z.shape[-2:], latent_tile, DECODER_PAD, up=factor)),
        0.0,
    )
    with torch.no_grad():
        out = {
            "enc_exact": encode_hooked(vae, image, image_tile),
            "enc_fast": encode_hooked(vae, image, image_tile, fast=True),
            "enc_untiled": vae.encoder(image),
            "dec_exact": decode_hooked(vae, z, latent_tile),
            "dec_fast": decode_hooked(vae, z, latent_tile, fast=True),
            "dec_untiled": vae.decoder(z),
        }
    return {name: out[name] for name in case.expected}
