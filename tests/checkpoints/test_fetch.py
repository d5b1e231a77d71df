"""Known names become verified files: fetched, found without network, and told in one line when damaged."""

import io
import logging
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from resdiff.checkpoints import layout
from resdiff.checkpoints.fetch import fetch, in_cache, verify
from resdiff.checkpoints.io import CheckpointError
from resdiff.checkpoints.known import KNOWN, VQ_F4
from resdiff.checkpoints.records import record_of
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder

UNET_FILE, VQ_FILE = "resshift_realsrx4_s4_v3.pth", "autoencoder_vq_f4.pth"
NAME = "resshift-realsrx4-v3"
NO_WAITS = (0.0, 0.0, 0.0)


def saved(network: torch.nn.Module) -> bytes:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue()


@pytest.fixture
def weights(tiny_layout) -> dict[str, bytes]:
    torch.manual_seed(0)
    unet, vq = tiny_layout
    return {UNET_FILE: saved(SwinUNet(**unet)), VQ_FILE: saved(VQAutoencoder(**vq))}


def wider_network() -> bytes:
    return saved(SwinUNet(**layout.arguments(KNOWN[NAME]) | {"model_channels": 64}))


@pytest.fixture
def published(server, weights):
    """The server, with both files of the model."""
    server.files |= weights | {"SinSR_v2.pth": weights[UNET_FILE]}
    return server


@pytest.fixture
def cache(published) -> Path:
    return Path(os.environ["RESDIFF_CACHE"])


def get(name: str = NAME, **options):
    return fetch(name, **{"progress": False, "waits": NO_WAITS} | options)


