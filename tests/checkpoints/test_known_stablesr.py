"""The tables of StableSR's files and of the bases are consistent, and files are known by their names."""

import subprocess
import sys

import pytest

from resdiff.checkpoints.known_bases import BASES, SD21, SD21_BASE, SD_TURBO, base_by_file
from resdiff.checkpoints.known_models import MODELS, known_model
from resdiff.checkpoints.known_stablesr import (
    CFW,
    STABLESR_MODELS,
    cfw_is_for_faces,
    stablesr_by_file,
    stablesr_by_name,
)


def test_every_published_model_is_there_with_its_settings():
    settings = {
        name: (m.base, m.prediction_type, m.num_inference_steps, m.fidelity, m.process_size, m.color_fix)
        for name, m in STABLESR_MODELS.items()
    }
    assert settings == {
        "stablesr": (SD21_BASE, "epsilon", 200, 0.5, 512, "adain"),
        "stablesr-turbo": (SD_TURBO, "epsilon", 4, 0.5, 512, "wavelet"),
        "stablesr-768v": (SD21, "v_prediction", 200, 0.0, 768, "adain"),
        "stablesr-face": (SD21_BASE, "v_prediction", 200, 0.5, 512, "adain"),
    }
    assert all(m.guidance_scale == 1 and "non-commercial" in m.licence for m in STABLESR_MODELS.values())
    assert [name for name, m in STABLESR_MODELS.items() if m.for_faces] == ["stablesr-face"]


def test_a_file_is_fetched_from_the_publishers_repository_but_those_for_faces():
    where = "https://huggingface.co/Iceclear/StableSR"
    assert STABLESR_MODELS["stablesr"].weights.url == f"{where}/resolve/main/stablesr_000117.ckpt"
    assert CFW.url == f"{where}/resolve/main/vqgan_cfw_00011.ckpt"
    face = STABLESR_MODELS["stablesr-face"]
    assert not face.weights.is_downloadable and not face.cfw.is_downloadable and face.weights.url == where


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("stablesr_000117.ckpt", "stablesr"),
        ("weights/StableSR_000117.SAFETENSORS", "stablesr"),
        ("stablesr_webui_sd-v2-1-512-ema-000117.ckpt", "stablesr"),
        ("stablesr_turbo.ckpt", "stablesr-turbo"),
        ("stablesr_768v_000139.ckpt", "stablesr-768v"),
        ("webui_768v_139.ckpt", "stablesr-768v"),
        ("face_stablesr_000050.ckpt", "stablesr-face"),
        ("face/stablesr.ckpt", None),
        ("stablesr_000117_turbo.ckpt", None),
        ("epoch=000003.ckpt", None),
    ],
)
def test_a_checkpoint_is_known_by_its_name(file, name):
    known = stablesr_by_file(file)
    assert (known.name if known else None) == name


@pytest.mark.parametrize(
    ("file", "for_faces"),
    [
        ("vqgan_cfw_00011.ckpt", False),
        ("vqgan_finetune_00011.safetensors", False),
        ("face_vqgan_cfw_00011.ckpt", True),
        ("mine.ckpt", None),
    ],
)
def test_what_a_cfw_is_for_its_name_tells(file, for_faces):
    assert cfw_is_for_faces(file) is for_faces


def test_every_published_name_tells_its_own_model():
    for name, known in STABLESR_MODELS.items():
        assert {stablesr_by_file(file).name for file in known.files} == {name}
        assert known.cfw is None or {cfw_is_for_faces(file) for file in known.cfw.files} == {known.for_faces}


def test_names_are_unique_among_all_families_and_unknown_ones_are_answered_with_the_closest():
    assert known_model("stablesr-turbo") is stablesr_by_name("stablesr-turbo")
    assert len(MODELS) == 11 + 3 + 4
    with pytest.raises(ValueError, match=r"'stablesr-trubo' is not a known model; choose one of stablesr-turbo, "):
        known_model("stablesr-trubo")
    with pytest.raises(
        ValueError, match=r"'seesr' is not a known model of the StableSR family; choose one of stablesr"
    ):
        stablesr_by_name("seesr")


@pytest.mark.parametrize(
    ("file", "base"),
    [
        ("v2-1_768-ema-pruned.ckpt", SD21),
        ("V2-1_512-nonema-pruned.safetensors", SD21_BASE),
        ("sd_turbo.safetensors", SD_TURBO),
        ("model.ckpt", None),
    ],
)
def test_a_base_in_a_single_file_is_known_by_its_name(file, base):
    assert base_by_file(file) is base


def test_only_stable_diffusion_21_itself_predicts_v():
    assert [base.name for base in BASES if base.prediction_type == "v_prediction"] == ["stable-diffusion-2-1"]
    assert all(base.scheduler["clip_sample"] is False for base in BASES)


def test_listing_the_models_does_not_import_torch():
    code = "import sys, resdiff.checkpoints.known_models, resdiff.checkpoints.stablesr_files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
