"""The table of published files is consistent, and files are found by their names."""

import subprocess
import sys

import pytest

from resdiff.checkpoints.known import (
    AUTOENCODERS,
    KNOWN,
    VQ_F4_FACE,
    autoencoder_by_file,
    known_by_file,
    known_by_name,
)
from resdiff.checkpoints.resshift import scheduler_for


def test_every_published_name_is_there():
    assert list(KNOWN) == [
        "resshift-realsrx4-v1",
        "resshift-bicsrx4-opencv-s15",
        "resshift-bicsrx4-matlab-s15",
        "sinsr-v1",
        "sinsr-v2",
        "resshift-realsrx4-v2",
        "resshift-realsrx4-v3",
        "resshift-bicsrx4",
        "resshift-inpaint-imagenet",
        "resshift-inpaint-face",
        "resshift-faceir",
    ]
    assert all("non-commercial" in known.licence and "\n" not in known.description for known in KNOWN.values())


def test_no_file_belongs_to_two_models():
    files = [file.lower() for known in KNOWN.values() for file in known.files]
    assert len(files) == len(set(files))


@pytest.mark.parametrize("known", KNOWN.values(), ids=KNOWN)
def test_steps_fit_the_schedule_and_the_scheduler_takes_it(known):
    scheduler = scheduler_for(known)
    assert scheduler.config.kappa == known.schedule.kappa
    assert scheduler.config.deterministic == (known.condition == "sinsr")
    scheduler.set_timesteps(known.num_inference_steps)
    assert len(scheduler.timesteps) == known.num_inference_steps


@pytest.mark.parametrize(
    ("name", "start"), [("resshift-realsrx4-v1", 0.02), ("sinsr-v1", 0.02), ("resshift-faceir", 0.1)]
)
def test_the_schedule_starts_at_the_published_level(name, start):
    sqrt_etas = scheduler_for(KNOWN[name]).train_tables.sqrt_etas
    assert sqrt_etas[0].item() == pytest.approx(start, abs=1e-12)
    assert sqrt_etas[-1].item() == pytest.approx(0.99, abs=1e-12)


@pytest.mark.parametrize(("name", "factor"), [("sinsr-v2", 1), ("resshift-inpaint-face", 4), ("resshift-faceir", 8)])
def test_lr_side_over_latent_side(name, factor):
    assert KNOWN[name].lq_factor == factor


def test_an_unknown_name_is_answered_with_the_closest_first():
    assert known_by_name("sinsr-v1") is KNOWN["sinsr-v1"]
    with pytest.raises(ValueError, match=r"'SinSR_v2' is not a known model; choose one of sinsr-v2, ") as caught:
        known_by_name("SinSR_v2")
    assert all(str(caught.value).count(f"{name},") + str(caught.value).endswith(name) >= 1 for name in KNOWN)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("resshift_realsrx4_s4_v3.pth", "resshift-realsrx4-v3"),
        ("weights/RESSHIFT_REALSRX4_S4_V3.PTH", "resshift-realsrx4-v3"),
        ("resshift_realsrx4_s15.pth", "resshift-realsrx4-v1"),
        ("resshift_realsrx4_s15_v1.safetensors", "resshift-realsrx4-v1"),
        ("sinsr_v1", "sinsr-v1"),
        ("SinSR_v2.ckpt", "sinsr-v2"),
        ("resshift_inpaint_face_s4.pth", "resshift-inpaint-face"),
        ("resshift_inpainting_imagenet_s4.pth", "resshift-inpaint-imagenet"),
        ("resshift_bicsrx4_matlab_s15.pth", "resshift-bicsrx4-matlab-s15"),
    ],
)
def test_a_file_is_known_by_its_name(file, name):
    assert known_by_file(file) is KNOWN[name]


@pytest.mark.parametrize("file", ["model_300000.pth", "resshift_realsrx4_s4_v3.old.pth", "autoencoder_vq_f4.pth"])
def test_other_names_are_not_guessed(file):
    assert known_by_file(file) is None


def test_an_autoencoder_is_known_by_its_file_name():
    assert autoencoder_by_file("x/CELEBA256_vq_f4_dim3_face.safetensors") is VQ_F4_FACE
    assert autoencoder_by_file("mine.pth") is None
    assert {known.autoencoder for known in KNOWN.values()} == set(AUTOENCODERS)


def test_listing_the_models_does_not_import_torch():
    code = "import sys, resdiff.checkpoints.known; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
