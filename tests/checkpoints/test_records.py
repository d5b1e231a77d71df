"""The record beside a file notices that the file has changed."""

import os
import shutil
import subprocess

import pytest

from resdiff.checkpoints.records import check_record, record_of, write_record


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.pth"
    path.write_bytes(b"abc" * 100)
    write_record(path)
    return path


def flip(path, keep_time: bool) -> None:
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[17] ^= 4
    path.write_bytes(content)
    step = 0 if keep_time else 10**9
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + step))


def test_an_unchanged_file_passes_and_one_without_a_record_is_told(file) -> None:
    assert check_record(file) is check_record(file, thorough=True) is True
    record_of(file).unlink()
    assert check_record(file, thorough=True) is False


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
def test_sha256sum_reads_the_record(file) -> None:
    command = ["sha256sum", "--check", record_of(file).name]
    assert subprocess.run(command, cwd=file.parent, capture_output=True, check=False).returncode == 0


def test_another_size_is_noticed_without_reading(file, monkeypatch) -> None:
    monkeypatch.setattr("hashlib.file_digest", None)
    assert check_record(file)
    file.write_bytes(b"abc")
    with pytest.raises(ValueError, match=r"a\.pth has 3 bytes and had 300 when it was verified"):
        check_record(file)


def test_a_flipped_bit_is_noticed_in_a_newer_file_or_on_demand(file) -> None:
    flip(file, keep_time=True)
    assert check_record(file)
    with pytest.raises(ValueError, match=r"a\.pth has changed since it was verified"):
        check_record(file, thorough=True)
    flip(file, keep_time=True)  # back again
    assert check_record(file, thorough=True)
    flip(file, keep_time=False)
    with pytest.raises(ValueError, match="has changed"):
        check_record(file)


def test_a_newer_file_of_the_same_content_is_hashed_once(file, monkeypatch) -> None:
    now = record_of(file).stat().st_mtime_ns
    os.utime(file, ns=(now, now + 1))
    os.utime(record_of(file), ns=(now, now))
    assert check_record(file)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert check_record(file)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"# many bytes\n", b"# 300 bytes\n00  a.pth\n"])
def test_a_record_that_cannot_be_read_is_named(file, content) -> None:
    record_of(file).write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pth\.sha256 is damaged"):
        check_record(file)
