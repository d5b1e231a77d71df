"""One file over HTTP: a server that drops, stalls, lies or sends pages leaves the whole file or none, and one line."""

import errno
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from resdiff import __version__
from resdiff.checkpoints import download as module
from resdiff.checkpoints.download import DownloadError, download, locked, part_files

WEIGHTS = b"PK\x03\x04" + bytes(range(256)) * 40  # begins as a zip
NO_WAITS = (0.0, 0.0, 0.0)


def accept(path: Path) -> None:
    if path.read_bytes() != WEIGHTS:
        raise ValueError(f"{path} is not what it should be")


@pytest.fixture
def get(server, tmp_path):
    """Download a.pth into an empty folder; returns the target."""
    server.files["a.pth"] = WEIGHTS
    target = tmp_path / "cache" / "a.pth"

    def call(check=accept, url=f"{server.url}/a.pth", **options) -> Path:
        download(url, target, check, **{"progress": False, "waits": NO_WAITS, "timeout": 5.0} | options)
        return target

    call.target = target
    return call


def refused(get, match, **options) -> str:
    """The one line that `get` raises; the target must not be there."""
    with pytest.raises(DownloadError, match=match) as caught:
        get(**options)
    assert "\n" not in str(caught.value)
    assert not get.target.exists()
    return str(caught.value)


def left(get) -> list[str]:
    return sorted(path.name for path in get.target.parent.iterdir() if path.name != ".locks")


def test_the_file_is_whole_and_alone_and_the_server_knows_who_asked(get, server) -> None:
    assert get().read_bytes() == WEIGHTS
    assert left(get) == ["a.pth"]
    assert server.requests[0][1]["user-agent"] == f"resdiff/{__version__}" and server.ranges == [None]


def test_a_file_that_is_there_is_not_asked_for(get, server) -> None:
    get()
    get()
    assert len(server.requests) == 1


@pytest.mark.parametrize("etag", ['"one"', None, 'W/"weak"'])
def test_a_dropped_connection_goes_on_where_it_stopped(get, server, reply, etag) -> None:
    server.script = [reply(drop_after=1000, etag=etag), reply(drop_after=500, etag=etag), reply(etag=etag)]
    assert get().read_bytes() == WEIGHTS
    assert server.ranges == [None, "bytes=1000-", "bytes=1500-"]
    assert server.requests[1][1].get("if-range") == (etag if etag == '"one"' else None)


def test_a_later_call_goes_on_with_what_an_earlier_one_left(get, server, reply) -> None:
    server.script = [reply(drop_after=3000)]
    refused(get, r"the connection ended after 3000 of 10244 bytes, 1 times in a row; run again to go on", waits=())
    assert left(get) == ["a.pth.part", "a.pth.part.json"]
    assert get().read_bytes() == WEIGHTS and left(get) == ["a.pth"]
    assert server.ranges == [None, "bytes=3000-"]


def test_a_whole_part_is_not_asked_for_again(get, server) -> None:
    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(stop)
    assert get().read_bytes() == WEIGHTS and len(server.requests) == 1


def test_a_part_of_which_nothing_is_known_is_not_built_upon(get, server) -> None:
    get.target.parent.mkdir()
    part, notes = part_files(get.target)
    for content in ("{", "[]", '{"url": "http://elsewhere/a.pth", "etag": null, "length": 5}'):
        part.write_bytes(b"other")
        notes.write_text(content)
        assert get().read_bytes() == WEIGHTS
        get.target.unlink()
    assert server.ranges == [None] * 3


def test_a_server_without_ranges_restarts_cleanly(get, server, reply) -> None:
    server.script = [reply(drop_after=4000), reply(ranges=False)]
    assert get().read_bytes() == WEIGHTS and server.ranges == [None, "bytes=4000-"]


