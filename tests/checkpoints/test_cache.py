"""What lies in the cache, what lacks, whose licence, and removal that stays within it."""

import logging

import pytest

from resdiff.checkpoints.cache import (
    address,
    cache_dir,
    cached,
    find_file,
    how_to_get,
    offline,
    others_with,
    remove,
    show_licence,
)
from resdiff.checkpoints.download import DownloadError, locked
from resdiff.checkpoints.known import KNOWN, VQ_F4
from resdiff.checkpoints.store import inside


def fill(folder, *names) -> None:
    for name in names:
        (folder / name).write_bytes(b"0" * 10)


def names_in(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("RESDIFF_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "resdiff"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "resdiff"


def test_the_first_folder_and_the_first_name_win_and_safetensors_are_found(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (there / "a.pth").touch()
    assert find_file(["a.pth", "b.pth"], [here, there]) == there / "a.pth"
    (here / "b.safetensors").touch()
    assert find_file(["a.pth", "b.pth"], [here, there]) == here / "b.safetensors"
    (here / "a.safetensors").touch()
    assert find_file(["a.pth", "b.pth"], [here, there]) == here / "a.safetensors"
    assert find_file(["c.pth"], [here, there, tmp_path / "nowhere"]) is None


def test_what_to_get_is_one_line_and_leaves_out_what_is_there(monkeypatch, tmp_path):
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path))
    known = KNOWN["resshift-faceir"]
    text = how_to_get(known)
    assert "\n" not in text and str(tmp_path) in text and known.licence in text
    assert "https://github.com/zsyOAOA/ResShift/releases/download/v2.0/resshift_faceir_s4.pth" in text
    assert "https://github.com/zsyOAOA/ResShift/releases/download/v2.0/ffhq512_vq_f8_dim8_face.pth" in text
    (tmp_path / "ffhq512_vq_f8_dim8_face.pth").touch()
    assert "ffhq512" not in how_to_get(known)


def test_the_network_is_left_alone_if_a_variable_says_so(monkeypatch) -> None:
    for name in ("RESDIFF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv("RESDIFF_OFFLINE", raising=False)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        assert not offline()
        for value, expected in (("1", True), ("True", True), ("0", False), ("", False)):
            monkeypatch.setenv(name, value)
            assert offline() is expected


def test_a_mirror_takes_the_place_of_the_release_pages(monkeypatch) -> None:
    monkeypatch.delenv("RESDIFF_MIRROR", raising=False)
    assert address(KNOWN["sinsr-v1"]) == KNOWN["sinsr-v1"].url and address(VQ_F4) == VQ_F4.url
    monkeypatch.setenv("RESDIFF_MIRROR", "http://host/weights/")
    assert address(KNOWN["sinsr-v1"]) == "http://host/weights/SinSR_v1.pth"
    assert address(VQ_F4) == "http://host/weights/autoencoder_vq_f4.pth"


@pytest.mark.parametrize("name", ["../x.pth", "a/b.pth", "/etc/passwd", "..", ".", "", "a\\b", "C:x", "a\0b"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name) -> None:
    for use in (lambda: inside(tmp_path, name), lambda: find_file([name], [tmp_path])):
        with pytest.raises(ValueError, match="is not a file name within") as caught:
            use()
        assert "\n" not in str(caught.value) and "\0" not in str(caught.value)
    assert inside(tmp_path, "..pth") == tmp_path / "..pth"


def test_a_twin_of_a_published_file_is_found(cache) -> None:
    fill(cache, "resshift_faceir_s4.safetensors")
    assert cached(KNOWN["resshift-faceir"]) == cache / "resshift_faceir_s4.safetensors"
    assert cached(KNOWN["sinsr-v2"]) is None


def test_the_licence_is_shown_once_per_model(cache, caplog) -> None:
    with caplog.at_level(logging.WARNING, "resdiff"):
        for name in ("sinsr-v1", "sinsr-v1", "sinsr-v2"):
            show_licence(KNOWN[name])
    assert len(caplog.messages) == 2 and all("non-commercial" in line and "\n" not in line for line in caplog.messages)
    assert caplog.messages[0].startswith("sinsr-v1 (https://github.com/wyf0912/SinSR/")
    remove("sinsr-v1")
    show_licence(KNOWN["sinsr-v1"])
    assert len(caplog.messages) == 3


def test_the_licence_is_shown_where_the_cache_cannot_be_written_too(monkeypatch, tmp_path, caplog) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "file" / "cache"))
    show_licence(KNOWN["sinsr-v1"])
    assert len(caplog.messages) == 1


def test_removing_takes_everything_of_a_model_and_nothing_else(cache) -> None:
    own = ["SinSR_v1.pth", "SinSR_v1.pth.sha256", "SinSR_v1.safetensors", "autoencoder_vq_f4.pth"]
    own += ["autoencoder_vq_f4.pth.part", "autoencoder_vq_f4.pth.part.json"]
    fill(cache, *own, "SinSR_v1.pth.bak", "resshift_faceir_s4.pth", "ffhq512_vq_f8_dim8_face.pth")
    assert sorted(path.name for path in remove("sinsr-v1")) == sorted(own)
    assert names_in(cache) == ["SinSR_v1.pth.bak", "ffhq512_vq_f8_dim8_face.pth", "resshift_faceir_s4.pth"]
    assert remove("sinsr-v1") == []


def test_an_autoencoder_stays_while_another_fetched_model_needs_it(cache) -> None:
    fill(cache, "SinSR_v1.pth", "resshift_bicsrx4_s4.safetensors", "autoencoder_vq_f4.pth")
    assert others_with(KNOWN["sinsr-v1"]) == ["resshift-bicsrx4"]
    remove("sinsr-v1")
    assert names_in(cache) == ["autoencoder_vq_f4.pth", "resshift_bicsrx4_s4.safetensors"]
    remove("resshift-bicsrx4")
    assert names_in(cache) == []


def test_removing_from_a_cache_that_is_not_there_makes_none(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    assert remove("sinsr-v1") == [] and not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["../x", "SinSR_v1.pth", "/etc/passwd"])
def test_only_known_names_are_removed(cache, name) -> None:
    fill(cache.parent, "x")
    fill(cache, "SinSR_v1.pth")
    with pytest.raises(ValueError, match="is not a known model"):
        remove(name)
    assert (cache.parent / "x").exists() and names_in(cache) == ["SinSR_v1.pth"]


def test_links_are_removed_and_not_followed(cache) -> None:
    outside = cache.parent / "outside"
    outside.mkdir()
    fill(outside, "precious.pth")
    (cache / "SinSR_v1.pth").symlink_to(outside / "precious.pth")
    (cache / "SinSR_v1.safetensors").symlink_to(outside)
    (cache / "autoencoder_vq_f4.pth").symlink_to(outside / "nowhere")
    assert len(remove("sinsr-v1")) == 3
    assert names_in(cache) == [] and names_in(outside) == ["precious.pth"]


def test_what_cannot_be_removed_is_one_line(cache) -> None:
    (cache / "SinSR_v1.pth").mkdir()
    with pytest.raises(ValueError, match=r"SinSR_v1\.pth cannot be deleted .*; delete it by hand"):
        remove("sinsr-v1")


def test_a_file_that_is_being_downloaded_is_not_removed(cache) -> None:
    fill(cache, "SinSR_v1.pth.part")
    with locked(cache / "SinSR_v1.pth"), pytest.raises(DownloadError, match="being downloaded"):
        remove("sinsr-v1")
    assert names_in(cache) == ["SinSR_v1.pth.part"]
