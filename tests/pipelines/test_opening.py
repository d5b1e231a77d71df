"""What `SRPipeline.from_pretrained` makes of names, folders and files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from resdiff.pipelines import SRPipeline
from resdiff.pipelines.bicubic import BicubicPipeline
from resdiff.resize import bicubic


def test_bicubic_is_a_model_name() -> None:
    pipe = SRPipeline.from_pretrained("bicubic")
    pipe.set_progress_bar_config(disable=True)
    lr = torch.rand(1, 3, 9, 7)
    expected = bicubic(lr, (36, 28), "pil").clamp(0, 1)
    torch.testing.assert_close(pipe(lr, output_type="pt").images, expected, atol=1e-6, rtol=0)


def test_bicubic_saves_and_opens(tmp_path) -> None:
    SRPipeline.from_pretrained("bicubic").save_pretrained(tmp_path)
    assert type(SRPipeline.from_pretrained(tmp_path)) is BicubicPipeline


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"did you mean resdiff-small\?.*known are resdiff-small, bicubic, ") as caught:
        SRPipeline.from_pretrained("resdiff-smal")
    assert "\n" not in str(caught.value)


def test_a_known_name_without_files_says_where_to_get_them(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"resshift_realsrx4_s4_v3\.pth.*autoencoder_vq_f4\.pth.*download into"):
        SRPipeline.from_pretrained("resshift-realsrx4-v3")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "no model_index.json"),
        ("{", "not a pipeline description"),
        ("[1]", "not a pipeline description"),
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
    with pytest.raises(ValueError, match="known_as and vae_file are for published files"):
        SRPipeline.from_pretrained(model, known_as="sinsr-v1")


def test_unknown_options_for_a_published_file_are_refused(tmp_path) -> None:
    (tmp_path / "a.pth").touch()
    with pytest.raises(ValueError, match="varient: unknown option"):
        SRPipeline.from_pretrained(tmp_path / "a.pth", varient="fp16")


def test_the_older_name_of_dtype_works(tmp_path, pixel) -> None:
    pixel.save_pretrained(tmp_path)
    assert SRPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_published_file_opens_as_its_model(tmp_path, latent, monkeypatch) -> None:
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "empty"))
    torch.save(latent.unet.state_dict(), tmp_path / "resshift_realsrx4_s4_v3.pth")
    torch.save({"state_dict": latent.vae.state_dict()}, tmp_path / "autoencoder_vq_f4.pth")
    pipe = SRPipeline.from_pretrained(tmp_path / "resshift_realsrx4_s4_v3.pth")
    assert pipe.scheduler.config.num_train_timesteps == 4 and pipe.default_steps == 4
    assert pipe.config.scale == 4
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path))
    by_name = SRPipeline.from_pretrained("resshift-realsrx4-v3")
    for a, b in zip(pipe.unet.state_dict().values(), by_name.unet.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_index_of_a_saved_pipeline_names_importable_modules(tmp_path, latent) -> None:
    latent.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["resdiff.models.swin_unet", "SwinUNet"]
    assert index["vae"] == ["resdiff.models.vq", "VQAutoencoder"]
    assert index["scheduler"] == ["resdiff.schedulers.resshift", "ResShiftScheduler"]
