"""The full-size published files of StableSR fit: every module filled, every name accounted for and called as diffusers calls it.

The manifests lie beside the checkout (../shared/conformance) or in $RESDIFF_CONFORMANCE: names and shapes, no numbers.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

from resdiff.checkpoints import stable_diffusion, stablesr, stablesr_networks
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known_stablesr import STABLESR_MODELS
from resdiff.checkpoints.ldm import current_names
from resdiff.checkpoints.stable_diffusion import SD2_CONFIGS
from resdiff.checkpoints.stablesr import Inside, resolve
from resdiff.checkpoints.stablesr_layout import SPADE, encoder_config, encoder_state, modulation_state
from resdiff.checkpoints.stablesr_networks import autoencoder, cfw, check, encoder, modulation
from resdiff.models.cfw import ControllableFeatureWrapping
from resdiff.models.time_aware_encoder import TimeAwareEncoder

CONFORMANCE = Path(os.environ.get("RESDIFF_CONFORMANCE") or Path(__file__).parents[3] / "shared" / "conformance")
MANIFESTS = {
    "stablesr_000117.ckpt": "stablesr_000117",
    "stablesr_turbo.ckpt": "stablesr_turbo",
    "stablesr_768v_000139.ckpt": "stablesr_768v_000139",
    "face_stablesr_000050.ckpt": "face_stablesr_000050",
    "vqgan_cfw_00011.ckpt": "vqgan_cfw_00011",
    "face_vqgan_cfw_00011.ckpt": "face_vqgan_cfw_00011",
    "webui_768v_139.ckpt": "webui_adapter",
    "stablesr_webui_sd-v2-1-512-ema-000117.ckpt": "webui_adapter",
}
PARAMETERS = {"structure_encoder": 52_494_080, "modulation": 53_020_160, "cfw": 44_393_728, "vae": 83_653_863}
UNET, VAE, TEXT = (SD2_CONFIGS[part] for part in ("unet", "vae", "text_encoder"))


def recorded(name):
    path = CONFORMANCE / "stablesr" / name
    if not path.is_file():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


def shapes_of(file):
    """Return what `read_shapes` would of a published file; with the training loss, as far as it is known."""
    manifest = recorded(f"manifest_{MANIFESTS[file]}.json")
    names = manifest["params"] | manifest.get("optional_params", {})
    return {name: torch.empty(shape, device="meta") for name, shape in names.items()}


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Let every published name be a file; without files that could be found."""

    def read_shapes(path):
        name = Path(path).name
        if name in MANIFESTS:
            return shapes_of(name)
        whole = shapes_of("stablesr_000117.ckpt")  # the bases in a single file
        return {key: x for key, x in whole.items() if "structcond" not in key and SPADE not in key}

    for module in (stablesr, stable_diffusion, stablesr_networks):
        monkeypatch.setattr(module, "read_shapes", read_shapes)
    monkeypatch.setattr(stable_diffusion, "_locate", lambda where, *_: Path(where))
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path))


def count(network):
    return sum(tensor.numel() for tensor in network.state_dict().values())


@pytest.mark.parametrize("name", STABLESR_MODELS)
def test_every_published_model_resolves_from_its_files(published, name):
    known = STABLESR_MODELS[name]
    given = [known.weights.file, *(() if known.cfw is None else [known.cfw.file])]
    found = resolve(given)
    assert found.known is known and isinstance(found.base, Inside)
    assert found.prediction_type == ("v_prediction" if name in ("stablesr-768v", "stablesr-face") else "epsilon")
    networks = stablesr_networks.added_networks(
        found.file, found.cfw_file, found.base.configs, found.prediction_type, shapes_only=True
    )
    expected = PARAMETERS if known.cfw else {part: PARAMETERS[part] for part in ("structure_encoder", "modulation")}
    assert {part: count(filled.network) for part, filled in networks.items()} == expected


@pytest.mark.parametrize(
    ("file", "base"),
    [
        ("webui_768v_139.ckpt", "v2-1_768-ema-pruned.ckpt"),
        ("stablesr_webui_sd-v2-1-512-ema-000117.ckpt", "v2-1_512-ema-pruned.ckpt"),
    ],
)
def test_the_adapters_alone_resolve_with_their_bases(published, file, base):
    found = resolve([base, file])
    assert found.file == Path(file) and found.base.path == Path(base)


