"""The full-size published files of SeeSR, AddSR and their base fit: every module filled, every name accounted for.

The manifests lie beside the checkout (../shared/conformance) or in $RESDIFF_CONFORMANCE: names and shapes, no numbers.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from resdiff.checkpoints.folders import build
from resdiff.checkpoints.io import CheckpointError, check_fit
from resdiff.checkpoints.ldm import current_names, left_over, part_of
from resdiff.checkpoints.ram import merge_lora, ram_config, ram_state
from resdiff.checkpoints.stable_diffusion import SD2_CONFIGS, text_encoder_from
from resdiff.models.ram import RAM
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet

CONFORMANCE = Path(os.environ.get("RESDIFF_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
NETWORKS = {
    "seesr/manifest_seesr_unet.json": ("unet", SeeSRUNet.from_config),
    "seesr/manifest_seesr_controlnet.json": ("controlnet", SeeSRControlNet.from_config),
    "addsr/manifest_addsr_unet.json": ("unet", SeeSRUNet.from_config),
    "addsr/manifest_addsr_controlnet.json": ("controlnet", SeeSRControlNet.from_config),
    "seesr/manifest_sd2_base_unet.json": ("unet", UNet2DConditionModel.from_config),
    "seesr/manifest_sd2_base_vae.json": ("vae", AutoencoderKL.from_config),
    "seesr/manifest_sd2_base_text_encoder.json": ("text_encoder", text_encoder_from),
}
# SD 2 in ldm's layout: StableSR's checkpoint holds it whole, besides its own modules.
SINGLE_FILE = "stablesr/manifest_stablesr_000117.json"
STABLESR_OWN = ("structcond_stage_model.", ".spade.")
BUILDERS = {
    "vae": AutoencoderKL.from_config,
    "text_encoder": text_encoder_from,
    "unet": UNet2DConditionModel.from_config,
}
PARAMETERS = {"vae": 83_653_863, "text_encoder": 340_387_840, "unet": 865_910_724}
POSITION_IDS = 77  # numbers of the text encoder's buffer that is not loaded


def manifest(name):
    path = CONFORMANCE / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


def meta(shapes):
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def count(model):
    return sum(tensor.numel() for tensor in model.state_dict().values())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_published_file_fills_its_network_and_nothing_is_left_over(name):
    published = manifest(name)
    part, make = NETWORKS[name]
    # AddSR's configuration was not recorded; its ControlNet is SeeSR's
    config = published["config"] or manifest("seesr/manifest_seesr_controlnet.json")["config"]
    model = build(make, config, Path(name))
    state = meta(published["params"])
    state = state if part == "controlnet" else current_names(state, part, config, name)
    check_fit(model, state, source=name)
    unused = POSITION_IDS if part == "text_encoder" else 0
    assert count(model) == published["total_params"] - unused
    if part == "unet" and "image_attentions" in " ".join(state):
        added = [x.numel() for key, x in state.items() if ".image_attentions." in key]
        assert (len(added), sum(added)) == (416, 260_849_600)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_name_that_is_missing_or_left_over_is_noticed(name):
    published = manifest(name)
    part, make = NETWORKS[name]
    config = published["config"] or manifest("seesr/manifest_seesr_controlnet.json")["config"]
    model = build(make, config, Path(name))
    state = meta(published["params"])
    last = list(state)[-1]
    for changed in ({k: x for k, x in state.items() if k != last}, state | {"align.weight": torch.empty(1)}):
        renamed = changed if part == "controlnet" else current_names(changed, part, config, name)
        with pytest.raises(CheckpointError, match=r"1 (missing|unexpected)"):
            check_fit(model, renamed, source=name)


@pytest.mark.parametrize("part", BUILDERS)
def test_the_base_in_a_single_file_fills_the_networks_of_stable_diffusion_2(part):
    shapes = {k: s for k, s in manifest(SINGLE_FILE)["params"].items() if not any(own in k for own in STABLESR_OWN)}
    file = meta(shapes)
    assert left_over(file) == []
    state = current_names(part_of(file, part), part, SD2_CONFIGS[part], SINGLE_FILE)
    model = build(BUILDERS[part], SD2_CONFIGS[part], Path(SINGLE_FILE))
    check_fit(model, state, source=SINGLE_FILE)
    assert count(model) == PARAMETERS[part]


def test_the_built_in_sizes_are_those_of_the_manifests():
    for part, config in SD2_CONFIGS.items():
        published = manifest(f"seesr/manifest_sd2_base_{part}.json")["config"]
        assert {key: published[key] for key in config} == config


def test_the_tagger_and_its_update_fill_ram():
    published = meta(manifest("seesr/manifest_ram_swin_large_14m.json")["params"])
    update = meta(manifest("seesr/manifest_DAPE.json")["params"])
    model = build(lambda config: RAM(**config), ram_config(published), Path("RAM"))
    check_fit(model, merge_lora(ram_state(published), update), source="RAM")
    assert count(model) == 212_117_045  # the specification's 215.0 million count Swin's buffers too, which are computed
