"""`resdiff convert` of SeeSR and AddSR, and what the other commands make of the folder and of the names."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "pipelines"))  # the published tree is a module there, not a package

from published_seesr import write_tree

from resdiff.checkpoints.known_bases import SD2_BASE
from resdiff.checkpoints.known_seesr import ADDSR_DRIVE, DAPE_FILE, RAM_FILE, SEESR_DRIVE, SEESR_MODELS
from resdiff.commands.convert import convert_checkpoints
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.addsr import AddSRPipeline

SMALL = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
RAM, DAPE = RAM_FILE.file, DAPE_FILE.file
UNET = "unet/diffusion_pytorch_model.safetensors"


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


@pytest.fixture(scope="module")
def converted(tree, tmp_path_factory):
    """AddSR's folder, converted; not to be changed."""
    folder = tmp_path_factory.mktemp("converted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESDIFF_CACHE", str(folder / "cache"))
        convert_checkpoints([tree / "addsr"], folder / "addsr", None, "fp32")
    return folder / "addsr"


def restored(model) -> torch.Tensor:
    pipe = SRPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    pipe.smallest_side = 1
    generator = torch.Generator().manual_seed(5)
    return pipe(SMALL, "sharp fur", num_inference_steps=2, generator=generator, output_type="pt").images


def told(result) -> list[str]:
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


# --- convert -------------------------------------------------------------------------------------------------------


def test_the_parts_may_lie_anywhere_and_be_given_in_any_order(resdiff, models, tmp_path):
    wanted = restored(models / "addsr")
    apart = tmp_path / "apart"
    apart.mkdir()
    for name in (DAPE, RAM, "ram_tag_list.txt", "ram_tag_list_threshold.txt", "stable-diffusion-2-base"):
        shutil.move(models / name, apart / name)
    sources = (apart / DAPE, apart / "stable-diffusion-2-base", models / "addsr", apart / RAM)
    lines = told(resdiff("convert", *sources, tmp_path / "out"))
    assert lines[0] == "addsr: Apache-2.0" and "stable-diffusion-2-base: CreativeML Open RAIL++-M" in lines
    torch.testing.assert_close(restored(tmp_path / "out"), wanted, atol=0, rtol=0)
    assert type(SRPipeline.from_pretrained(tmp_path / "out")) is AddSRPipeline


def test_the_card_names_the_licence_and_the_origin_of_every_part(resdiff, tree, cache, tmp_path):
    told(resdiff("convert", tree / "seesr", tmp_path / "out", "--as", "seesr-turbo"))
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: other\n") and "# seesr-turbo" in card
    for words in (SEESR_DRIVE, "huggingface.co/stabilityai/sd-turbo", RAM_FILE.url):
        (row,) = (
            line for line in card.splitlines() if words in line and (words != SEESR_DRIVE or "| dape" not in line)
        )
        assert row.count("|") == 4
    assert "Stability AI's non-commercial community licence" in card
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert (index["num_inference_steps"], index["guidance_scale"]) == (2, 1.0)


def test_the_base_may_be_named_and_the_weights_stored_in_half_precision(resdiff, models, tmp_path):
    shutil.move(models / "stable-diffusion-2-base", tmp_path / "mine")
    told(resdiff("convert", models / "seesr", tmp_path / "out", "--base", tmp_path / "mine", "--dtype", "fp16"))
    files = list((tmp_path / "out").rglob("*.safetensors"))
    assert sorted(file.parent.name for file in files) == ["controlnet", "tagger", "text_encoder", "unet", "vae"]
    assert {x.dtype for file in files for x in load_file(file).values()} == {torch.float16}


def test_without_the_taggers_files_it_is_converted_without_tagger_and_the_log_says_so(
    resdiff, models, tmp_path, caplog
):
    (models / RAM).unlink()
    lines = told(resdiff("convert", models / "seesr", tmp_path / "out"))
    assert f"without its tagger, {RAM} lacks" in caplog.text and not any("recognize" in line for line in lines)
    assert SRPipeline.from_pretrained(tmp_path / "out").tagger is None
    assert "recognize" not in (tmp_path / "out" / "README.md").read_text()