def test_a_file_that_changed_between_two_connections_is_fetched_anew(get, server, reply) -> None:
    old = b"PK\x03\x04" + bytes(9000)
    server.script = [reply(drop_after=4000, body=old, etag='"old"'), reply()]
    assert get().read_bytes() == WEIGHTS  # If-Range does not hold: 200 from the start
    get.target.unlink()
    server.script = [reply(drop_after=4000, body=old, etag=None), reply(etag=None), reply(etag=None)]
    assert get().read_bytes() == WEIGHTS  # another length in Content-Range
    assert server.ranges[-3:] == [None, "bytes=4000-", None]


def test_a_range_that_is_not_there_restarts(get, server, reply) -> None:
    server.script = [reply(claim=20000), reply(), reply()]  # 10244 bytes come of the 20000 announced
    assert get().read_bytes() == WEIGHTS
    assert server.ranges == [None, "bytes=10244-", None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_server_that_always_announces_more_than_it_has_is_told_in_one_line(get, server, reply, ranges) -> None:
    server.script = [reply(claim=20000, ranges=ranges, etag=None)] * 10
    refused(get, r"10244 of 20000 bytes|416")
    assert len(server.requests) == 4


def test_a_server_that_announces_less_than_the_file_has_is_refused_and_nothing_stays(get, server, reply) -> None:
    server.script = [reply(claim=5000)]
    refused(get, r"what http://\S+/a.pth sent \(5000 bytes\) is refused and deleted: .*not what it should be")
    assert left(get) == []


@pytest.mark.parametrize("drops", [False, True])
def test_a_server_that_announces_nothing_is_judged_by_what_came(get, server, reply, drops) -> None:
    server.script = [reply(chunked=True, drop_after=6000 if drops else None), reply(chunked=True, ranges=False)]
    assert get().read_bytes() == WEIGHTS
    assert len(server.requests) == 1 + drops


@pytest.mark.parametrize("content_type", ["text/html; charset=utf-8", "application/json", "application/octet-stream"])
@pytest.mark.parametrize("page", [b"<!DOCTYPE html><html>log in</html>", b'{"message": "rate limit"}'])
def test_a_page_instead_of_weights_is_refused_and_nothing_stays(get, server, reply, content_type, page) -> None:
    server.script = [reply(body=page, content_type=content_type)]
    refused(get, "is not weights")
    assert left(get) == []


def test_a_page_in_the_middle_keeps_what_was_weights(get, server, reply) -> None:
    server.script = [reply(drop_after=4000), reply(body=b"<html></html>", content_type="text/html", ranges=False)]
    refused(get, "a log-in in between")
    assert get().read_bytes() == WEIGHTS and server.ranges[-1] == "bytes=4000-"


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_an_answer_that_will_not_change_is_told_at_once(get, server, reply, status) -> None:
    server.script = [reply(status=status)]
    refused(get, rf"/a\.pth: the server said {status}")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again_and_not_for_ever(get, server, reply, status) -> None:
    server.script = [reply(status=status)]
    assert get().read_bytes() == WEIGHTS
    get.target.unlink()
    server.script = [reply(status=status)] * 10
    refused(get, rf"the server said {status} .*, 4 times in a row")


def test_waits_grow_as_given(get, server, reply, monkeypatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    server.script = [reply(status=500)] * 10
    refused(get, "500", waits=module.WAITS)
    assert slept == [1.0, 3.0, 10.0]


def test_a_connection_that_brings_much_starts_the_count_anew(get, server, reply, monkeypatch) -> None:
    monkeypatch.setattr(module, "STEADY", 1000)
    server.script = [reply(drop_after=1000)] * 9
    assert get().read_bytes() == WEIGHTS and len(server.requests) == 10


def test_silence_is_an_error_after_the_timeout(get, server, reply) -> None:
    server.script = [reply(silent=True)] * 2
    began = time.monotonic()
    refused(get, "the server has gone silent, 2 times in a row", waits=(0.0,), timeout=0.2)
    assert time.monotonic() - began < 5


def test_redirects_are_followed_and_loops_are_not(get, server, reply) -> None:
    server.script = [reply(status=302, location="/elsewhere/a.pth")]
    assert get().read_bytes() == WEIGHTS and server.requests[1][0] == "/elsewhere/a.pth"
    get.target.unlink()
    server.script = [reply(status=302, location="/weights/a.pth")] * 50
    refused(get, "302")


def test_a_server_that_cannot_be_reached_is_told_at_once(get) -> None:
    refused(get, r"127\.0\.0\.1:9 cannot be reached", url="http://127.0.0.1:9/a.pth", waits=(60.0,))


def test_a_network_that_was_lost_in_the_middle_is_waited_for(get, server, reply, monkeypatch) -> None:
    server.script = [reply(drop_after=3000)]
    lost, connect = [True], socket.create_connection

    def flaky(address, *arguments, **options):
        if server.requests and lost:
            lost.clear()
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return connect(address, *arguments, **options)

    monkeypatch.setattr(socket, "create_connection", flaky)
    assert get().read_bytes() == WEIGHTS and server.ranges == [None, "bytes=3000-"] and not lost


@pytest.mark.parametrize("url", ["file:///etc/passwd", "a.pth", "ftp://host/a.pth"])
def test_other_addresses_than_http_are_refused(get, url) -> None:
    refused(get, "not an http address; check RESDIFF_MIRROR", url=url)


def test_too_little_room_is_told_before_the_first_byte(get, monkeypatch) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=10000))
    refused(get, r"needs 10244 more bytes and \S+ has room for 10000")


