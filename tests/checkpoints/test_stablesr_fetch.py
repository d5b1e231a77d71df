"""StableSR's models by name: downloaded, checked, kept, and the messages where that cannot be."""

import io
import logging
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the layouts are a module beside this file, not a package

from stablesr_layouts import CONFIGS, adapter, cfw, diffusers_folder, random_networks, states_of, whole

from resdiff.checkpoints import stable_diffusion
from resdiff.checkpoints.download import DownloadError, locked
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known_stablesr import STABLESR_MODELS
from resdiff.checkpoints.stablesr_fetch import fetch, verify
from resdiff.checkpoints.stablesr_files import cached_checkpoint, how_to_get, lacking, others_with_cfw, remove

CHECKPOINT, CFW = "stablesr_000117.ckpt", "vqgan_cfw_00011.ckpt"


@pytest.fixture(scope="module")
def networks():
    return random_networks(0)


@pytest.fixture(scope="module")
def contents(networks):
    """The bytes of both published files."""

    def saved(state):
        file = io.BytesIO()
        torch.save({"state_dict": state}, file)
        return file.getvalue()

    states = states_of(networks)
    return {CHECKPOINT: saved(whole(states)), CFW: saved(cfw(states)), "adapter": saved(adapter(states))}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Stable Diffusion is as small as in the layouts."""
    for part, config in CONFIGS.items():
        monkeypatch.setitem(stable_diffusion.SD2_CONFIGS, part, config)


@pytest.fixture
def published(server, contents):
    server.files |= {CHECKPOINT: contents[CHECKPOINT], CFW: contents[CFW]}
    return server


def get(name="stablesr", **options):
    return fetch(name, progress=False, waits=(), **options)


def put(folder, contents, *names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(contents[name if name in contents else CHECKPOINT])


def names_in(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def refused(match, name="stablesr", **options):
    with pytest.raises(CheckpointError, match=match) as caught:
        get(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_is_downloaded_once_and_recorded(published, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "resdiff"):
        found = get()
    cache = tmp_path / "cache"
    assert (found.file, found.cfw_file) == (cache / CHECKPOINT, cache / CFW)
    assert names_in(cache) == [CHECKPOINT, f"{CHECKPOINT}.sha256", CFW, f"{CFW}.sha256"]
    assert sum("S-Lab" in message for message in caplog.messages) == 1
    assert get().file == found.file and len(published.requests) == 2
    assert verify("stablesr").file == found.file


def test_a_cfw_of_ones_own_is_not_downloaded(published, contents, tmp_path):
    (tmp_path / "mine.ckpt").write_bytes(contents[CFW])
    assert get(cfw_file=tmp_path / "mine.ckpt").cfw_file == tmp_path / "mine.ckpt"
    assert [path for path, _ in published.requests] == [f"/weights/{CHECKPOINT}"]


def test_models_share_their_cfw(published, contents, cache):
    published.files["stablesr_turbo.ckpt"] = contents[CHECKPOINT]
    get()
    get("stablesr-turbo")
    assert len(published.requests) == 3
    assert [path.name for path in remove(STABLESR_MODELS["stablesr"])] == [CHECKPOINT, f"{CHECKPOINT}.sha256"]
    assert others_with_cfw(STABLESR_MODELS["stablesr"]) == ["stablesr-turbo"]
    assert CFW in [path.name for path in remove(STABLESR_MODELS["stablesr-turbo"])]
    assert names_in(cache) == []


def test_the_v_model_has_no_cfw(published, contents, cache):
    published.files["stablesr_768v_000139.ckpt"] = contents[CHECKPOINT]
    assert get("stablesr-768v").cfw_file is None and len(published.requests) == 1


def test_an_adapter_that_lies_there_serves_with_its_base(networks, contents, cache):
    (cache / "webui_768v_139.ckpt").write_bytes(contents["adapter"])
    base = diffusers_folder(cache / "stable-diffusion-2-1", networks, prediction_type="v_prediction")
    assert lacking(STABLESR_MODELS["stablesr-768v"]) == []
    assert get("stablesr-768v").base.path == base


def flipped(content):
    """Change one bit among the numbers, which only the checksums notice."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        (CHECKPOINT, lambda contents: contents[CFW]),
        (CFW, lambda contents: contents[CHECKPOINT]),
        (CHECKPOINT, lambda contents: contents[CHECKPOINT][:5000]),
        (CFW, lambda contents: flipped(contents[CFW])),
    ],
)
def test_what_is_not_the_model_is_refused_and_deleted(published, contents, tmp_path, name, sent):
    published.files[name] = sent(contents)
    said = refused("is refused and deleted")
    assert f"/weights/{name}" in said and STABLESR_MODELS["stablesr"].licence in said
    assert name not in names_in(tmp_path / "cache")


