"""Stable Diffusion's parts come back with the same numbers from every layout, and other models are refused by name."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))  # the layouts are a module beside this file, not a package

from sd_base import assert_base_is, assert_names_all_ways, random_base, same, states_of, write, write_folder
from sd_layouts import CONFIGS, ldm_file, ldm_vae, open_clip, prefixed, single_file

from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known_bases import SCHEDULE, SD2_BASE, SD21, SD_TURBO
from resdiff.checkpoints.stable_diffusion import find_base, load_base


@pytest.fixture(scope="module")
def networks():
    return random_base()


@pytest.fixture(scope="module")
def states(networks):
    return states_of(networks)


@pytest.fixture(scope="module")
def whole(networks, tmp_path_factory):
    """A diffusers folder as published, of SD 2's kind."""
    return write_folder(tmp_path_factory.mktemp("base"), networks)


@pytest.fixture
def folder(whole, tmp_path):
    """The folder again, to be changed."""
    return shutil.copytree(whole, tmp_path / "given" / "base")


def change(path, **options):
    write(path, json.loads(path.read_text()) | options)


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_diffusers_folder_gives_its_numbers(whole, states):
    base = find_base(whole, with_unet=True)
    assert_base_is(base, states)
    loaded = load_base(base, torch.float32)
    assert same(loaded["vae"].state_dict(), states["vae"])
    assert same(loaded["text_encoder"].state_dict(), states["text_encoder"])
    assert not loaded["vae"].training and not loaded["text_encoder"].training
    assert loaded["tokenizer"](["a b"], padding="max_length").input_ids[0][:5] == [3, 1, 2, 4, 0]


def test_the_loaded_networks_compute_what_the_saved_ones_did(whole, networks):
    loaded = load_base(find_base(whole))
    ids, image = torch.tensor([[3, 1, 2, 4]]), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        ours, theirs = (net(ids).last_hidden_state for net in (loaded["text_encoder"], networks["text_encoder"].eval()))
        assert torch.equal(ours, theirs)
        ours, theirs = (net.encode(image).latent_dist.mean for net in (loaded["vae"], networks["vae"].eval()))
        assert torch.equal(ours, theirs)


def test_every_float_has_the_dtype_asked_for(whole, states):
    loaded = load_base(find_base(whole), torch.bfloat16)
    for part in ("vae", "text_encoder"):
        own = loaded[part].state_dict()
        assert {x.dtype for x in own.values()} == {torch.bfloat16}
        assert all(torch.equal(own[name], x.bfloat16()) for name, x in states[part].items())


def test_the_scheduler_is_the_folders_and_never_clips_x0(whole):
    scheduler = load_base(find_base(whole))["scheduler"]
    assert scheduler["clip_sample"] is False
    assert scheduler["steps_offset"] == 1 and scheduler["set_alpha_to_one"] is False
    assert "timestep_spacing" not in scheduler and not [key for key in scheduler if key.startswith("_")]


