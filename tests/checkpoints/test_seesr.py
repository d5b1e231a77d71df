"""Published folders of SeeSR and AddSR are found with what belongs to them, checked, and loaded number by number."""

import json
import re
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from resdiff.checkpoints import seesr
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known_bases import SCHEDULE
from resdiff.checkpoints.known_seesr import ADDSR_DRIVE, SEESR_DRIVE, SEESR_MODELS, seesr_by_folder
from resdiff.checkpoints.seesr import complete, in_cache, load, resolve
from resdiff.checkpoints.seesr_files import is_published_folder
from resdiff.models.ram import RAM
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.schedulers.ddpm import DDPMScheduler

UNET = {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "attention_head_dim": [1, 2],
    "cross_attention_dim": 8,
    "norm_num_groups": 2,
    "use_linear_projection": True,
}
UPWARDS = {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
CONTROLNET = {"conditioning_embedding_out_channels": [2, 4]}
FLAG = {"use_image_cross_attention": True}
VAE = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 8],
    "norm_num_groups": 2,
}
TEXT = {
    "vocab_size": 49408,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
}
TAGGER = {
    "image_res": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [2, 2],
    "num_heads": [2, 4],
    "window_size": 8,
    "image_embed_dim": 16,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_attention_heads": 4,
    "num_classes": 4,
}