def test_without_the_lists_it_is_converted_without_names_of_tags_and_the_log_says_so(resdiff, models, tmp_path, caplog):
    (models / "ram_tag_list_threshold.txt").unlink()
    told(resdiff("convert", models / "seesr", tmp_path / "out"))
    assert "without names of tags: offline, and ram_tag_list.txt and ram_tag_list_threshold.txt" in caplog.text
    assert json.loads((tmp_path / "out" / "tagger" / "config.json").read_text())["tags"] is None


def change(path: Path, **options) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def test_bad_parts_are_one_line_and_nothing_is_written(refusal, models, tmp_path):
    seesr, base, out = models / "seesr", models / "stable-diffusion-2-base", tmp_path / "out"
    xl, sd1, other = tmp_path / "xl", tmp_path / "sd1", models / "other"
    for folder in (xl, sd1):
        shutil.copytree(base, folder)
    change(xl / "unet" / "config.json", cross_attention_dim=2048)
    change(sd1 / "unet" / "config.json", cross_attention_dim=768)
    shutil.copytree(seesr, other)
    weights = load_file(other / UNET)
    save_file({name: x[:1] if name == "conv_in.weight" else x for name, x in weights.items()}, other / UNET)
    for arguments, message in (
        ((seesr, xl), "xl is SDXL; stable-diffusion-2-base is needed: give its diffusers folder"),
        ((seesr, "--base", sd1), "sd1 is Stable Diffusion 1; stable-diffusion-2-base is needed"),
        ((seesr, base, models / "sd-turbo"), "are both the base; give one"),
        ((seesr, models / "addsr"), "are both the model; give one"),
        ((seesr, "--as", "sinsr-v1"), "'sinsr-v1' is not a known model of the SeeSR family; choose one of seesr"),
        ((seesr, "--as", "adsr"), "'adsr' is not a known model; choose one of addsr"),
        ((seesr, "--base", "none"), "none does not exist; stable-diffusion-2-base is needed"),
        ((seesr, models / "ram_tag_list.txt"), "it is found beside ram_swin_large_14m.pth; leave it out"),
        ((other,), "other could be seesr, seesr-turbo, addsr; say which with --as NAME"),
        ((other, "--as", "seesr"), "unet does not fit SeeSRUNet: 1 of another shape (conv_in.weight"),
        ((models / DAPE, models / RAM), "no folder with unet/ and controlnet/ is given"),
        ((models,), f"give {seesr}"),
        ((tmp_path / "no",), "no does not exist; check the name"),
    ):
        assert message in refusal("convert", *arguments, out), message
    assert not out.exists() and not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_converted_folder_is_not_converted_again(refusal, converted, cache, tmp_path):
    assert "addsr is a saved pipeline already; use it as it is" in refusal("convert", converted, tmp_path / "again")


# --- upscale, info, models -----------------------------------------------------------------------------------------


def test_a_converted_folder_enlarges_photos_by_a_prompt(resdiff, converted, cache, tmp_path):
    shutil.copytree(converted, tmp_path / "addsr")
    change(tmp_path / "addsr" / "model_index.json", process_size=32)  # tiny images are not enlarged first
    Image.effect_noise((12, 8), 60).convert("RGB").save(tmp_path / "a.png")
    common = ("upscale", tmp_path / "a.png", "--model", tmp_path / "addsr", "--steps", 2, "--device", "cpu")
    for name, words in (("sharp", ("--prompt", "sharp fur")), ("again", ("--prompt", "sharp fur")), ("plain", ())):
        assert "1 written" in told(resdiff(*common, "-o", tmp_path / f"{name}.png", *words))[-1]
    sharp, again, plain = (Image.open(tmp_path / f"{name}.png") for name in ("sharp", "again", "plain"))
    assert sharp.size == (48, 32)
    assert sharp.tobytes() == again.tobytes() != plain.tobytes()
    assert "1 written" in told(resdiff(*common, "-o", tmp_path / "other.png", "--option", "psr_weight=0"))[-1]
    assert Image.open(tmp_path / "other.png").tobytes() != plain.tobytes()
    for option, message in (
        ("hue=3", "hue: no option of AddSRPipeline; it has "),
        ("psr_weight=2", "psr_weight=2 must"),
    ):
        refused = resdiff(*common, "-o", tmp_path / "none.png", "--option", option)
        assert refused.exit_code == 2 and message in refused.stderr and not (tmp_path / "none.png").exists()