def test_a_disk_that_fills_up_is_told_and_cleared(get, monkeypatch) -> None:
    def full(response, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_next_chunk", full)
    refused(get, "filled up during the download")
    assert left(get) == []


def test_a_cache_that_cannot_be_written_is_one_line(server, tmp_path) -> None:
    server.files["a.pth"] = WEIGHTS
    (tmp_path / "file").touch()
    with pytest.raises(DownloadError, match=r"cannot write into \S+file/cache .*; set RESDIFF_CACHE"):
        download(f"{server.url}/a.pth", tmp_path / "file" / "cache" / "a.pth", accept, progress=False)
    assert server.requests == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_write_permission_is_one_line(get) -> None:
    get.target.parent.mkdir(mode=0o500)
    refused(get, "cannot write into")


def test_the_bar_is_on_stderr_and_only_if_wanted(get, capsys) -> None:
    get(progress=True)
    said = capsys.readouterr()
    assert "a.pth: 100%" in said.err and said.out == ""
    get.target.unlink()
    get()
    assert capsys.readouterr().err == ""


def test_who_waits_says_so_and_who_must_not_wait_is_told(get, caplog) -> None:
    told = pytest.raises(DownloadError, match=r"a\.pth is being downloaded by another process")
    with locked(get.target), told, locked(get.target, wait=False):
        pass
    code = (
        "import sys, time, pathlib\nfrom resdiff.checkpoints.download import locked\n"
        "with locked(pathlib.Path(sys.argv[1])):\n    print('have it', flush=True)\n    time.sleep(0.5)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, get.target], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "have it\n"
        with caplog.at_level(logging.WARNING, "resdiff"):
            get()
    assert caplog.messages == ["waiting for another download of a.pth"]
    assert get.target.read_bytes() == WEIGHTS


def test_two_processes_at_once_end_with_one_download(get, server, reply) -> None:
    server.script = [reply(drop_after=1000)]  # the one that began waits a second; the other must not begin meanwhile
    code = (
        "import sys, pathlib\nfrom resdiff.checkpoints.download import download\n"
        "sys.stdin.readline()\n"
        "download(sys.argv[1], pathlib.Path(sys.argv[2]), lambda path: None, progress=False)\n"
    )
    command = [sys.executable, "-c", code, f"{server.url}/a.pth", str(get.target)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert get.target.read_bytes() == WEIGHTS and server.ranges == [None, "bytes=1000-"]


def test_downloading_needs_no_torch() -> None:
    code = "import sys, resdiff.checkpoints.download, resdiff.checkpoints.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