@pytest.mark.parametrize("file", MANIFESTS)
def test_a_name_that_is_missing_or_left_over_is_noticed(file):
    state = shapes_of(file)
    is_cfw = "cfw" in file
    last = [name for name in state if name.startswith("decoder.fusion" if is_cfw else "structcond")][-1]
    stray = f"{last.rpartition('.')[0]}.more"
    for changed in ({k: x for k, x in state.items() if k != last}, state | {stray: torch.empty(1, device="meta")}):
        filled = cfw(changed, VAE, file) if is_cfw else encoder(changed, "epsilon", file)
        with pytest.raises(CheckpointError, match=r"1 (missing|unexpected)"):
            check(filled)


def test_the_training_loss_of_cfws_file_is_left_out():
    state = shapes_of("vqgan_cfw_00011.ckpt")
    assert any(name.startswith("loss.perceptual_loss") for name in state)
    check(autoencoder(state, VAE, "vqgan_cfw_00011.ckpt"))


def test_the_sizes_that_are_deduced_are_the_published_ones():
    found = encoder_config(encoder_state(shapes_of("stablesr_000117.ckpt")), "file")
    with torch.device("meta"):
        defaults = TimeAwareEncoder().config
        fused = ControllableFeatureWrapping().config
    assert {key: list(x) if isinstance(x, tuple) else x for key, x in defaults.items() if key in found} == found
    state = shapes_of("vqgan_cfw_00011.ckpt")
    assert cfw(state, VAE, "file").network.config["channels"] == list(fused["channels"])


# --- names -----------------------------------------------------------------------------------------------------------


def numbered(names, like):
    """Return tensors of the shapes of `like`, each of one number that is its own, and names by numbers."""
    return {name: like(name, float(i)) for i, name in enumerate(names, 1)}, dict(enumerate(names, 1))


def test_the_unets_names_are_those_of_the_map():
    names = recorded("name_map_ldm_to_diffusers.json")["unet"]
    state, by_number = numbered(names, lambda _, number: torch.full((1,), number))
    bare = {name.removeprefix("model.diffusion_model."): x for name, x in state.items()}
    ours = current_names({name: x for name, x in bare.items() if SPADE not in name}, "unet", UNET, "map")
    ours |= modulation_state(state, UNET["layers_per_block"])
    assert len(ours) == 862
    assert {by_number[int(x)]: name for name, x in ours.items()} == names


def test_the_modulations_names_are_what_diffusers_makes_of_them():
    state = {name: x for name, x in shapes_of("stablesr_000117.ckpt").items() if ".diffusion_model." in name}
    theirs = convert_ldm_unet_checkpoint(dict(state), UNET)
    ours = modulation_state(state, UNET["layers_per_block"])
    assert ours.keys() == {name for name in theirs if SPADE in name} and len(ours) == 176
    check(modulation(state, UNET, Path("file")))


def test_the_autoencoders_names_are_those_of_the_map():
    names = recorded("name_map_ldm_to_diffusers.json")["vae"]

    def like(name, number):  # attention's weights lose two axes of length 1
        return torch.full((1, 1, 1, 1) if ".attn_1." in name and name.endswith("weight") else (1,), number)

    state, by_number = numbered(names, like)
    bare = {name.removeprefix("first_stage_model."): x for name, x in state.items()}
    ours = current_names(bare, "vae", VAE, "map")
    assert len(ours) == 248
    assert {by_number[int(x)]: name for name, x in ours.items()} == names


def test_the_text_encoders_names_are_those_of_the_map():
    recording = recorded("name_map_ldm_to_diffusers.json")
    names = [*recording["text_encoder"], *recording["text_encoder_dropped"]]

    def like(name, number):  # queries, keys and values, a third of the rows each
        if "in_proj" in name:
            return torch.full((3, 1) if name.endswith("weight") else (3,), number)
        return torch.full((1, 1) if name.endswith("text_projection") else (1,), number)

    state, by_number = numbered(names, like)
    bare = {name.removeprefix("cond_stage_model.model."): x for name, x in state.items()}
    ours = current_names(bare, "text_encoder", TEXT | {"hidden_size": 1}, "map")
    found = {}
    for name, x in ours.items():
        found.setdefault(by_number[int(x.flatten()[0])], []).append(f"text_model.{name}")
    expected = {k: v if isinstance(v, list) else [v] for k, v in recording["text_encoder"].items()}
    assert {k: sorted(v) for k, v in found.items()} == {k: sorted(v) for k, v in expected.items()}
    assert len(expected) == 280