@pytest.mark.parametrize("variant", ["", ".fp16"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_weights_are_found_in_either_format_and_as_half_precision(folder, states, variant, suffix):
    for part, stem in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        for file in folder.glob(f"{part}/*.safetensors"):
            file.unlink()
        stem = "pytorch_model" if (stem, suffix) == ("model", "bin") else stem
        path = folder / part / f"{stem}{variant}.{suffix}"
        save_file(states[part], path) if suffix == "safetensors" else torch.save(states[part], path)
    assert_base_is(find_base(folder), states, ("vae", "text_encoder"))


def test_full_precision_is_preferred_to_half(folder, states):
    half = {name: torch.zeros_like(x) for name, x in states["vae"].items()}
    save_file(half, folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    assert_base_is(find_base(folder), states, ("vae",))


def test_shards_are_put_together_and_a_missing_one_is_named(folder, networks, states):
    shutil.rmtree(folder / "unet")
    networks["unet"].save_pretrained(folder / "unet", max_shard_size="20KB")
    shards = sorted((folder / "unet").glob("*-of-*"))
    assert len(shards) > 1
    assert_base_is(find_base(folder, with_unet=True), states, ("unet",))
    base = find_base(folder, with_unet=True)
    shards[0].unlink()
    with pytest.raises(CheckpointError, match=re.escape(shards[0].name)):
        base.state("unet")


def test_a_text_encoder_may_have_transformers_older_names(folder, states):
    old = prefixed("text_model.", states["text_encoder"]) | {
        "text_model.embeddings.position_ids": torch.arange(77)[None]
    }
    save_file(old, folder / "text_encoder" / "model.safetensors")
    assert_base_is(find_base(folder), states, ("text_encoder",))


def test_a_text_encoder_may_have_openclips_names(folder, states):
    save_file(prefixed("", open_clip(states["text_encoder"])), folder / "text_encoder" / "model.safetensors")
    assert_base_is(find_base(folder), states, ("text_encoder",))


@pytest.mark.parametrize("is_convolution", [False, True])
def test_an_autoencoder_may_have_diffusers_older_names(folder, states, is_convolution):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, x in states["vae"].items():
        for new, before in old.items():
            if f".{new}." in name:
                name = name.replace(new, before)
                x = x[:, :, None, None] if is_convolution and x.ndim == 2 else x
        state[name] = x.contiguous()
    assert not any("to_q" in name for name in state)
    save_file(state, folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert_base_is(find_base(folder), states, ("vae",))


def test_the_vocabulary_may_be_in_the_two_older_files(folder):
    shutil.rmtree(folder / "tokenizer")
    words = {"!": 0, "a</w>": 1, "b</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}
    write(folder / "tokenizer" / "vocab.json", words)
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    write(folder / "tokenizer" / "special_tokens_map.json", {"pad_token": "!"})
    write(folder / "tokenizer" / "tokenizer_config.json", {"model_max_length": 77, "tokenizer_class": "CLIPTokenizer"})
    tokenizer = load_base(find_base(folder))["tokenizer"]
    assert tokenizer(["a b"], padding="max_length").input_ids[0] == [3, 1, 2, 4, *[0] * 73]


def test_without_a_tokenizer_openclips_is_used(folder):
    shutil.rmtree(folder / "tokenizer")
    tokenizer = load_base(find_base(folder))["tokenizer"]
    assert (len(tokenizer), tokenizer.model_max_length, tokenizer.pad_token_id) == (49408, 77, 0)


# --- single files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v2.safetensors", "v2.ckpt"])
def test_a_single_ldm_file_gives_the_numbers_of_its_parts(tmp_path, states, name):
    path = single_file(tmp_path / name, ldm_file(states))
    base = find_base(path, with_unet=True, configs=CONFIGS)
    assert_base_is(base, states)
    loaded = load_base(base)
    assert same(loaded["vae"].state_dict(), states["vae"])
    assert same(loaded["text_encoder"].state_dict(), states["text_encoder"])
    assert loaded["scheduler"] == SCHEDULE
    assert len(loaded["tokenizer"]) == 49408


def test_a_single_file_of_sgm_has_its_text_encoder_elsewhere(tmp_path, states):
    file = {k.replace("cond_stage_model.", "conditioner.embedders.0."): x for k, x in ldm_file(states).items()}
    path = single_file(tmp_path / "turbo.safetensors", file | {"denoiser.sigmas": torch.zeros(3)})
    base = find_base(path, SD_TURBO, with_unet=True, configs=CONFIGS)
    assert_base_is(base, states)
    assert load_base(base)["scheduler"]["timestep_spacing"] == "trailing"


def test_a_single_diffusers_file_gives_the_numbers_of_its_parts(tmp_path, states):
    file = {name: x for part, state in states.items() for name, x in prefixed(f"{part}.", state).items()}
    base = find_base(single_file(tmp_path / "all.safetensors", file), with_unet=True, configs=CONFIGS)
    assert_base_is(base, states)


@pytest.mark.parametrize(
    "name",
    [
        "first_stage_model.encoder.extra.weight",
        "cond_stage_model.model.extra",
        "model.diffusion_model.extra.0.weight",
        "model.diffusion_model.input_blocks.1.0.extra.weight",
    ],
)
def test_a_name_that_no_part_takes_is_an_error(tmp_path, states, name):
    path = single_file(tmp_path / "v2.safetensors", ldm_file(states) | {name: torch.zeros(7)})
    with pytest.raises(CheckpointError, match="extra") as error:
        find_base(path, with_unet=True, configs=CONFIGS)
    assert "\n" not in str(error.value)


def test_a_name_of_no_part_is_an_error(tmp_path, states):
    path = single_file(tmp_path / "v2.safetensors", ldm_file(states) | {"control_model.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"control_model\.weight"):
        find_base(path, configs=CONFIGS)


def test_a_tensor_that_is_missing_is_an_error(tmp_path, states):
    file = ldm_file(states)
    del file["first_stage_model.decoder.mid.block_2.conv1.bias"]
    with pytest.raises(CheckpointError, match="1 missing"):
        find_base(single_file(tmp_path / "v2.safetensors", file), configs=CONFIGS)


def test_a_file_of_one_part_is_refused(tmp_path, states):
    path = single_file(tmp_path / "vae.safetensors", prefixed("first_stage_model.", ldm_vae(states["vae"])))
    with pytest.raises(CheckpointError, match="lacks text_encoder"):
        find_base(path, configs=CONFIGS)
    with pytest.raises(CheckpointError, match="lacks vae, text_encoder, unet"):
        find_base(single_file(tmp_path / "x.safetensors", {"x": torch.zeros(1)}), with_unet=True, configs=CONFIGS)


# --- models of another kind ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "options", "said"),
    [
        ("unet", {"cross_attention_dim": 768}, "is Stable Diffusion 1;"),
        ("unet", {"in_channels": 9}, "is an inpainting model;"),
        ("unet", {"in_channels": 7}, "is an x4 upscaler;"),
        ("unet", {"in_channels": 8}, "UNet takes 8 channels;"),
        ("unet", {"use_image_cross_attention": True}, "is SeeSR, not its base;"),
        ("scheduler", {"prediction_type": "v_prediction"}, "predicts v_prediction"),
    ],
)
def test_a_folder_of_another_kind_is_refused(folder, part, options, said):
    change(folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json"), **options)
    with pytest.raises(CheckpointError, match=said) as error:
        find_base(folder)
    assert_names_all_ways(str(error.value))


def test_a_base_that_predicts_v_is_found_where_that_is_wanted(folder):
    with pytest.raises(CheckpointError, match=r"predicts epsilon, not v_prediction; stable-diffusion-2-1 is needed"):
        find_base(folder, SD21)
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    assert load_base(find_base(folder, SD21))["scheduler"]["prediction_type"] == "v_prediction"


def test_what_a_single_file_predicts_its_name_tells(tmp_path, states):
    named = single_file(tmp_path / "v2-1_768-ema-pruned.ckpt", ldm_file(states))
    with pytest.raises(CheckpointError, match=r"predicts v_prediction, not epsilon; stable-diffusion-2-base is needed"):
        find_base(named, configs=CONFIGS)
    assert find_base(named, SD21, configs=CONFIGS).configs["scheduler"]["prediction_type"] == "v_prediction"
    other = single_file(tmp_path / "mine.ckpt", ldm_file(states))
    for known in (SD2_BASE, SD21):
        assert find_base(other, known, configs=CONFIGS).known is known


def test_stablesrs_own_checkpoint_is_not_a_base(tmp_path, states):
    file = ldm_file(states) | {"structcond_stage_model.time_embed.0.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match="is StableSR, not its base"):
        find_base(single_file(tmp_path / "stablesr_000117.ckpt", file), configs=CONFIGS)


@pytest.mark.parametrize(
    ("added", "said"),
    [("text_encoder_2", "SDXL family"), ("controlnet", "SeeSR, not its base"), ("transformer", "a transformer")],
)
def test_a_folder_with_other_parts_is_refused(folder, added, said):
    (folder / added).mkdir()
    with pytest.raises(CheckpointError, match=said):
        find_base(folder)


def test_stable_diffusion_1_without_its_unet_is_known_by_the_text_encoder(folder):
    shutil.rmtree(folder / "unet")
    find_base(folder)
    change(folder / "text_encoder" / "config.json", hidden_size=768)
    with pytest.raises(CheckpointError, match="is Stable Diffusion 1;"):
        find_base(folder)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (3, 768)}, "Stable Diffusion 1"),
        ({"conditioner.embedders.1.model.ln_final.bias": (3,)}, "SDXL family"),
        ({"text_encoder_2.text_projection.weight": (3, 3)}, "SDXL family"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 9, 3, 3)}, "an inpainting model"),
        ({"unet.conv_in.weight": (4, 7, 3, 3)}, "an x4 upscaler"),
        ({"unet.down_blocks.0.image_attentions.0.norm.weight": (4,)}, "SeeSR, not its base"),
    ],
)
def test_a_single_file_of_another_kind_is_refused(tmp_path, names, said):
    path = single_file(tmp_path / "x.safetensors", {name: torch.zeros(shape) for name, shape in names.items()})
    with pytest.raises(CheckpointError, match=f"x.safetensors is (of the )?{said}") as error:
        find_base(path)
    assert_names_all_ways(str(error.value))


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["vae", "text_encoder", "scheduler"])
def test_a_folder_that_is_not_whole_says_what_lacks(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match=f"lacks {part};"):
        find_base(folder)


@pytest.mark.parametrize(
    ("part", "options"),
    [
        ("vae", {"block_out_channels": "wide"}),
        ("vae", {"down_block_types": ["NoSuchBlock"]}),
        ("vae", {"layers_per_block": 10**6}),
        ("text_encoder", {"num_hidden_layers": 10**6}),
        ("text_encoder", {"num_attention_heads": 3}),
        ("text_encoder", {"hidden_size": 2**40}),
    ],
)
def test_a_damaged_configuration_is_one_line(folder, part, options):
    change(folder / part / "config.json", **options)
    with pytest.raises(ValueError, match=re.escape(str(folder / part))) as error:
        find_base(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("part", "key"), [("vae", "latent_channels"), ("vae", "block_out_channels"), ("text_encoder", "num_hidden_layers")]
)
def test_a_configuration_without_a_size_that_counts_is_refused(folder, part, key):
    config = json.loads((folder / part / "config.json").read_text())
    del config[key]
    write(folder / part / "config.json", config)
    with pytest.raises(CheckpointError, match=f"{part}/config.json lacks {key};"):
        find_base(folder)


def test_weights_that_do_not_fit_the_configuration_are_refused(folder):
    change(folder / "vae" / "config.json", block_out_channels=[4, 16])
    with pytest.raises(CheckpointError, match="of another shape"):
        find_base(folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_vocabulary_is_one_line(folder, name):
    (folder / "tokenizer" / name).write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer cannot be read") as error:
        load_base(find_base(folder))
    assert "\n" not in str(error.value)


def test_a_vocabulary_for_longer_texts_is_refused(folder):
    change(folder / "tokenizer" / "tokenizer_config.json", model_max_length=10**30)
    with pytest.raises(CheckpointError, match="the text encoder 49408 and 77"):
        load_base(find_base(folder))
