"""SeeSR and AddSR open by name, from the published folder and from the folder that they are saved into."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

sys.path.insert(0, str(Path(__file__).parent))  # the published tree is a module beside this file, not a package

from published_seesr import write_tree

from resdiff.checkpoints.known_seesr import ADDSR_DRIVE, FLAG, SEESR_DRIVE, SEESR_MODELS
from resdiff.models.ram import RAM
from resdiff.models.seesr import SeeSRUNet
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.registry import family
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import tiny_adapter
from resdiff.schedulers.ddpm import DDPMScheduler

SMALL = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return write_tree(tmp_path_factory.mktemp("preset") / "models")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache."""
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def models(tree, cache, tmp_path):
    """The tree again, to be changed."""
    return shutil.copytree(tree, tmp_path / "models")


def restored(pipe) -> torch.Tensor:
    """The image that a small photo becomes in two steps; images of any size are small enough."""
    pipe.set_progress_bar_config(disable=True)
    pipe.smallest_side = 1
    generator = torch.Generator().manual_seed(5)
    return pipe(SMALL, "sharp fur", num_inference_steps=2, generator=generator, output_type="pt").images


def refused(match: str, *given, **options) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        SRPipeline.from_pretrained(*given, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind", "steps", "scale"),
    [
        ("seesr", SeeSRPipeline, 50, 5.5),
        ("seesr-turbo", SeeSRPipeline, 2, 1.0),
        ("addsr", AddSRPipeline, 4, 1.0),
    ],
)
def test_a_name_opens_what_lies_in_the_cache_with_its_published_defaults(tree, monkeypatch, name, kind, steps, scale):
    monkeypatch.setenv("RESDIFF_CACHE", str(tree))
    pipe = SRPipeline.from_pretrained(name)
    assert type(pipe) is kind and pipe.native_scale == SEESR_MODELS[name].scale
    assert (pipe.default_steps, pipe.default_guidance_scale(negative=True)) == (steps, scale)
    assert type(pipe.scheduler) is DDPMScheduler and pipe.scheduler.config.clip_sample is False
    assert type(pipe.tagger) is RAM and pipe.tagger.config.tags[1] == "cat"


@pytest.mark.parametrize("name", SEESR_MODELS)
def test_the_table_says_what_the_classes_have_as_defaults(name):
    known = SEESR_MODELS[name]
    parameters = inspect.signature(family(known.family)).parameters
    if name != "seesr-turbo":  # the class is SeeSR's
        assert parameters["num_inference_steps"].default == known.num_inference_steps
        assert parameters["guidance_scale"].default == known.guidance_scale