def random_weights(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data.normal_(generator=generator)
    return network


def state_of(network):
    return {name: x.detach().clone() for name, x in network.state_dict().items()}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def change(path, **options):
    write(path, json.loads(path.read_text()) | options)


def write_networks(folder, seed):
    """A published folder: diffusers' names of blocks in the configuration, and the flag."""
    for part, network, config in (
        ("unet", SeeSRUNet, UNET | UPWARDS | FLAG),
        ("controlnet", SeeSRControlNet, UNET | CONTROLNET | FLAG),
    ):
        random_weights(network(**config), seed).save_pretrained(folder / part)
        change(folder / part / "config.json", **config)


def write_base(folder, seed, **schedule):
    random_weights(AutoencoderKL(**VAE), seed).save_pretrained(folder / "vae")
    random_weights(CLIPTextModel(CLIPTextConfig(**TEXT)), seed).save_pretrained(folder / "text_encoder")
    random_weights(UNet2DConditionModel(**UNET | UPWARDS), seed).save_pretrained(folder / "unet")
    write(folder / "scheduler" / "scheduler_config.json", SCHEDULE | {"_class_name": "PNDMScheduler"} | schedule)


def tagger_files(folder):
    """RAM as published, wrapped in "model", and updates for it; returns the network before the updates."""
    tagger = random_weights(RAM(**TAGGER), 5)
    torch.save({"model": state_of(tagger)}, folder / "ram_swin_large_14m.pth")
    update = {}
    for name, weight in tagger.state_dict().items():
        parts = 2 if name.endswith("qkv.weight") else 1
        if parts == 2 or re.search(r"crossattention\.self\.(query|key)\.weight", name):
            layer, out = name.removesuffix(".weight"), weight.shape[0] // (3 if parts == 2 else 1)
            update[f"{layer}.lora_A"] = torch.ones(2 * parts, weight.shape[1])
            update[f"{layer}.lora_B"] = torch.ones(parts * out, 2)
    torch.save(update, folder / "DAPE.pth")
    (folder / "ram_tag_list.txt").write_text("cat\ndog\nhouse\nsky\n")
    (folder / "ram_tag_list_threshold.txt").write_text("0.5\n" * 4)
    return tagger


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The published tree, preset/models."""
    models = tmp_path_factory.mktemp("preset") / "models"
    write_networks(models / "seesr", 1)
    write_networks(models / "addsr", 2)
    write_base(models / "stable-diffusion-2-base", 3)
    write_base(models / "sd-turbo", 4, timestep_spacing="trailing", _class_name="EulerDiscreteScheduler")
    tagger_files(models)
    return models


@pytest.fixture
def models(tree, tmp_path, monkeypatch):
    """The tree again, to be changed; the cache is empty."""
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(tree, tmp_path / "preset" / "models")


# --- what is found -------------------------------------------------------------------------------------------------


def test_the_published_tree_is_found_from_the_folder_of_the_networks(models):
    found = resolve([models / "seesr"])
    assert (found.known.name, found.folder) == ("seesr", models / "seesr")
    assert found.base.path == models / "stable-diffusion-2-base"
    assert found.ram_file == models / "ram_swin_large_14m.pth"
    assert found.dape_file == models / "DAPE.pth"


def test_everything_may_be_given_in_any_order_wherever_it_lies(models, tmp_path):
    for name in ("stable-diffusion-2-base", "DAPE.pth", "ram_swin_large_14m.pth"):
        shutil.move(models / name, tmp_path / f"my {name}")
    given = [tmp_path / "my ram_swin_large_14m.pth", tmp_path / "my stable-diffusion-2-base", models / "addsr"]
    found = resolve([*given, tmp_path / "my DAPE.pth"])
    assert found.known.name == "addsr"
    assert (found.ram_file, found.base.path) == tuple(given[:2])
    assert found.dape_file == tmp_path / "my DAPE.pth"
    again = resolve([models / "addsr"], base=given[1], ram_file=given[0], dape_file=tmp_path / "my DAPE.pth")
    assert again.base.path == found.base.path
    assert (again.ram_file, again.dape_file) == (found.ram_file, found.dape_file)


def test_the_model_is_told_by_its_folder_or_by_the_user(models):
    other = models.parent / "models" / "mine"
    shutil.copytree(models / "seesr", other)
    with pytest.raises(CheckpointError, match=r"mine could be seesr, seesr-turbo, addsr; say which with --as NAME"):
        resolve([other])
    for name in SEESR_MODELS:
        assert resolve([other], name).known.name == name
    with pytest.raises(ValueError, match="'adsr' is not a known model of the SeeSR family; choose one of addsr"):
        resolve([other], "adsr")


@pytest.mark.parametrize(
    ("folder", "name"),
    [("seesr", "seesr"), ("SeeSR_finetuned", "seesr"), ("addsr-v2", "addsr"), ("addsr_from_seesr", None), ("x", None)],
)
def test_a_folders_name_may_have_more_to_it_but_not_both_names(folder, name):
    known = seesr_by_folder(folder)
    assert (known.name if known else None) == name


def test_known_names_are_found_in_the_cache(models, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(models, cache)
    assert in_cache("seesr").folder == cache / "seesr"
    assert in_cache("addsr").folder == cache / "addsr"
    turbo = in_cache("seesr-turbo")
    assert (turbo.folder, turbo.base.path) == (cache / "seesr", cache / "sd-turbo")


def test_the_folder_of_the_drive_serves_as_it_was_downloaded(models, tmp_path):
    drive = tmp_path / "cache" / "seesr"
    drive.mkdir(parents=True)
    shutil.move(models / "seesr", drive / "seesr")
    shutil.move(models / "DAPE.pth", drive / "DAPE.pth")
    shutil.move(models / "stable-diffusion-2-base", tmp_path / "cache" / "stable-diffusion-2-base")
    found = in_cache("seesr")
    assert (found.folder, found.dape_file) == (drive / "seesr", drive / "DAPE.pth")
    assert found.ram_file is None


@pytest.mark.parametrize(
    ("name", "drive"), [("seesr", SEESR_DRIVE), ("seesr-turbo", SEESR_DRIVE), ("addsr", ADDSR_DRIVE)]
)
def test_a_name_that_is_not_in_the_cache_says_what_to_put_where(models, tmp_path, name, drive):
    with pytest.raises(CheckpointError) as error:
        in_cache(name)
    said = str(error.value)
    assert "\n" not in said
    folder = tmp_path / "cache" / SEESR_MODELS[name].folder
    for needed in (drive, str(folder), "DAPE.pth", "ram_swin_large_14m.pth", SEESR_MODELS[name].base.name):
        assert needed in said


def test_a_saved_pipeline_is_no_published_folder(models):
    assert is_published_folder(models / "seesr")
    assert not is_published_folder(models / "stable-diffusion-2-base")
    write(models / "seesr" / "model_index.json", {})
    assert not is_published_folder(models / "seesr")
    with pytest.raises(CheckpointError, match="seesr is a saved pipeline already; use it as it is"):
        resolve([models / "seesr"])


def test_a_model_is_complete_with_tagger_and_lists(models, monkeypatch):
    monkeypatch.setenv("RESDIFF_CACHE", str(models))
    assert complete("seesr-turbo").base.path == models / "sd-turbo"
    (models / "ram_tag_list.txt").rename(models / "list.txt")
    with pytest.raises(CheckpointError, match=r"offline, and ram_tag_list\.txt and .* are not here"):
        complete("seesr")
    (models / "DAPE.pth").unlink()
    with pytest.raises(CheckpointError, match=r"seesr lacks DAPE\.pth: put ram_swin_large_14m\.pth \(https"):
        complete("seesr")


def test_what_was_published_separately_has_a_licence_of_its_own(models):
    assert [part.name for part in resolve([models / "addsr"]).licensed] == [
        *("addsr", "stable-diffusion-2-base", "recognize-anything", "dape")
    ]
    (models / "DAPE.pth").unlink()
    assert [part.name for part in resolve([models / "seesr"], "seesr-turbo").licensed] == ["seesr-turbo", "sd-turbo"]


# --- what is loaded ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "seed"), [("seesr", 1), ("addsr", 2)])
def test_the_networks_come_back_with_their_numbers(models, name, seed):
    parts = load(resolve([models / name]))
    assert same(parts["unet"].state_dict(), random_weights(SeeSRUNet(**UNET | UPWARDS | FLAG), seed).state_dict())
    wanted = random_weights(SeeSRControlNet(**UNET | CONTROLNET | FLAG), seed)
    assert same(parts["controlnet"].state_dict(), wanted.state_dict())
    assert same(parts["vae"].state_dict(), random_weights(AutoencoderKL(**VAE), 3).state_dict())
    assert not any(parts[part].training for part in ("unet", "controlnet", "vae", "text_encoder", "tagger"))
    assert len(parts["tokenizer"]) == 49408


def test_every_network_has_the_dtype_asked_for(models):
    parts = load(resolve([models / "seesr"]), torch.float16)
    for part in ("unet", "controlnet", "vae", "text_encoder"):
        assert {x.dtype for x in parts[part].state_dict().values()} == {torch.float16}
    assert parts["tagger"].dtype == torch.float16


def test_the_scheduler_takes_the_bases_steps_and_does_not_clip(models):
    change(models / "stable-diffusion-2-base" / "scheduler" / "scheduler_config.json", set_alpha_to_one=False)
    scheduler = load(resolve([models / "seesr"]))["scheduler"]
    assert type(scheduler) is DDPMScheduler
    assert scheduler.config.clip_sample is False and scheduler.config.prediction_type == "epsilon"
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [751, 501, 251, 1]
    assert float(scheduler.alphas_cumprod[0]) == pytest.approx(1 - 0.00085)


def test_turbo_is_sd_turbos_unet_with_seesrs_image_attentions(models):
    parts = load(resolve([models / "seesr"], "seesr-turbo"))
    own = state_of(random_weights(SeeSRUNet(**UNET | UPWARDS | FLAG), 1))
    turbo = state_of(random_weights(UNet2DConditionModel(**UNET | UPWARDS), 4))
    added = {name: x for name, x in own.items() if ".image_attentions." in name}
    assert added and not added.keys() & turbo.keys()
    assert same(parts["unet"].state_dict(), turbo | added)
    assert same(parts["vae"].state_dict(), random_weights(AutoencoderKL(**VAE), 4).state_dict())
    assert same(
        parts["controlnet"].state_dict(), random_weights(SeeSRControlNet(**UNET | CONTROLNET | FLAG), 1).state_dict()
    )
    parts["scheduler"].set_timesteps(4)
    assert parts["scheduler"].timesteps.tolist() == [999, 749, 499, 249]


def test_the_tagger_has_its_update_and_its_names(models):
    tagger = load(resolve([models / "seesr"]))["tagger"]
    plain = random_weights(RAM(**TAGGER), 5).state_dict()
    name = "visual_encoder.layers.0.blocks.0.attn.qkv.weight"
    q, k, v = (tagger.state_dict()[name] - plain[name]).chunk(3)
    # B A of ones of rank 2, with alpha / r = 1 / 2, for queries and values
    assert torch.allclose(q, torch.ones_like(q), atol=1e-5) and torch.allclose(v, torch.ones_like(v), atol=1e-5)
    assert not k.any()
    assert tagger.config.tags == ["cat", "dog", "house", "sky"]


@pytest.mark.parametrize("lacks", ["DAPE.pth", "ram_swin_large_14m.pth"])
def test_without_its_files_there_is_no_tagger_and_the_log_says_how_to_get_them(models, caplog, lacks):
    (models / lacks).unlink()
    assert load(resolve([models / "seesr"]))["tagger"] is None
    [said] = [record.getMessage() for record in caplog.records if "tagger" in record.getMessage()]
    assert f"{lacks} lacks" in said and SEESR_DRIVE in said and "huggingface.co/spaces" in said and "\n" not in said


def test_without_the_lists_the_tagger_has_no_names_and_the_log_says_so(models, caplog):
    (models / "ram_tag_list.txt").unlink()
    tagger = load(resolve([models / "seesr"]))["tagger"]
    assert tagger.config.tags is None
    assert "without names of tags" in caplog.text


def test_every_licence_is_said_once(models, caplog):
    for _ in range(2):
        load(resolve([models / "seesr"]))
    said = [record.getMessage() for record in caplog.records if "publisher's licence" in record.getMessage()]
    assert len(said) == 3
    for words in (SEESR_DRIVE, "Open RAIL++-M", "recognize-anything"):
        assert any(words in line for line in said)
    assert not [line for line in said if "urbo" in line]


def test_weights_may_be_pickled(models):
    for part in ("unet", "controlnet"):
        network = SeeSRUNet if part == "unet" else SeeSRControlNet
        config = UNET | FLAG | (UPWARDS if part == "unet" else CONTROLNET)
        torch.save(
            state_of(random_weights(network(**config), 1)), models / "seesr" / part / "diffusion_pytorch_model.bin"
        )
        (models / "seesr" / part / "diffusion_pytorch_model.safetensors").unlink()
    unet = load(resolve([models / "seesr"]))["unet"]
    assert same(unet.state_dict(), random_weights(SeeSRUNet(**UNET | UPWARDS | FLAG), 1).state_dict())


def test_a_folder_that_we_saved_ourselves_is_read_too(models):
    unet = random_weights(SeeSRUNet(**UNET | UPWARDS | FLAG), 7)
    unet.save_pretrained(models / "seesr" / "unet")
    assert "ImageCross" in (models / "seesr" / "unet" / "config.json").read_text()
    assert same(load(resolve([models / "seesr"]))["unet"].state_dict(), unet.state_dict())


# --- what is refused -----------------------------------------------------------------------------------------------


def test_stray_names_of_addsrs_controlnet_are_named_and_seesrs_are_refused(models, caplog):
    for name in ("addsr", "seesr"):
        state = state_of(random_weights(SeeSRControlNet(**UNET | CONTROLNET | FLAG), 2))
        path = models / name / "controlnet" / "diffusion_pytorch_model.bin"
        path.with_suffix(".safetensors").unlink()
        torch.save(state | {"align.0.weight": torch.ones(2), "align.0.bias": torch.ones(2)}, path)
    parts = load(resolve([models / "addsr"]))
    assert same(parts["controlnet"].state_dict(), state)
    assert "controlnet: 2 names are ignored, of align" in caplog.text
    with pytest.raises(CheckpointError, match=r"2 unexpected \(align\.0\.weight"):
        resolve([models / "seesr"])
    del state["conv_in.bias"]
    torch.save(state, models / "addsr" / "controlnet" / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"1 missing \(conv_in\.bias\)"):
        resolve([models / "addsr"])


def test_networks_without_the_flag_are_not_of_the_family(models):
    config = models / "seesr" / "unet" / "config.json"
    change(config, use_image_cross_attention=False)
    with pytest.raises(CheckpointError, match="unet is not of the SeeSR family"):
        resolve([models / "seesr"])
    shutil.rmtree(models / "seesr" / "controlnet")
    ControlNetModel(**UNET | CONTROLNET).save_pretrained(models / "seesr" / "controlnet")
    change(config, use_image_cross_attention=True)
    with pytest.raises(CheckpointError, match="controlnet is not of the SeeSR family"):
        resolve([models / "seesr"])


@pytest.mark.parametrize(
    ("part", "options", "said"),
    [
        ("text_encoder", {"hidden_size": 12}, "has cross_attention_dim 8, and the base .* gives 12"),
        ("vae", {"latent_channels": 8}, "has in_channels 4, and the base .* gives 8"),
    ],
)
def test_a_base_that_the_networks_do_not_adapt_is_refused(models, part, options, said):
    folder = models / "stable-diffusion-2-base" / part
    shutil.rmtree(folder)
    if part == "vae":
        AutoencoderKL(**VAE | options).save_pretrained(folder)
    else:
        CLIPTextModel(CLIPTextConfig(**TEXT | options)).save_pretrained(folder)
    with pytest.raises(CheckpointError, match=said) as error:
        resolve([models / "seesr"])
    assert "\n" not in str(error.value)


def test_unet_and_controlnet_of_different_models_are_refused(models):
    shutil.rmtree(models / "seesr" / "controlnet")
    config = UNET | CONTROLNET | FLAG | {"block_out_channels": [8, 8]}
    SeeSRControlNet(**config).save_pretrained(models / "seesr" / "controlnet")
    with pytest.raises(CheckpointError, match=r"has block_out_channels .*8, 8.*, and the UNet .*4, 8"):
        resolve([models / "seesr"])


def test_what_is_given_twice_or_is_something_else_is_refused(models):
    with pytest.raises(CheckpointError, match=r"seesr and .*addsr are both the model; give one"):
        resolve([models / "seesr", models / "addsr"])
    with pytest.raises(CheckpointError, match=r"both the tagger; give one"):
        resolve([models / "seesr", models / "ram_swin_large_14m.pth"], ram_file=models / "ram_swin_large_14m.pth")
    with pytest.raises(CheckpointError, match="no folder with unet/ and controlnet/ is given"):
        resolve([models / "stable-diffusion-2-base"])
    with pytest.raises(CheckpointError, match=f"give {re.escape(str(models / 'seesr'))}"):
        resolve([models])
    with pytest.raises(CheckpointError, match="give the folder that holds unet/ and controlnet/"):
        resolve([models / "seesr" / "unet"])
    with pytest.raises(CheckpointError, match=r"threshold\.txt is not given by itself: it is found beside ram_swin"):
        resolve([models / "seesr", models / "ram_tag_list_threshold.txt"])
    with pytest.raises(CheckpointError, match="is SeeSR, not its base"):
        resolve([models / "seesr"], base=models / "addsr")
    with pytest.raises(CheckpointError, match=r"no\.pth is not a file; give DAPE\.pth"):
        resolve([models / "seesr"], dape_file=models / "no.pth")


def test_without_a_base_the_error_names_all_ways(models, monkeypatch):
    shutil.rmtree(models / "stable-diffusion-2-base")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(models / "hub"))
    with pytest.raises(CheckpointError, match="stable-diffusion-2-base is needed: give its diffusers folder") as error:
        resolve([models / "seesr"])
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"sd-turbo.*is needed|sd-turbo lacks"):
        shutil.rmtree(models / "sd-turbo" / "unet")
        resolve([models / "seesr"], "seesr-turbo")


def test_the_networks_are_checked_before_a_base_is_looked_for(models, monkeypatch):
    monkeypatch.setattr(seesr, "find_base", lambda *_, **__: pytest.fail("looked for"))
    change(models / "seesr" / "unet" / "config.json", layers_per_block=2)
    with pytest.raises(CheckpointError, match="missing"):
        resolve([models / "seesr"])


def test_a_damaged_schedule_is_one_line(models):
    change(models / "stable-diffusion-2-base" / "scheduler" / "scheduler_config.json", beta_schedule="steep")
    with pytest.raises(CheckpointError, match="scheduler describes no scheduler") as error:
        load(resolve([models / "seesr"]))
    assert "\n" not in str(error.value)