def test_names_are_listed_with_licence_and_with_what_lacks(resdiff, models, cache):
    def line_of(name: str) -> str:
        (line,) = (line for line in told(resdiff("models")) if line.startswith(f"{name} "))
        return line

    for name, known in SEESR_MODELS.items():
        line = line_of(name)
        assert " x4 " in line and " - " in line and known.description in line
        assert known.licence in line and known.base.licence in line
    assert "for seesr, seesr-turbo, addsr, stablesr-face that says what to get by hand" in told(resdiff("models"))[-1]
    shutil.copytree(models / "seesr", cache / "seesr")
    shutil.copy(models / RAM, cache / RAM)
    assert f" no {DAPE}, stable-diffusion-2-base " in line_of("seesr")
    assert f" no {DAPE}, sd-turbo " in line_of("seesr-turbo") and " - " in line_of("addsr")
    shutil.copy(models / DAPE, cache / DAPE)
    shutil.copytree(models / "sd-turbo", cache / "sd-turbo")
    size = sum(file.stat().st_size for file in cache.rglob("*") if file.is_file() and ".licences" not in file.parts)
    assert f" {size / 1e6:.0f} MB " in line_of("seesr-turbo")


def test_info_tells_what_is_here_and_where_to_get_the_rest(resdiff, models, cache):
    lines = told(resdiff("info", "addsr"))
    assert any(line.startswith("family") and line.endswith("AddSRPipeline") for line in lines)
    assert [line.split()[-1] for line in lines if line.startswith("not here")] == [
        *(ADDSR_DRIVE, ADDSR_DRIVE),
        *(RAM_FILE.url, SEESR_DRIVE),
        SD2_BASE.url,
    ]
    (said,) = (line for line in lines if line.startswith("by hand"))
    assert str(cache / "addsr") in said
    lines = told(resdiff("info", models / "seesr"))
    assert not any(line.startswith(("not here", "by hand")) for line in lines)
    weights = (
        load_file(models / "seesr" / part / "diffusion_pytorch_model.safetensors") for part in ("unet", "controlnet")
    )
    count = sum(x.numel() for state in weights for x in state.values())
    assert f"parameters  {count / 1e6:.2f} million" in lines
    assert "licence     Apache-2.0; base CreativeML Open RAIL++-M" in lines and "steps       50 by default" in lines


def test_info_of_a_folder_that_could_be_several_asks_which(resdiff, refusal, models):
    (models / "seesr").rename(models / "mine")
    assert "mine is not a published folder's name; say which model it is with --as NAME" in refusal(
        "info", models / "mine"
    )
    lines = told(resdiff("info", models / "mine", "--as", "seesr-turbo"))
    assert lines[0].endswith("seesr-turbo") and "steps       2 by default" in lines


def test_info_of_a_converted_folder_points_to_its_card(resdiff, converted, cache):
    lines = told(resdiff("info", converted))
    assert f"licence     see {converted / 'README.md'}" in lines
    assert "scale       x4" in lines and "steps       4 by default" in lines


def test_fetching_verifies_what_was_put_there_and_says_what_lacks(resdiff, models, cache):
    result = resdiff("models", "fetch", "seesr")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: seesr is not in ") and SEESR_DRIVE in line and RAM_FILE.url in line
    shutil.copytree(models, cache, dirs_exist_ok=True)
    (line,) = told(resdiff("models", "fetch", "seesr"))
    assert (
        line.startswith("seesr: verified unet (") and f" and {DAPE} (" in line and "stable-diffusion-2-base (" in line
    )
    (cache / DAPE).unlink()
    (line,) = resdiff("models", "fetch", "addsr").stderr.splitlines()
    assert line.startswith(f"Error: addsr lacks {DAPE}: put {RAM}") and SEESR_DRIVE in line
    shutil.copy(cache / RAM, cache / DAPE)
    (line,) = resdiff("models", "fetch", "addsr").stderr.splitlines()
    assert line == f"Error: {cache / DAPE} is the tagger, not the tagger's update; download it again"


def test_what_was_put_there_by_hand_is_removed_by_hand(refusal, cache):
    assert refusal("models", "rm", "seesr") == (
        "seesr was put into the cache by hand; delete its folder seesr there by hand"
    )
