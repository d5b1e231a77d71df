"""What StableSR (2305.07015) adds to Stable Diffusion, built from its published files: encoder, modulation, CFW.

Sizes are deduced from shapes, see `resdiff.checkpoints.stablesr_layout`; the configurations of the base say the rest.
"""

from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from resdiff.checkpoints import stablesr_layout as layout
from resdiff.checkpoints.folders import build
from resdiff.checkpoints.io import CheckpointError, check_fit, read_shapes, read_state_dict
from resdiff.checkpoints.ldm import current_names
from resdiff.checkpoints.stable_diffusion import BUILDERS, Configs
from resdiff.models.cfw import ControllableFeatureWrapping, from_published
from resdiff.models.spade import SpadeModulation
from resdiff.models.time_aware_encoder import TimeAwareEncoder


class Filled(NamedTuple):
    """A network on the meta device and the weights that are meant for it."""

    network: Any
    state: dict[str, Tensor]
    source: Path


def check(filled: Filled) -> None:
    """Raise CheckpointError unless the weights fit the network."""
    check_fit(filled.network, filled.state, source=filled.source)


def added_networks(
    file: Path,
    cfw_file: Path | None,
    configs: Configs,  # of the base
    prediction_type: str,
    *,
    shapes_only: bool = False,  # the weights are on the meta device, too
) -> dict[str, Filled]:
    """Return "structure_encoder" and "modulation" and, from CFW's file, "cfw" and its "vae". Raises CheckpointError."""
    read = read_shapes if shapes_only else read_state_dict
    state = read(file)
    added = {
        "structure_encoder": encoder(state, prediction_type, file),
        "modulation": modulation(state, configs["unet"], file),
    }
    if cfw_file is not None:
        state = read(cfw_file)
        added["cfw"] = cfw(state, configs["vae"], cfw_file)
        added["vae"] = autoencoder(state, configs["vae"], cfw_file)
    return added


def encoder(state: layout.State, prediction_type: str, source: Path) -> Filled:
    """Return the time-aware encoder of a checkpoint."""
    own = layout.encoder_state(state)
    config = layout.encoder_config(own, source) | {"prediction_type": prediction_type}
    return Filled(build(TimeAwareEncoder.from_config, config, source), own, source)


def modulation(state: layout.State, unet: dict[str, Any], source: Path) -> Filled:
    """Return a checkpoint's modulation of a UNet of this configuration."""
    network = build(SpadeModulation.from_config, layout.modulation_config(state, unet, source), source)
    return Filled(network, layout.modulation_state(state, unet["layers_per_block"]), source)


def cfw(state: layout.State, vae: dict[str, Any], source: Path) -> Filled:
    """Return the fuse blocks of CFW's file, which are for the decoder of an autoencoder of this configuration."""
    own = layout.cfw_state(state)
    config = layout.cfw_config(own, source)
    if config["channels"] != (wanted := list(vae["block_out_channels"][1:-1])):
        raise CheckpointError(
            f"{source} is a CFW for features of {config['channels']} channels, and the autoencoder of the base has "
            f"{wanted}; give the CFW of this model"
        )
    return Filled(build(ControllableFeatureWrapping.from_config, config, source), from_published(own), source)


def autoencoder(state: layout.State, vae: dict[str, Any], source: Path) -> Filled:
    """Return the autoencoder of CFW's file, of this configuration."""
    own = current_names(layout.autoencoder_state(state), "vae", vae, source)
    return Filled(build(BUILDERS["vae"], vae, source), own, source)
