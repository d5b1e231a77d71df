"""Metric weights come from a path, the cache, torch's hub folder or the publisher, and else one line says what to do."""

import hashlib
from pathlib import Path

import pytest
import torch

from resdiff.checkpoints.cache import cache_dir
from resdiff.metrics.weights import MetricWeights, MissingWeights, check_digest, find_weights

CONTENT = b"PK\x03\x04" + bytes(range(256))  # as a zip of torch.save begins
DIGEST = hashlib.sha256(CONTENT).hexdigest()


def weights(sha256: str = DIGEST[:8]) -> MetricWeights:
    return MetricWeights(file="net-1.pth", url="https://example.org/net-1.pth", sha256=sha256, licence="BSD")


def put(folder: Path, name: str = "net-1.pth", content: bytes = CONTENT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return folder / name


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path) -> Path:
    """An empty cache, an empty hub folder, no network."""
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESDIFF_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path


def test_a_path_is_the_file_under_any_name_or_a_folder_that_holds_it(tmp_path):
    file, other = put(tmp_path / "own"), put(tmp_path / "own", "renamed.bin")
    assert find_weights(weights(), other) == other
    assert find_weights(weights(), str(tmp_path / "own")) == file


def test_a_path_without_the_file_is_an_error_although_the_cache_has_it(tmp_path):
    put(cache_dir())
    (tmp_path / "empty").mkdir()
    for path, why in ((tmp_path / "empty", "does not hold it"), (tmp_path / "no.pth", "does not exist")):
        with pytest.raises(MissingWeights, match=f"{path} {why}"):
            find_weights(weights(), path)


def test_the_cache_comes_before_the_hub_folder(tmp_path):
    in_hub = put(tmp_path / "hub" / "checkpoints")
    assert find_weights(weights()) == in_hub
    in_cache = put(cache_dir())
    assert find_weights(weights()) == in_cache


def test_a_safetensors_twin_serves_as_well(tmp_path):
    twin = put(tmp_path, "net-1.safetensors")
    assert find_weights(weights(), tmp_path) == twin


def test_missing_weights_are_one_line_with_file_address_licence_and_remedy(tmp_path):
    with pytest.raises(MissingWeights) as error:
        find_weights(weights())
    said = str(error.value)
    assert "\n" not in said
    for part in (
        "net-1.pth",
        "https://example.org/net-1.pth",
        "(BSD)",
        "RESDIFF_CACHE",
        str(tmp_path / "cache"),
        "path",
    ):
        assert part in said


def test_missing_weights_are_downloaded_once_and_checked(tmp_path, serve):
    put(tmp_path / "published")
    requests = serve(tmp_path / "published")
    for _ in range(2):
        found = find_weights(weights())
    assert found == cache_dir() / "net-1.pth" and found.read_bytes() == CONTENT
    assert requests == ["/net-1.pth"]


def test_a_download_with_another_digest_is_refused_and_nothing_of_it_stays(tmp_path, serve):
    put(tmp_path / "published", content=CONTENT + b"!")
    serve(tmp_path / "published")
    with pytest.raises(MissingWeights, match=r"refused and deleted: .* SHA-256"):
        find_weights(weights())
    assert not list(cache_dir().glob("net-1*"))


def test_an_unreachable_publisher_is_named_in_the_line(tmp_path, serve, monkeypatch):
    serve(tmp_path)
    with pytest.raises(MissingWeights, match="404") as error:
        find_weights(weights())
    assert "\n" not in str(error.value)


def test_digests_may_be_whole_leading_digits_or_unknown(tmp_path):
    file = put(tmp_path)
    for known in (DIGEST, DIGEST[:8], ""):
        check_digest(weights(known), file)
    with pytest.raises(ValueError, match=r"has the SHA-256 .*net-1\.pth has 00000000"):
        check_digest(weights("00000000"), file)