@pytest.mark.parametrize("name", ["seesr", "addsr"])
def test_a_saved_pipeline_gives_the_image_of_the_published_folder_bit_for_bit(tree, cache, tmp_path, name):
    pipe = SRPipeline.from_pretrained(tree / name)
    before = restored(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    again = SRPipeline.from_pretrained(tmp_path / "saved")
    assert type(again) is type(pipe) and again.default_steps == pipe.default_steps
    torch.testing.assert_close(restored(again), before, atol=0, rtol=0)
    assert before.shape == (1, 3, 32, 32) and before.std() > 0.01
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["unet"] == ["resdiff.models.seesr", "SeeSRUNet"]
    assert index["scheduler"] == ["resdiff.schedulers.ddpm", "DDPMScheduler"]
    assert index["tagger"] == ["resdiff.models.ram", "RAM"]


def test_parts_may_lie_anywhere_and_be_of_any_precision(models, tmp_path):
    for name in ("stable-diffusion-2-base", "ram_swin_large_14m.pth", "DAPE.pth"):
        shutil.move(models / name, tmp_path / name)
    parts = {"ram_file": tmp_path / "ram_swin_large_14m.pth", "dape_file": tmp_path / "DAPE.pth"}
    shutil.move(models / "seesr", models / "mine")
    refused("say which with --as NAME", models / "mine")
    pipe = SRPipeline.from_pretrained(
        models / "mine", known_as="addsr", base=tmp_path / "stable-diffusion-2-base", dtype=torch.bfloat16, **parts
    )
    assert type(pipe) is AddSRPipeline and type(pipe.tagger) is RAM
    assert {network.dtype for network in pipe.networks} == {torch.bfloat16}


def test_without_its_files_the_model_opens_without_tagger_and_the_log_says_so(models, caplog):
    (models / "DAPE.pth").unlink()
    assert SRPipeline.from_pretrained(models / "seesr").tagger is None
    assert "without its tagger, DAPE.pth lacks" in caplog.text


@pytest.mark.parametrize(("name", "drive"), [("seesr", SEESR_DRIVE), ("addsr", ADDSR_DRIVE)])
def test_a_name_that_is_not_in_the_cache_says_where_to_get_it(cache, name, drive):
    refused(f"{name} is not in .*cache: download {drive} by hand", name)


def test_unknown_names_list_the_family(cache):
    refused(r"did you mean seesr-turbo\?.*seesr, seesr-turbo, addsr", "seesr-turb")


def test_options_of_other_kinds_of_models_are_refused(models):
    folder = models / "seesr"
    refused(
        "vae_file: unknown options; for .*seesr there are dtype, known_as, base, ram_file, dape_file",
        folder,
        vae_file="x",
    )
    refused("varient: unknown options", "seesr", varient="fp16")
    refused("base: unknown options; for sinsr-v1 there are dtype, known_as, vae_file", "sinsr-v1", base="x")
    refused("base, dape_file: for published files and folders only", None, base="x", dape_file="y")
    refused("known_as is addsr, but seesr says which model it is", "seesr", known_as="addsr")
    refused("'addsrr' is not a known model; choose one of addsr, ", folder, known_as="addsrr")
    refused("'sinsr-v1' is not a known model of the SeeSR family", folder, known_as="sinsr-v1")


def test_a_file_known_as_seesr_lacks_the_folder(models):
    for file, options in (("DAPE.pth", {}), ("ram_swin_large_14m.pth", {"known_as": "seesr"})):
        refused("no folder with unet/ and controlnet/ is given", models / file, **options)


def test_a_base_of_another_kind_is_refused(models):
    config = models / "stable-diffusion-2-base" / "unet" / "config.json"
    written = json.loads(config.read_text())
    for width, kind in ((768, "Stable Diffusion 1"), (2048, "SDXL")):
        config.write_text(json.dumps(written | {"cross_attention_dim": width}))
        refused(f"stable-diffusion-2-base is {kind}; stable-diffusion-2-base is needed", models / "seesr")
    refused("is SeeSR, not its base", models / "seesr", base=models / "addsr")
    refused("does not exist; stable-diffusion-2-base is needed", models / "seesr", base=models / "none")


def test_a_folder_that_lacks_a_network_is_neither_saved_nor_published(models):
    shutil.rmtree(models / "seesr" / "controlnet")
    refused(r"seesr holds no model_index\.json, nor unet/ and controlnet/", models / "seesr")


def test_a_stock_class_that_would_ignore_the_image_attentions_is_refused(tree, cache, tmp_path):
    tiny_adapter(SeeSRPipeline).save_pretrained(tmp_path / "saved")
    shutil.copy(tree / "seesr" / "unet" / "config.json", tmp_path / "saved" / "unet")  # with names that diffusers knows
    assert type(SRPipeline.from_pretrained(tmp_path / "saved").unet) is SeeSRUNet
    index = tmp_path / "saved" / "model_index.json"
    content = json.loads(index.read_text())
    index.write_text(json.dumps(content | {"unet": ["diffusers", "UNet2DConditionModel"]}))
    refused(f"unet has {FLAG}, which UNet2DConditionModel of diffusers does not know", tmp_path / "saved")
    config = tmp_path / "saved" / "unet" / "config.json"
    assert UNet2DConditionModel.from_config(
        json.loads(config.read_text())
    )  # or else it would open, and attend to nothing


HEAVY = """
import sys
from resdiff.pipelines import SRPipeline
SRPipeline.from_pretrained()
heavy = ("transformers.models.clip.modeling_clip", "resdiff.pipelines.seesr", "resdiff.checkpoints.seesr")
assert not set(heavy) & set(sys.modules), set(heavy) & set(sys.modules)
"""


def test_other_families_open_without_importing_this_one():
    subprocess.run([sys.executable, "-c", HEAVY], check=True)
