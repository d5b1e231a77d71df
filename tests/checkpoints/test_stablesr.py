"""StableSR's files are told apart, completed and loaded number by number, and what does not go together is refused."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))  # the layouts are a module beside this file, not a package

from sd_layouts import ldm_file, prefixed, single_file
from stablesr_layouts import (
    CFW,
    CONFIGS,
    ENCODER,
    adapter,
    cfw,
    diffusers_folder,
    lightning_file,
    random_networks,
    states_of,
    whole,
)

from resdiff.checkpoints import stablesr
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known_stablesr import STABLESR_MODELS
from resdiff.checkpoints.stablesr import Inside, load
from resdiff.schedulers.spaced import SpacedDDPMScheduler

OWN = ("vae", "text_encoder", "unet", "structure_encoder", "modulation")


@pytest.fixture(scope="module")
def networks():
    return random_networks(0)


@pytest.fixture(scope="module")
def states(networks):
    return states_of(networks)


@pytest.fixture(scope="module")
def other():
    """Other networks of the same sizes."""
    return random_networks(1)


@pytest.fixture(scope="module")
def files(states, networks, other, tmp_path_factory):
    """Published files, in folders of their own so that none is beside another; not to be changed."""
    folder = tmp_path_factory.mktemp("files")

    def place(name):
        (folder / name).mkdir()
        return folder / name

    lightning_file(place("whole") / "stablesr_000117.ckpt", whole(states))
    torch.save(adapter(states), place("adapter") / "stablesr_webui_sd-v2-1-512-ema-000117.ckpt")
    torch.save(adapter(states), place("adapter-v") / "webui_768v_139.ckpt")
    lightning_file(place("cfw") / "vqgan_cfw_00011.ckpt", cfw(states_of(other)))
    diffusers_folder(place("base"), other)
    diffusers_folder(place("base-v"), other, prediction_type="v_prediction")
    return {path.name: next(path.iterdir()) if path.name[0] != "b" else path for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def resolve(*given, **options):
    return stablesr.resolve(given, options.pop("known_as", None), configs=CONFIGS, **options)


def refused(match, *given, **options):
    with pytest.raises(ValueError, match=match) as caught:
        resolve(*given, **options)
    assert "\n" not in str(caught.value)


def renamed(file, name, tmp_path):
    return shutil.copy(file, tmp_path / name)


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def assert_loaded(parts, states, names=OWN):
    for name in names:
        assert same(parts[name].state_dict(), states[name]), name
        assert not parts[name].training


# --- what is loaded ------------------------------------------------------------------------------------------------


def test_a_whole_checkpoint_gives_the_numbers_of_all_its_parts(files, states):
    published = resolve(files["whole"])
    assert (published.known.name, published.prediction_type, published.cfw_file) == ("stablesr", "epsilon", None)
    assert isinstance(published.base, Inside) and published.base.path == files["whole"]
    parts = load(published)
    assert_loaded(parts, states)
    assert parts["cfw"] is None and len(parts["tokenizer"]) == 49408
    assert parts["structure_encoder"].config.prediction_type == "epsilon"
    assert parts["structure_encoder"].config.num_heads == 4


def test_an_adapter_alone_takes_the_rest_from_its_base(files, states, other):
    parts = load(resolve(files["adapter"], base=files["base"]))
    assert_loaded(parts, states, ("structure_encoder", "modulation"))
    assert_loaded(parts, states_of(other), ("vae", "text_encoder", "unet"))


def test_a_base_beside_a_whole_checkpoint_takes_the_place_of_its_own(files, states, other):
    parts = load(resolve(files["whole"], files["base"]))
    assert_loaded(parts, states, ("structure_encoder", "modulation"))
    assert_loaded(parts, states_of(other), ("vae", "text_encoder", "unet"))


def test_the_base_may_be_a_single_file(files, states, other, tmp_path):
    inside = {part: state for part, state in states_of(other).items() if part in ("vae", "text_encoder", "unet")}
    base = single_file(tmp_path / "v2.safetensors", ldm_file(inside))
    assert_loaded(load(resolve(base, files["adapter"])), states_of(other), ("vae", "text_encoder", "unet"))


def test_cfw_comes_with_the_autoencoder_that_it_was_trained_around(files, states, other):
    for given in ([files["whole"], files["cfw"]], [files["cfw"], files["whole"]]):
        parts = load(resolve(*given))
        assert_loaded(parts, states, ("text_encoder", "unet", "structure_encoder", "modulation"))
        assert_loaded(parts, states_of(other), ("vae", "cfw"))
        assert {key: parts["cfw"].config[key] for key in CFW} == CFW
    assert resolve(files["whole"], cfw_file=files["cfw"]).cfw_file == files["cfw"]


def test_cfw_is_found_beside_the_checkpoint_and_in_the_cache(files, empty_cache, tmp_path):
    file = renamed(files["whole"], "stablesr_000117.ckpt", tmp_path)
    empty_cache.mkdir()
    in_cache = renamed(files["cfw"], "vqgan_finetune_00011.ckpt", empty_cache)
    assert resolve(file).cfw_file == Path(in_cache)
    beside = renamed(files["cfw"], "vqgan_cfw_00011.ckpt", tmp_path)
    assert resolve(file).cfw_file == Path(beside)
    v = renamed(files["whole"], "stablesr_768v_000139.ckpt", tmp_path)
    assert resolve(v).cfw_file is None  # for which none was trained
    assert resolve(v, cfw_file=beside).cfw_file == Path(beside)


def test_without_cfw_the_log_says_how_to_get_it(files, caplog):
    load(resolve(files["whole"]))
    (said,) = (message for message in caplog.messages if "CFW" in message)
    assert "resolve/main/vqgan_cfw_00011.ckpt" in said and "\n" not in said
    caplog.clear()
    load(resolve(files["adapter-v"], base=files["base-v"]))
    assert not [message for message in caplog.messages if "CFW" in message]


def test_what_the_network_predicts_is_the_known_models_or_as_said(files, tmp_path):
    parts = load(resolve(files["adapter-v"], base=files["base-v"]))
    assert parts["structure_encoder"].config.prediction_type == "v_prediction"
    assert parts["scheduler"].config.prediction_type == "v_prediction"
    face = renamed(files["whole"], "face_stablesr_000050.ckpt", tmp_path)
    assert resolve(face).prediction_type == "v_prediction"
    parts = load(resolve(face, prediction_type="epsilon"))
    assert parts["structure_encoder"].config.prediction_type == "epsilon"
    assert parts["scheduler"].config.prediction_type == "epsilon"
    refused("prediction_type is 'v'; choose one of epsilon, v_prediction", face, prediction_type="v")


def test_the_sampler_has_the_noise_levels_of_the_base(files, other, tmp_path):
    for base in (files["base"], diffusers_folder(tmp_path / "base", other, beta_end=0.02)):
        scheduler = load(resolve(files["adapter"], base=base))["scheduler"]
        assert type(scheduler) is SpacedDDPMScheduler and scheduler.config.beta_start == 0.00085
        assert scheduler.config.beta_end == (0.012 if base == files["base"] else 0.02)


def test_every_network_has_the_dtype_asked_for(files):
    parts = load(resolve(files["whole"], files["cfw"]), torch.float16)
    for name in (*OWN, "cfw"):
        assert {x.dtype for x in parts[name].state_dict().values()} == {torch.float16}, name


@pytest.mark.parametrize("name", ["stablesr_000117.safetensors", "stablesr_000117.ckpt"])
def test_files_without_a_wrapper_are_read_too(states, tmp_path, name):
    write = save_file if name.endswith("safetensors") else torch.save
    write(whole(states), tmp_path / name)
    assert_loaded(load(resolve(tmp_path / name)), states)


def test_licences_are_those_of_adapter_and_base(files, caplog):
    published = resolve(files["whole"], files["cfw"])
    assert [part.name for part in published.licensed] == ["stablesr", "stable-diffusion-2-1-base"]
    for _ in range(2):
        load(published)
    assert sum("publisher's licence" in message for message in caplog.messages) == 2


# --- which model ---------------------------------------------------------------------------------------------------


def test_the_model_is_told_by_the_checkpoints_name_or_by_the_user(files, tmp_path):
    mine = renamed(files["whole"], "mine.ckpt", tmp_path)
    refused(r"mine\.ckpt could be stablesr, stablesr-turbo, .*; say which with --as NAME", mine)
    for name in STABLESR_MODELS:
        published = resolve(mine, known_as=name)
        assert published.known.name == name and isinstance(published.base, Inside)
    refused(
        "'stablesr-768' is not a known model of the StableSR family; choose one of stablesr-768v",
        mine,
        known_as="stablesr-768",
    )


def test_another_models_adapter_goes_on_sd_turbo(files, states, other, tmp_path, empty_cache):
    diffusers_folder(empty_cache / "sd-turbo", other)
    for file in (files["whole"], files["adapter"]):
        published = resolve(file, known_as="stablesr-turbo")
        assert published.base.path == empty_cache / "sd-turbo" and published.base.known.name == "sd-turbo"
    assert_loaded(load(published), states_of(other), ("vae", "text_encoder", "unet"))
    assert_loaded(load(published), states, ("structure_encoder", "modulation"))


def test_a_file_is_not_taken_for_a_model_of_another_kind_than_its_name_says(files, tmp_path):
    face = renamed(files["whole"], "face_stablesr_000050.ckpt", tmp_path)
    refused("is stablesr-face by its name, not stablesr; pass --as stablesr-face", face, known_as="stablesr")
    refused("is stablesr by its name, not stablesr-face", files["whole"], known_as="stablesr-face")
    refused("is stablesr-768v by its name, not stablesr;", files["adapter-v"], known_as="stablesr")


def test_cfw_for_faces_is_not_taken_for_other_images_nor_the_reverse(files, tmp_path):
    face = renamed(files["whole"], "face_stablesr_000050.ckpt", tmp_path)
    face_cfw = renamed(files["cfw"], "face_vqgan_cfw_00011.ckpt", tmp_path)
    refused("is the CFW of faces by its name, and stablesr is for other images; give its own", files["whole"], face_cfw)
    refused("is the CFW of other images by its name, and stablesr-face is for faces", face, cfw_file=files["cfw"])
    assert resolve(face).cfw_file == Path(face_cfw)
    mine = renamed(files["cfw"], "mine.ckpt", tmp_path)
    assert resolve(face, mine).cfw_file == Path(mine)


# --- what is refused -----------------------------------------------------------------------------------------------


def test_an_adapter_of_the_v_model_is_refused_on_an_epsilon_base_and_the_reverse(files, other, tmp_path):
    refused(
        "base is a model whose UNet predicts epsilon, not v_prediction; stable-diffusion-2-1 is needed",
        files["adapter-v"],
        files["base"],
    )
    refused("base-v is a model whose UNet predicts v_prediction, not epsilon", files["adapter"], files["base-v"])
    inside = {part: state for part, state in states_of(other).items() if part in ("vae", "text_encoder", "unet")}
    named = single_file(tmp_path / "v2-1_512-ema-pruned.ckpt", ldm_file(inside))
    refused("is a model whose UNet predicts epsilon, not v_prediction", files["adapter-v"], base=named)
    assert resolve(files["adapter"], base=named).base.path == named


def test_a_base_of_another_kind_is_refused(files, tmp_path):
    name = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
    sd1 = single_file(tmp_path / "v1-5.safetensors", {name: torch.zeros(3, 768), "unet.x": torch.zeros(1)})
    refused("is Stable Diffusion 1; stable-diffusion-2-1-base is needed", files["adapter"], sd1)
    sdxl = single_file(
        tmp_path / "xl.safetensors", {"conditioner.embedders.1.model.x": torch.zeros(3), "unet.x": torch.zeros(1)}
    )
    refused("is of the SDXL family; stable-diffusion-2-1-base is needed", files["adapter"], sdxl)
    refused("is StableSR, not its base", files["adapter"], base=files["whole"])


def test_an_adapter_alone_without_a_base_says_all_ways_to_give_it(files, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    refused("stable-diffusion-2-1-base is needed: give its diffusers folder.*sd2-community", files["adapter"])
    refused("stable-diffusion-2-1 is needed: give its diffusers folder", files["adapter-v"])


def test_the_adapter_is_checked_before_a_base_is_looked_for(states, monkeypatch, tmp_path):
    monkeypatch.setattr(stablesr, "find_base", lambda *_, **__: pytest.fail("looked for"))
    state = adapter(states)
    del state["structcond_stage_model.fea_tran.0.in_layers.2.bias"]
    torch.save(state, tmp_path / "webui_768v_139.ckpt")
    refused(
        r"does not fit TimeAwareEncoder: 1 missing \(fea_tran\.0\.in_layers\.2\.bias\)",
        tmp_path / "webui_768v_139.ckpt",
    )


def test_two_of_a_role_and_none_of_it_are_refused(files, tmp_path):
    refused("are both the checkpoint; give one", files["whole"], files["adapter"])
    refused("are both the CFW; give one", files["whole"], files["cfw"], cfw_file=files["cfw"])
    refused("are both the base; give one", files["adapter"], files["base"], base=files["base-v"])
    refused("no checkpoint of StableSR is given; give one, such as stablesr_000117.ckpt", files["cfw"])
    refused("is the checkpoint, not CFW", files["whole"], cfw_file=files["whole"])
    torch.save({"x": torch.zeros(3)}, tmp_path / "x.ckpt")
    refused(r"x\.ckpt is neither of StableSR nor Stable Diffusion", files["whole"], tmp_path / "x.ckpt")
    (tmp_path / "saved" / "structure_encoder").mkdir(parents=True)
    refused("saved is a saved pipeline already; use it as it is", files["whole"], tmp_path / "saved")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("control_model.weight", r"names of no part of StableSR \(control_model\.weight\)"),
        ("structcond_stage_model.more.weight", r"TimeAwareEncoder: 1 unexpected \(more\.weight\)"),
        (
            "model.diffusion_model.input_blocks.1.0.spade.more",
            r"SpadeModulation: 1 unexpected \(down_blocks\.0\.resnets\.0\.spade\.more",
        ),
        (
            "model.diffusion_model.more.spade.weight",
            r"has 1 names that Stable Diffusion 2 has not \(more\.spade\.weight\)",
        ),
        ("model.diffusion_model.more.weight", r"has 1 names that Stable Diffusion 2 has not \(more\.weight\)"),
        ("first_stage_model.more.weight", r"has 1 names that Stable Diffusion 2 has not \(more\.weight\)"),
    ],
)
def test_a_name_too_many_is_an_error(states, tmp_path, name, match):
    torch.save(whole(states) | {name: torch.zeros(7)}, tmp_path / "stablesr_000117.ckpt")
    refused(match, tmp_path / "stablesr_000117.ckpt")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "model.diffusion_model.output_blocks.3.0.spade.mlp_beta.bias",
            r"1 missing \(up_blocks\.1\.resnets\.1\.spade\.mlp_beta\.bias\)",
        ),
        (
            "model.diffusion_model.middle_block.2.spade.mlp_beta.bias",
            r"missing \(mid_block\.resnets\.1\.spade\.mlp_beta\.bias\)",
        ),
        ("model.diffusion_model.out.2.bias", r"UNet2DConditionModel: 1 missing \(conv_out\.bias\)"),
        ("structcond_stage_model.input_blocks.0.0.weight", r"lacks input_blocks\.0\.0\.weight: it is not of StableSR"),
        ("structcond_stage_model.time_embed.0.weight", r"1 missing \(time_embed\.0\.weight\)"),
        ("first_stage_model.decoder.mid.block_2.conv1.bias", "AutoencoderKL: 1 missing"),
    ],
)
def test_a_name_too_few_is_an_error(states, tmp_path, name, match):
    state = whole(states)
    del state[name]
    torch.save(state, tmp_path / "stablesr_000117.ckpt")
    refused(match, tmp_path / "stablesr_000117.ckpt")


def test_strays_beside_an_adapter_alone_are_named(states, tmp_path):
    torch.save(
        adapter(states) | {"first_stage_model.quant_conv.bias": torch.zeros(8)}, tmp_path / "webui_768v_139.ckpt"
    )
    refused("has names of no part of StableSR", tmp_path / "webui_768v_139.ckpt")


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("decoder.fusion_layer_1.more", (3,), r"ControllableFeatureWrapping: 1 unexpected"),
        ("encoder.more.weight", (3,), r"has 1 names that Stable Diffusion 2 has not \(encoder\.more\.weight\)"),
        (
            "decoder.fusion_layer_3.encode_enc_3.conv1.weight",
            (32, 32, 3, 3),
            r"is a CFW for features of \[32, 32, 32\] channels",
        ),
        (
            "decoder.fusion_layer_1.encode_enc_3.conv1.weight",
            (64, 64, 3, 3),
            r"is a CFW for features of \[64, 32\] channels, and the autoencoder of the base has \[32, 32\]",
        ),
    ],
)
def test_a_cfw_of_other_names_or_width_is_refused(files, states, tmp_path, name, shape, match):
    torch.save(cfw(states) | {name: torch.zeros(shape)}, tmp_path / "vqgan_cfw_00011.ckpt")
    refused(match, files["whole"], tmp_path / "vqgan_cfw_00011.ckpt")


def test_an_adapter_for_other_latents_or_a_deeper_unet_is_refused(files, tmp_path):
    for options, said in (
        ({"in_channels": 8}, "latents of 8 channels at 2 sizes"),
        ({"channel_mult": [1]}, "4 channels at 1 sizes"),
    ):
        torch.save(adapter(states_of(random_networks(0, ENCODER | options))), tmp_path / "x_000117.ckpt")
        refused(f"{said}, and the base .* has 4 and 2", tmp_path / "x_000117.ckpt", base=files["base"])


def test_a_name_that_counts_billions_of_modules_costs_no_time(files, states, tmp_path):
    torch.save(
        adapter(states) | {"structcond_stage_model.input_blocks.999999999.0.op.weight": torch.zeros(1)},
        tmp_path / "x_000117.ckpt",
    )
    refused("names 1000000000 modules and has", tmp_path / "x_000117.ckpt")
    torch.save(cfw(states) | {"decoder.fusion_layer_1.encode_enc_2.999999999.x": torch.zeros(1)}, tmp_path / "cfw.ckpt")
    refused("names 1000000000 modules and has", files["whole"], tmp_path / "cfw.ckpt")


def test_a_scheduler_of_other_noise_levels_is_refused(files, other, tmp_path):
    base = diffusers_folder(tmp_path / "base", other, beta_schedule="linear")
    with pytest.raises(CheckpointError, match="has a beta_schedule other than scaled_linear"):
        load(resolve(files["adapter"], base=base))


def test_loading_leaves_the_files_as_they_are(files, states):
    load(resolve(files["whole"]))["unet"].conv_in.weight.data.zero_()
    assert_loaded(load(resolve(files["whole"])), states)


def test_a_missing_text_encoder_is_noticed_and_its_layout_does_not_matter(states, tmp_path):
    state = {name: x for name, x in whole(states).items() if not name.startswith("cond_stage_model.")}
    torch.save(state, tmp_path / "stablesr_000117.ckpt")
    refused("CLIPTextModel: .* missing", tmp_path / "stablesr_000117.ckpt")
    torch.save(state | prefixed("text_encoder.", states["text_encoder"]), tmp_path / "stablesr_000117.ckpt")
    assert_loaded(load(resolve(tmp_path / "stablesr_000117.ckpt")), states)


def test_tensors_without_numbers_are_one_line(files, states, tmp_path):
    state = adapter(states) | {"structcond_stage_model.input_blocks.0.0.weight": torch.zeros(0, 4, 3, 3)}
    torch.save(state, tmp_path / "x_000117.ckpt")
    refused(r"lacks input_blocks\.0\.0\.weight", tmp_path / "x_000117.ckpt", files["base"])