def test_offline_says_what_to_put_where(cache, monkeypatch, contents):
    monkeypatch.setenv("RESDIFF_OFFLINE", "1")
    where = "https://huggingface.co/Iceclear/StableSR/resolve/main"
    said = refused("^offline: stablesr needs ")
    assert f"{where}/{CHECKPOINT} and {where}/{CFW}: download into {cache} " in said and "non-commercial" in said
    put(cache, contents, CFW)
    assert CFW not in refused("^offline: stablesr needs ")
    put(cache, contents, CHECKPOINT)
    assert get().cfw_file == cache / CFW


def test_the_files_for_faces_are_got_by_hand(server, contents, cache):
    said = refused(
        r"stablesr-face needs face_stablesr_000050\.ckpt \(its address is not known, look at https", "stablesr-face"
    )
    assert "face_vqgan_cfw_00011.ckpt" in said and server.requests == []
    put(cache, contents, "face_stablesr_000050.ckpt")
    (cache / "face_vqgan_cfw_00011.ckpt").write_bytes(contents[CFW])
    assert get("stablesr-face").prediction_type == "v_prediction"
    assert get("stablesr-face", prediction_type="epsilon").prediction_type == "epsilon"


def test_a_file_that_has_changed_is_found_and_the_remedy_is_said(published, tmp_path):
    get()
    file = tmp_path / "cache" / CHECKPOINT
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    refused(f"has changed since it was verified; to replace it: delete {file}, then resdiff models fetch stablesr")
    file.unlink()
    get()


def test_a_file_put_there_by_hand_counts_as_verified_after_its_checksums(cache, contents, monkeypatch):
    put(cache, contents, CHECKPOINT, CFW)
    verify("stablesr")
    assert f"{CHECKPOINT}.sha256" in names_in(cache)


def test_an_unknown_name_is_answered_with_the_closest(cache):
    with pytest.raises(ValueError, match="choose one of stablesr-turbo"):
        fetch("stablesr-turb")


def test_nothing_more_is_needed_when_all_is_there(cache, contents):
    put(cache, contents, CHECKPOINT, CFW)
    assert "needs nothing more" in how_to_get(STABLESR_MODELS["stablesr"])
    assert cached_checkpoint(STABLESR_MODELS["stablesr-turbo"]) is None


def test_removal_stays_within_the_cache_and_names_what_it_cannot_delete(cache, contents, tmp_path, monkeypatch):
    put(cache, contents, CHECKPOINT)
    (cache / "webui_768v_139.ckpt").write_bytes(b"x")
    with locked(cache / CHECKPOINT), pytest.raises(DownloadError, match="being downloaded"):
        remove(STABLESR_MODELS["stablesr"])
    remove(STABLESR_MODELS["stablesr"])
    assert names_in(cache) == ["webui_768v_139.ckpt"]
    (cache / CHECKPOINT).mkdir()
    with pytest.raises(ValueError, match=r"stablesr_000117\.ckpt cannot be deleted .*; delete it by hand"):
        remove(STABLESR_MODELS["stablesr"])
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "none"))
    assert remove(STABLESR_MODELS["stablesr"]) == [] and not (tmp_path / "none").exists()
