"""What `SRPipeline.from_pretrained` makes of names, folders and files."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from resdiff.checkpoints import layout
from resdiff.checkpoints.known import KnownAutoencoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.bicubic import BicubicPipeline
from resdiff.resize import bicubic


def test_bicubic_is_a_model_name() -> None:
    pipe = SRPipeline.from_pretrained("bicubic")
    pipe.set_progress_bar_config(disable=True)
    lr = torch.rand(1, 3, 9, 7)
    expected = bicubic(lr, (36, 28), "matlab").clamp(0, 1)
    torch.testing.assert_close(pipe(lr, output_type="pt").images, expected, atol=1e-6, rtol=0)


def test_bicubic_saves_and_opens(tmp_path) -> None:
    SRPipeline.from_pretrained("bicubic").save_pretrained(tmp_path)
    assert type(SRPipeline.from_pretrained(tmp_path)) is BicubicPipeline


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"did you mean resdiff-small\?.*known are resdiff-small, bicubic, ") as caught:
        SRPipeline.from_pretrained("resdiff-smal")
    assert "\n" not in str(caught.value)


def test_a_hub_repository_is_to_be_downloaded_first() -> None:
    with pytest.raises(ValueError, match=r"hf download user/some\.model --local-dir FOLDER") as caught:
        SRPipeline.from_pretrained("user/some.model")
    assert "\n" not in str(caught.value)


def test_a_known_name_without_files_and_network_says_where_to_get_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"resshift_realsrx4_s4_v3\.pth.*autoencoder_vq_f4\.pth.*download into"):
        SRPipeline.from_pretrained("resshift-realsrx4-v3")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "no model_index.json"),
        ("{", "model_index.json cannot be read"),
        ("[" * 10000, "model_index.json cannot be read"),
        ("[1]", "is no JSON object but a list"),
        ("{}", "was saved by None"),
        ('{"_class_name": ["FluxPipeline"]}', "FluxPipeline"),
        ('{"_class_name": "FluxPipeline"}', "FluxPipeline"),
    ],
)
def test_a_folder_that_is_no_pipeline_is_one_clear_line(tmp_path, index, message) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=message) as caught:
        SRPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_bicubic_may_be_tiled_at_any_size() -> None:
    pipe = SRPipeline.from_pretrained("bicubic")
    assert pipe(torch.rand(1, 3, 40, 30), tile=16, output_type="pt").images.shape == (1, 3, 160, 120)


def test_a_folder_whose_weights_lack_a_name_or_have_one_too_many_is_refused(tmp_path, latent) -> None:
    latent.save_pretrained(tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = load_file(file)
    name = next(iter(whole))
    save_file({key: tensor for key, tensor in whole.items() if key != name}, file)
    with pytest.raises(ValueError, match=rf"unet does not fit SwinUNet: 1 missing \({name}\)"):
        SRPipeline.from_pretrained(tmp_path)
    save_file(whole | {"more": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"unet does not fit SwinUNet: 1 unexpected \(more\)"):
        SRPipeline.from_pretrained(tmp_path)
    assert SRPipeline.from_pretrained(tmp_path, unet=latent.unet).unet is latent.unet
    save_file(whole, file)
    assert SRPipeline.from_pretrained(tmp_path).default_steps == 4


@pytest.mark.parametrize("model", [None, "bicubic"])
def test_options_of_published_files_are_refused_where_they_mean_nothing(model) -> None:
    with pytest.raises(ValueError, match="known_as: for published files and folders only"):
        SRPipeline.from_pretrained(model, known_as="sinsr-v1")


def test_unknown_options_for_a_published_file_are_refused(tmp_path) -> None:
    (tmp_path / "a.pth").touch()
    with pytest.raises(ValueError, match="varient: unknown option"):
        SRPipeline.from_pretrained(tmp_path / "a.pth", varient="fp16")


def test_the_older_name_of_dtype_works(tmp_path, pixel) -> None:
    pixel.save_pretrained(tmp_path)
    assert SRPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16


UNET_FILE, VQ_FILE = "resshift_realsrx4_s4_v3.pth", "autoencoder_vq_f4.pth"


@pytest.fixture
def published(tmp_path, latent, monkeypatch):
    """A folder with the files of a known model, which is as small as `latent`; the cache is empty and offline."""
    folder = tmp_path / "published"
    folder.mkdir()
    torch.save(latent.unet.state_dict(), folder / UNET_FILE)
    torch.save({"state_dict": latent.vae.state_dict()}, folder / VQ_FILE)
    vae, unet = ({k: v for k, v in net.config.items() if k[0] != "_"} for net in (latent.vae, latent.unet))
    monkeypatch.setattr(layout, "arguments", lambda part: vae if isinstance(part, KnownAutoencoder) else unet)
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture
def mirror(published, serve):
    """The folder served over HTTP; its requests."""
    return serve(published)


def same_weights(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_a_published_file_opens_as_its_model(published, latent, monkeypatch) -> None:
    pipe = SRPipeline.from_pretrained(published / UNET_FILE)
    assert pipe.scheduler.config.num_train_timesteps == 4 and pipe.default_steps == 4
    assert pipe.config.scale == 4
    monkeypatch.setenv("RESDIFF_CACHE", str(published))
    assert same_weights(SRPipeline.from_pretrained("resshift-realsrx4-v3").unet, latent.unet)


def test_a_known_name_is_fetched_at_its_first_use(mirror, latent, capsys, caplog) -> None:
    with caplog.at_level(logging.WARNING, "resdiff"):
        pipe = SRPipeline.from_pretrained("resshift-realsrx4-v3")
    assert "resshift_realsrx4_s4_v3.pth: 100%" in capsys.readouterr().err
    assert ["non-commercial" in message for message in caplog.messages] == [True]
    assert same_weights(pipe.unet, latent.unet) and same_weights(pipe.vae, latent.vae)
    assert mirror == [f"/{UNET_FILE}", f"/{VQ_FILE}"]
    SRPipeline.from_pretrained("resshift-realsrx4-v3")
    assert len(mirror) == 2


def test_an_own_autoencoder_takes_the_place_of_the_published_one(mirror, published, tmp_path, capsys) -> None:
    own = tmp_path / "mine.pth"
    (published / VQ_FILE).rename(own)
    SRPipeline.from_pretrained("resshift-realsrx4-v3", vae_file=own, progress=False)
    assert mirror == [f"/{UNET_FILE}"] and UNET_FILE not in capsys.readouterr().err
    face = own.rename(tmp_path / "celeba256_vq_f4_dim3_face.pth")
    with pytest.raises(ValueError, match="is not the autoencoder of resshift-realsrx4-v3 by its name"):
        SRPipeline.from_pretrained("resshift-realsrx4-v3", vae_file=face)


def test_a_known_name_says_which_model_it_is() -> None:
    with pytest.raises(ValueError, match="known_as is sinsr-v1, but sinsr-v2 says which model it is"):
        SRPipeline.from_pretrained("sinsr-v2", known_as="sinsr-v1")


def test_the_licence_of_a_published_file_is_shown_too(published, caplog) -> None:
    with caplog.at_level(logging.WARNING, "resdiff"):
        SRPipeline.from_pretrained(published / UNET_FILE)
        SRPipeline.from_pretrained(published / UNET_FILE)
    assert ["non-commercial" in message for message in caplog.messages] == [True]


WEIGHTS = "diffusion_pytorch_model.safetensors"
SHARD = "diffusion_pytorch_model-00001-of-00001.safetensors"


@pytest.fixture(scope="module")
def whole(latent, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    latent.save_pretrained(folder)
    return folder


@pytest.fixture
def saved(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "saved")


def shard(folder, name=SHARD) -> None:
    """Cut the weights of a component into one shard, whose index calls it `name`."""
    names = list(load_file(folder / WEIGHTS))
    (folder / WEIGHTS).rename(folder / SHARD)
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, name)}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def refused(folder, match: str) -> None:
    with pytest.raises(ValueError, match=match) as caught:
        SRPipeline.from_pretrained(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_sharded_folder_opens(saved, latent) -> None:
    shard(saved / "unet")
    assert same_weights(SRPipeline.from_pretrained(saved).unet, latent.unet)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../vae/diffusion_pytorch_model.safetensors", "is not a file name within"),
        ("/etc/passwd", "is not a file name within"),
        ("diffusion_pytorch_model-00002-of-00002.safetensors", "is missing, which .* names"),
        (3, "is not an index of weights"),
    ],
)
def test_an_index_names_files_of_its_own_folder(saved, name, message) -> None:
    shard(saved / "unet", name)
    refused(saved, message)


@pytest.mark.parametrize("content", ["{", "[1]", '{"weight_map": [1]}', "[" * 10000])
def test_a_damaged_index_is_one_line(saved, content) -> None:
    shard(saved / "unet")
    (saved / "unet" / f"{WEIGHTS}.index.json").write_text(content)
    refused(saved, "cannot be read|is no JSON object|is not an index")


@pytest.mark.parametrize("lost", ["unet", "vae/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"])
def test_a_folder_that_lacks_a_part_is_one_line(saved, lost) -> None:
    shutil.rmtree(saved / lost) if (saved / lost).is_dir() else (saved / lost).unlink()
    refused(saved, "is missing|cannot be opened: Error no file named")


@pytest.mark.parametrize(
    ("damaged", "content"),
    [
        (f"unet/{WEIGHTS}", b"<html>" * 100),
        (f"unet/{WEIGHTS}", b""),
        ("vae/config.json", b"[1]"),
        ("vae/config.json", b"\xff"),
        ("vae/config.json", b'{"ch": "many"}'),
        ("scheduler/scheduler_config.json", b"{"),
    ],
)
def test_a_damaged_part_of_a_folder_is_one_line(saved, damaged, content) -> None:
    (saved / damaged).write_bytes(content)
    refused(saved, ".")


def test_a_component_outside_of_the_folder_is_refused(saved) -> None:
    index = json.loads((saved / "model_index.json").read_text())
    index["../unet"] = index["unet"]
    (saved / "model_index.json").write_text(json.dumps(index))
    refused(saved, "is not a file name within")


def test_the_index_of_a_saved_pipeline_names_importable_modules(tmp_path, latent) -> None:
    latent.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["resdiff.models.swin_unet", "SwinUNet"]
    assert index["vae"] == ["resdiff.models.vq", "VQAutoencoder"]
    assert index["scheduler"] == ["resdiff.schedulers.resshift", "ResShiftScheduler"]
