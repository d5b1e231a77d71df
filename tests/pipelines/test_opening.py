"""What `SRPipeline.from_pretrained` makes of names, folders and files."""

import json

import pytest
import torch
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
    with pytest.raises(
        ValueError, match=r"did you mean resshift-small\?.*known are resshift-small, bicubic, "
    ) as caught:
        SRPipeline.from_pretrained("resshift-smal")
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
        ('{"_class_name": "FluxPipeline"}', "FluxPipeline"),
    ],
)
def test_a_folder_that_is_no_pipeline_is_one_clear_line(tmp_path, index, message) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(ValueError, match=message) as caught:
        SRPipeline.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


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
