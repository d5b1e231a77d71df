"""Conformance handlers of controllable feature wrapping: kinds stablesr/cfw_block and stablesr/autoencoder_cfw.

What is recorded is compared with our untiled functions; those in bands must agree with these.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from case import Case, check_mids
from diffusers import AutoencoderKL
from torch import Tensor

from resdiff.checkpoints.ldm import current_names
from resdiff.models.cfw import ControllableFeatureWrapping, from_published
from resdiff.models.cfw_bands import fuse_in_bands
from resdiff.models.strips import Bands, Strips
from resdiff.models.vae_features import decode_fused, decode_fused_in_bands, encoder_features, encoder_features_in_bands

LIMIT = 1e-4  # of intermediate results, and between bands and untiled, relative to their scale
ROWS = 3  # of a band: fewer than the canvas of any case has, and than a dense block reaches
CPU = torch.device("cpu")
FUSION = "decoder.fusion_layer_"


def weights_in(case: Case, name: str) -> dict[str, float]:
    """Return the recorded outputs called `<name><w>` with their w."""
    return {key: float(m[1]) for key in case.expected if (m := re.fullmatch(rf"{name}([\d.]+)", key))}


def strips(x: Tensor) -> Strips:
    """Return an activation as a layer in bands leaves it."""
    out = Strips()
    for part in x.split(ROWS, dim=2):
        out.append(part, CPU)
    return out


def check_bands(ours: Mapping[str, Tensor], untiled: Mapping[str, Tensor]) -> None:
    """Raise ValueError, which fails the case, where bands give another result."""
    for name, x in untiled.items():
        error = float((ours[name] - x).abs().max() / x.abs().max())
        if not error < LIMIT:
            raise ValueError(f"{name} in bands: error {error:.2e}")


@torch.no_grad()
def cfw_block(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/cfw_block: one fuse block, h + w C(features, h) for every w."""
    channels = case.config["in_ch"]
    cfw = ControllableFeatureWrapping((channels,), case.config["num_block"]).eval()
    block = cfw.fusion_layer(1)
    block.load_state_dict(from_published(case.state))
    features, h = case.inputs["enc_feat"], case.inputs["dec_feat"]
    first = block.encode_enc_1(torch.cat([features, h], dim=1), None)
    middle = block.encode_enc_2(first)
    steps = {"encode_enc_1": first, "encode_enc_2": middle, "encode_enc_3": block.encode_enc_3(middle, None)}
    check_mids(case, steps, LIMIT)

    def in_bands(w: float) -> Tensor:
        y = fuse_in_bands(cfw, strips(features), strips(h), 1, torch.tensor(w), Bands(ROWS, CPU, CPU))
        return y.window(0, y.height, CPU)

    weights = weights_in(case, "y_w")
    c = cfw(features, h, 1)
    out = {name: h + w * c for name, w in weights.items()}
    check_bands({name: in_bands(w) for name, w in weights.items()}, out)
    return out


def vae_config(ddconfig: Mapping[str, Any]) -> dict[str, Any]:
    """Return diffusers' config of an autoencoder from ldm's."""
    widths = [ddconfig["ch"] * factor for factor in ddconfig["ch_mult"]]
    return {
        "in_channels": ddconfig["in_channels"],
        "out_channels": ddconfig["out_ch"],
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": ddconfig["num_res_blocks"],
        "latent_channels": ddconfig["z_channels"],
    }


def build_autoencoder(case: Case) -> tuple[AutoencoderKL, ControllableFeatureWrapping]:
    """Build the autoencoder of a case and its fuse blocks."""
    config = vae_config(case.config["ddconfig"])
    vae = AutoencoderKL(**config).eval()
    fusion = {k.removeprefix("decoder."): x for k, x in case.state.items() if k.startswith(FUSION)}
    state = {k: x for k, x in case.state.items() if not k.startswith(FUSION)}
    vae.load_state_dict(current_names(state, "vae", vae.config, case.path))
    cfw = ControllableFeatureWrapping.for_vae(vae, case.config["ddconfig"].get("num_fuse_block", 2)).eval()
    cfw.load_state_dict(from_published(fusion))
    return vae, cfw


@torch.no_grad()
def autoencoder_cfw(case: Case) -> dict[str, Tensor]:
    """Kind stablesr/autoencoder_cfw: posterior, features, and latents decoded with every w."""
    vae, cfw = build_autoencoder(case)
    image, z = case.inputs["image"], case.inputs["latent_unscaled"]
    posterior = vae.encode(image).latent_dist
    features = encoder_features(vae, image, cfw.levels)
    check_mids(case, {f"enc_fea_{level - 1}": x for level, x in features.items()}, LIMIT)
    weights = {name: torch.full((len(z),), w) for name, w in weights_in(case, "dec_w").items()}

    def in_bands(w: Tensor) -> Tensor:
        return decode_fused_in_bands(vae, cfw, z, encoder_features_in_bands(vae, image, cfw.levels, ROWS), w, ROWS)

    decoded = {name: decode_fused(vae, cfw, z, features, w) for name, w in weights.items()}
    check_bands({name: in_bands(w) for name, w in weights.items()}, decoded)
    sample = posterior.mean + posterior.std * case.inputs["posterior_noise"]
    return {"moments": posterior.parameters, "sample": sample, **decoded}