def error(call, *arguments, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def paths(server) -> list[str]:
    return [path.rpartition("/")[2] for path, _ in server.requests]


def flip(file: Path) -> None:
    """Change one bit among the numbers, where no reader of the format looks."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_model_is_fetched_once_and_its_autoencoder_for_all(published, cache, weights) -> None:
    found = get()
    assert (found.known, found.unet_file, found.autoencoder_file) == (KNOWN[NAME], cache / UNET_FILE, cache / VQ_FILE)
    assert {file: (cache / file).read_bytes() for file in weights} == weights
    assert get() == in_cache(NAME) == found
    get("sinsr-v2")
    assert paths(published) == [UNET_FILE, VQ_FILE, "SinSR_v2.pth"]


def test_without_network_the_cache_serves_and_otherwise_says_what_to_get(published, cache, monkeypatch) -> None:
    monkeypatch.setenv("RESDIFF_OFFLINE", "1")
    text = error(get)
    assert text.startswith(f"offline: {NAME} needs https://") and VQ_FILE in text and f"download into {cache}" in text
    assert published.requests == [] and not cache.exists()
    monkeypatch.delenv("RESDIFF_OFFLINE")
    get()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    published.requests.clear()
    assert get().unet_file == cache / UNET_FILE and published.requests == []


def test_a_server_that_cannot_be_reached_says_what_to_get_too(cache, monkeypatch) -> None:
    monkeypatch.setenv("RESDIFF_MIRROR", "http://127.0.0.1:9")
    text = error(get)
    assert "127.0.0.1:9 cannot be reached" in text and KNOWN[NAME].url in text and "download into" in text


def test_a_broken_download_goes_on(published, cache, reply, weights) -> None:
    published.script = [reply(drop_after=7000), reply(drop_after=7000)]
    get()
    assert published.ranges == [None, "bytes=7000-", "bytes=14000-", None]
    assert (cache / UNET_FILE).read_bytes() == weights[UNET_FILE]


def bit_flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (lambda content: content[: len(content) // 2], "is truncated or not a checkpoint"),
        (bit_flipped, "is truncated or not a checkpoint"),
        (lambda content: wider_network(), "does not fit SwinUNet"),
        (lambda content: saved(VQAutoencoder(**layout.arguments(VQ_F4))), "does not fit SwinUNet"),
        (lambda content: b"PK\x03\x04" + b"0" * 1000, "is truncated or not a checkpoint"),
        (lambda content: b"<html>", "is not weights"),
    ],
    ids=["truncated", "flipped", "another width", "another network", "noise", "page"],
)
def test_what_is_not_the_model_is_refused_and_nothing_stays(published, cache, weights, sent, message) -> None:
    published.files[UNET_FILE] = sent(weights[UNET_FILE])
    text = error(get)
    assert message in text and f"{published.url}/{UNET_FILE}" in text
    assert [path.name for path in cache.iterdir() if not path.name.startswith(".")] == []


def test_an_own_autoencoder_is_used_and_the_published_one_not_fetched(published, cache, tmp_path, weights) -> None:
    own = tmp_path / "mine.pth"
    own.write_bytes(weights[VQ_FILE])
    assert get(vae_file=own).autoencoder_file == own
    assert paths(published) == [UNET_FILE]
    assert "is not a file" in error(get, vae_file=tmp_path / "nowhere.pth")


def test_the_licence_is_shown_at_the_first_use(published, caplog) -> None:
    with caplog.at_level(logging.WARNING, "resdiff"):
        get()
        get()
    assert len(caplog.messages) == 1 and "non-commercial" in caplog.messages[0]


@pytest.mark.parametrize("file", [UNET_FILE, VQ_FILE])
def test_a_truncated_file_of_the_cache_is_named_with_the_remedy(published, cache, file) -> None:
    get()
    (cache / file).write_bytes((cache / file).read_bytes()[:5000])
    remedy = f"to replace it: resdiff models rm {NAME}, then resdiff models fetch {NAME}"
    for call in (get, lambda: in_cache(NAME), lambda: verify(NAME)):
        text = error(call)
        assert text.startswith(f"{cache / file} has 5000 bytes") and text.endswith(remedy)


def test_a_damaged_autoencoder_that_others_need_must_be_deleted_by_name(published, cache) -> None:
    get()
    get("sinsr-v2")
    flip(cache / VQ_FILE)
    os.utime(cache / VQ_FILE, ns=(0, record_of(cache / VQ_FILE).stat().st_mtime_ns + 10**9))
    assert f"to replace it: delete {cache / VQ_FILE}, then resdiff models fetch {NAME}" in error(get)


def test_a_foreign_file_in_the_cache_is_named_with_the_remedy(published, cache) -> None:
    cache.mkdir()
    for content in (wider_network(), b"<html>" * 1000, b""):
        (cache / UNET_FILE).write_bytes(content)
        text = error(get)
        assert text.startswith(str(cache / UNET_FILE)) and f"resdiff models rm {NAME}" in text


def test_verifying_finds_a_flipped_bit_that_opening_does_not(published, cache) -> None:
    get()
    times = (cache / UNET_FILE).stat()
    flip(cache / UNET_FILE)
    os.utime(cache / UNET_FILE, ns=(times.st_atime_ns, times.st_mtime_ns))
    in_cache(NAME)
    assert "has changed since it was verified" in error(verify, NAME)


def test_files_put_there_by_hand_serve_and_are_recorded_once_verified(published, cache, weights) -> None:
    cache.mkdir()
    for file, content in weights.items():
        (cache / file).write_bytes(content)
    assert get() == verify(NAME) and published.requests == []
    assert record_of(cache / UNET_FILE).is_file() and record_of(cache / VQ_FILE).is_file()
    record_of(cache / UNET_FILE).unlink()
    flip(cache / UNET_FILE)
    assert "is truncated or not a checkpoint" in error(verify, NAME)


def test_a_cache_that_cannot_be_written_is_one_line(published, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "file" / "cache"))
    assert "cannot write into" in error(get)


def test_a_name_of_the_table_that_leads_out_of_the_cache_is_refused(published, cache, monkeypatch) -> None:
    monkeypatch.setitem(KNOWN, NAME, replace(KNOWN[NAME], files=("../escaped.pth",)))
    with pytest.raises(ValueError, match="is not a file name within"):
        get()
    assert published.requests == [] and not (cache.parent / "escaped.pth").exists()
