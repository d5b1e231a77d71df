"""Where a Stable Diffusion is looked for: beside the model, in the caches, on the hub; and what is said where it is not."""

import shutil
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))  # the layouts are modules beside this file, not a package

from sd_base import assert_names_all_ways, random_base, states_of, write_folder

from resdiff.checkpoints import hub
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known_bases import SD2_BASE
from resdiff.checkpoints.stable_diffusion import find_base, load_base


@pytest.fixture(scope="module")
def networks():
    return random_base()


@pytest.fixture(scope="module")
def states(networks):
    return states_of(networks)


@pytest.fixture(scope="module")
def whole(networks, tmp_path_factory):
    """A diffusers folder as published, of SD 2's kind."""
    return write_folder(tmp_path_factory.mktemp("base"), networks)


@pytest.fixture
def folder(whole, tmp_path):
    """The folder again, to be changed."""
    return shutil.copytree(whole, tmp_path / "given" / "base")


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """An empty cache of the hub, and none of ours; returns a function that puts a folder there as a repository."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "resdiff"))

    def put(repository, source):
        place = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (place / "refs").mkdir(parents=True)
        (place / "refs" / "main").write_text("0" * 40)
        return shutil.copytree(source, place / "snapshots" / ("0" * 40))

    return put


@pytest.fixture
def online(monkeypatch):
    """What is asked of the hub is answered by the list's items, in turn: a folder or an exception; returns both."""
    for name in ("RESDIFF_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    asked, answers = [], []
    snapshot_download = hub.snapshot_download

    def answer(repository, *, allow_patterns, local_files_only=False):
        if local_files_only:
            return snapshot_download(repository, allow_patterns=allow_patterns, local_files_only=True)
        asked.append((repository, allow_patterns))
        reply = answers.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return str(reply)

    monkeypatch.setattr(hub, "snapshot_download", answer)
    return asked, answers


def test_nothing_anywhere_is_one_line_with_all_ways(hub_cache):
    with pytest.raises(CheckpointError, match=r"^offline: ") as error:
        find_base()
    assert_names_all_ways(str(error.value))
    with pytest.raises(CheckpointError, match=r"^offline: no/where") as error:
        find_base("no/where")
    assert_names_all_ways(str(error.value))
    with pytest.raises(CheckpointError, match="nowhere does not exist") as error:
        find_base("/nowhere")
    assert_names_all_ways(str(error.value))


def test_a_folder_beside_goes_before_our_cache_and_that_before_the_hubs(hub_cache, whole, tmp_path):
    in_hub = hub_cache("Manojb/stable-diffusion-2-base", whole)
    assert find_base().path == in_hub
    in_cache = shutil.copytree(whole, tmp_path / "resdiff" / "stable-diffusion-2-1-base")
    assert find_base().path == in_cache
    beside = shutil.copytree(whole, tmp_path / "models" / "stable-diffusion-2-base")
    assert find_base(beside=[tmp_path / "models"]).path == beside


def test_a_removed_repository_still_serves_from_an_old_cache(hub_cache, whole):
    there = hub_cache("stabilityai/stable-diffusion-2-base", whole)
    assert find_base().path == there
    assert find_base("stabilityai/stable-diffusion-2-base").path == there


def test_a_repository_that_is_only_partly_in_the_cache_is_not_used(hub_cache, whole):
    there = hub_cache("some/model", whole)
    assert find_base("some/model").path == there
    shutil.rmtree(there / "text_encoder")
    with pytest.raises(CheckpointError, match="not in the cache of the Hugging Face hub, or not whole"):
        find_base("some/model")


def test_only_what_is_needed_is_downloaded(hub_cache, online, whole):
    asked, answers = online
    answers.append(whole)
    assert find_base("some/model").path == whole
    [(repository, patterns)] = asked
    assert repository == "some/model"
    assert "vae/diffusion_pytorch_model.safetensors" in patterns and "unet/config.json" in patterns
    assert not [p for p in patterns if ".bin" in p or "fp16" in p or p.startswith("unet/diff")]
    answers.append(whole)
    find_base("some/model", with_unet=True)
    assert "unet/diffusion_pytorch_model.safetensors" in asked[1][1]


def test_pickles_are_downloaded_where_there_is_nothing_else(hub_cache, online, whole, folder, states):
    asked, answers = online
    shutil.rmtree(folder / "vae")
    answers += [folder, whole]
    assert find_base("some/model").path == whole
    assert "vae/diffusion_pytorch_model.bin" in asked[1][1]


def test_the_mirrors_are_tried_one_after_the_other_but_not_the_removed(hub_cache, online, whole, caplog):
    asked, answers = online
    answers += [OSError("gone\nfor good"), whole]
    assert find_base().path == whole
    assert [repository for repository, _ in asked] == list(SD2_BASE.mirrors[:2])
    assert caplog.text.count("CreativeML Open RAIL++-M") == 1  # before the download
    answers += [OSError("gone\nfor good")] * 3
    with pytest.raises(CheckpointError, match="cannot be downloaded from the Hugging Face hub: gone for good") as error:
        find_base()
    assert_names_all_ways(str(error.value))


def test_the_licence_is_said_once(hub_cache, whole, caplog):
    for _ in range(2):
        load_base(find_base(whole))
    assert caplog.text.count("CreativeML Open RAIL++-M") == 1


def test_loading_leaves_the_files_as_they_are(whole, states):
    load_base(find_base(whole))["vae"].encoder.conv_in.weight.data.zero_()
    file = load_file(whole / "vae" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(file["encoder.conv_in.weight"], states["vae"]["encoder.conv_in.weight"])
