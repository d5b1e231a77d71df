"""`resdiff models`: what is listed, fetched, verified and removed, and what is said when that fails."""

import pytest
import torch

from resdiff.checkpoints import layout
from resdiff.checkpoints.known import KNOWN


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture
def mirror(cache, serve, tmp_path, tiny_layout):
    """A folder, served over HTTP, with the tiny files of two models."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    unet, vae = layout.SwinUNet(**tiny_layout[0]).state_dict(), layout.VQAutoencoder(**tiny_layout[1]).state_dict()
    torch.save(unet, folder / "resshift_realsrx4_s4_v3.pth")
    torch.save(unet, folder / "resshift_bicsrx4_s4.pth")
    torch.save(vae, folder / "autoencoder_vq_f4.pth")
    serve(folder)
    return folder


def line_of(result, name: str) -> str:
    (line,) = (line for line in result.stdout.splitlines() if line.startswith(f"{name} "))
    return line


def test_every_model_is_listed_with_scale_and_licence(resdiff, cache) -> None:
    result = resdiff("models")
    assert result.exit_code == 0 and "Apache-2.0" in line_of(result, "resdiff-small")
    for known in KNOWN.values():
        line = line_of(result, known.name)
        assert f" x{known.scale} " in line and known.licence in line and known.description in line
    assert f"In {cache} ($RESDIFF_CACHE): 0 files, 0 MB" in result.stdout and not cache.exists()


def test_the_list_tells_what_is_in_the_cache(resdiff, cache) -> None:
    cache.mkdir()
    for name, size in (
        ("SinSR_v1.pth", 3_000_000),
        ("resshift_faceir_s4.pth", 1),
        ("autoencoder_vq_f4.pth", 2_000_000),
    ):
        (cache / name).write_bytes(bytes(size))
    result = resdiff("models")
    assert " 5 MB " in line_of(result, "sinsr-v1") and " - " in line_of(result, "sinsr-v2")
    assert "no autoencoder" in line_of(result, "resshift-faceir")
    assert "3 files, 5 MB" in result.stdout


def test_fetching_removing_and_fetching_again(resdiff, mirror, cache, caplog) -> None:
    result = resdiff("models", "fetch", "resshift-realsrx4-v3", "resshift-bicsrx4")
    assert result.exit_code == 0, result.output
    first, second = result.stdout.splitlines()
    assert first.startswith("resshift-realsrx4-v3: verified resshift_realsrx4_s4_v3.pth (")
    assert "autoencoder_vq_f4.pth (" in second and str(cache) in second
    assert "autoencoder_vq_f4.pth: 100%" in result.stderr
    assert ["non-commercial" in message for message in caplog.messages] == [True, True]

    result = resdiff("models", "rm", "resshift-bicsrx4")
    assert result.stdout == (
        "resshift-bicsrx4: deleted resshift_bicsrx4_s4.pth, resshift_bicsrx4_s4.pth.sha256; "
        f"autoencoder_vq_f4.pth stays, resshift-realsrx4-v3 needs it in {cache}\n"
    )
    result = resdiff("models", "rm", "resshift-realsrx4-v3", "resshift-realsrx4-v3")
    assert result.exit_code == 0 and "autoencoder_vq_f4.pth.sha256" in result.stdout
    assert result.stdout.splitlines()[1] == f"resshift-realsrx4-v3: nothing to delete in {cache}"
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == []
    assert resdiff("models", "fetch", "resshift-realsrx4-v3").exit_code == 0


def test_a_damaged_file_is_found_and_the_remedy_helps(resdiff, mirror, cache) -> None:
    assert resdiff("models", "fetch", "resshift-realsrx4-v3").exit_code == 0
    file = cache / "resshift_realsrx4_s4_v3.pth"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = resdiff("models", "fetch", "resshift-realsrx4-v3")
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line == (
        f"Error: {file} has changed since it was verified; to replace it: resdiff models rm resshift-realsrx4-v3, "
        "then resdiff models fetch resshift-realsrx4-v3"
    )
    assert resdiff("models", "rm", "resshift-realsrx4-v3").exit_code == 0
    assert resdiff("models", "fetch", "resshift-realsrx4-v3").exit_code == 0


def test_a_model_that_fails_does_not_keep_the_others_from_being_fetched(resdiff, mirror, cache) -> None:
    result = resdiff("models", "fetch", "sinsr-v1", "resshift-realsrx4-v3")
    assert result.exit_code == 1 and result.stdout.startswith("resshift-realsrx4-v3: verified")
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error"))
    assert "/SinSR_v1.pth: the server said 404" in line and KNOWN["sinsr-v1"].url in line


def test_without_network_one_line_says_what_to_get(resdiff, cache) -> None:
    result = resdiff("models", "fetch", "sinsr-v1")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: offline: sinsr-v1 needs https://") and f"download into {cache}" in line


@pytest.mark.parametrize("command", ["fetch", "rm"])
@pytest.mark.parametrize("name", ["../x", "SinSR_v1.pth", "resdiff-small"])
def test_an_unknown_name_ends_the_command_before_anything_is_done(refusal, cache, command, name) -> None:
    cache.mkdir()
    (cache / "SinSR_v1.pth").write_bytes(b"x")
    assert f"{name!r} is not a known model; choose one of" in refusal("models", command, "sinsr-v1", name)
    assert (cache / "SinSR_v1.pth").exists()


def test_a_file_that_cannot_be_deleted_is_one_line(refusal, cache) -> None:
    (cache / "SinSR_v1.pth").mkdir(parents=True)
    assert "cannot be deleted" in refusal("models", "rm", "sinsr-v1")
