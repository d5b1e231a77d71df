"""Download one file over HTTP: resumed, checked, and in its place only when it is whole.

Bytes go to `<name>.part` beside the target, with the server's ETag and length in `<name>.part.json`, so that a broken
download goes on where it stopped, in this process or a later one (RFC 9110, 13.1.5 If-Range and 14 Range). One process
downloads at a time, the others wait for it. Importing this file does not import torch.
"""

import errno
import http.client
import json
import logging
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from resdiff import __version__

TIMEOUT = 30.0  # seconds without a byte after which a connection counts as broken
WAITS = (1.0, 3.0, 10.0)  # seconds before each further try
STEADY = 2**20  # bytes that a connection must bring to start counting the tries anew
CHUNK = 2**18  # bytes

MAGIC = (b"PK\x03\x04", b"\x80\x02")  # zip, and pickle protocol 2: what torch.save writes and wrote
PAGES = ("text/html", "application/xhtml+xml", "application/json", "text/xml", "application/xml")
BUSY = (408, 425, 429)  # statuses besides 5xx that may go away by themselves

logger = logging.getLogger("resdiff")


class DownloadError(ValueError):
    """A file cannot be downloaded; the message is one line."""


class _Broken(Exception):
    """A failure that another try may mend."""


@dataclass
class _Part:
    """What has arrived of a file. The notes are those of the answer that the bytes came with."""

    path: Path
    etag: str | None = None
    length: int | None = None  # of the whole file

    @classmethod
    def of(cls, target: Path, url: str) -> "_Part":
        """Return what an earlier run has left, or an empty part if it cannot be told what that is."""
        path, notes_path = part_files(target)
        try:
            notes = json.loads(notes_path.read_text())
            if notes["url"] == url and path.is_file():
                return cls(path, notes["etag"], notes["length"])
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no notes, or not ours: begin anew
        part = cls(path)
        part.discard()
        return part

    @property
    def name(self) -> str:
        """The file's own name."""
        return self.path.name.removesuffix(".part")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def note(self, url: str, etag: str | None, length: int | None) -> None:
        self.etag, self.length = etag, length
        self.path.with_name(f"{self.path.name}.json").write_text(
            json.dumps({"url": url, "etag": etag, "length": length})
        )

    def discard(self) -> None:
        self.etag = self.length = None
        for path in (self.path, self.path.with_name(f"{self.path.name}.json")):
            path.unlink(missing_ok=True)


def part_files(target: Path) -> tuple[Path, Path]:
    """Return where an unfinished download of `target` lies: its bytes and its notes."""
    return target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.part.json")


@contextmanager
def locked(target: Path, wait: bool = True) -> Iterator[None]:
    """Keep other processes from downloading or removing `target`, whose folder is made.

    Where another has it, waits with one line on the log, or raises DownloadError if not `wait`. The lock is the
    system's: a killed process does not keep it. Raises DownloadError where the folder cannot be written.
    """
    lock = FileLock(target.parent / ".locks" / f"{target.name}.lock")
    try:
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise DownloadError(f"{target.name} is being downloaded by another process; stop it first") from None
            logger.warning("waiting for another download of %s", target.name)
            lock.acquire()
    except OSError as error:
        raise _not_writable(target.parent, error) from error
    try:
        yield
    finally:
        lock.release()


def download(
    url: str,
    target: Path,
    check: Callable[[Path], None],  # raises ValueError for a whole file that is not the wanted one
    *,
    progress: bool = True,  # a bar on stderr
    waits: Sequence[float] = WAITS,
    timeout: float = TIMEOUT,
) -> None:
    """Download `url` to `target` unless it is there. Afterwards `target` is whole and has passed `check`.

    A connection that breaks or stalls and a server that is busy are tried again after each of `waits`, and resumed.
    Raises DownloadError, one line: the server cannot be reached, does not have the file, sends something else than
    weights, keeps breaking off, or there is no room. Of a file that is refused nothing is left; of one that broke off
    the part stays for the next time.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not an http address; check RESDIFF_MIRROR")
    with locked(target):
        if target.is_file():
            return
        try:
            part = _Part.of(target, url)
            _complete(part, url, progress, waits, timeout)
            _accept(part, url, target, check)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise _not_writable(target.parent, error) from error
            part.discard()  # the disk was filled by it
            raise DownloadError(f"the disk of {target.parent} filled up during the download of {url}") from error


def _complete(part: _Part, url: str, progress: bool, waits: Sequence[float], timeout: float) -> None:
    """Try until `part` is whole."""
    failures, furthest = 0, part.size
    while True:
        try:
            return _try_once(part, url, progress, timeout)
        except _Broken as error:
            failures = 0 if part.size >= furthest + STEADY else failures + 1
            furthest = max(furthest, part.size)
            if failures > len(waits):
                raise DownloadError(f"{url}: {error}, {failures} times in a row; run again to go on") from error
            time.sleep(waits[max(failures - 1, 0)])


def _try_once(part: _Part, url: str, progress: bool, timeout: float) -> None:
    """Append what one connection brings. Raises _Broken if the file is not whole then."""
    have = part.size
    if have and have == part.length:
        return
    with _answer(part, url, have, timeout) as response:
        _refuse_page(url, response.headers.get_content_type())
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        etag = _strong(response.headers.get("ETag"))
        if response.status == 206:
            start, total = _content_range(response.headers.get("Content-Range", ""))
            if start != have or total != (part.length or total) or etag != (part.etag or etag):
                part.discard()
                raise _Broken("the server went on with another file")
        else:
            have = 0  # no ranges here, or another file than before: from the start
        _check_room(part.path.parent, url, total, have)
        part.note(url, etag, total)
        with (
            part.path.open("ab") as file,
            tqdm(desc=part.name, total=total, initial=have, unit="B", unit_scale=True, disable=not progress) as bar,
        ):
            file.truncate(have)
            while chunk := _next_chunk(response, CHUNK if total is None else min(CHUNK, total - have)):
                if have == 0 and not any(chunk.startswith(m) or m.startswith(chunk) for m in MAGIC):
                    part.discard()
                    raise DownloadError(f"{url} is not weights: it begins with {chunk[:12]!r}")
                file.write(chunk)
                have += len(chunk)
                bar.update(len(chunk))
    if total is not None and have < total:
        raise _Broken(f"the connection ended after {have} of {total} bytes")


def _answer(part: _Part, url: str, have: int, timeout: float) -> http.client.HTTPResponse:
    """Ask for the bytes after the first `have`."""
    headers = {"User-Agent": f"resdiff/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if part.etag is not None:
            headers["If-Range"] = part.etag
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        said = f"the server said {error.code} {_one_line(error.reason)}"
        if error.code == 416:  # what is here is not a beginning of what is there
            part.discard()
        if error.code in (416, *BUSY) or error.code >= 500:
            raise _Broken(said) from error
        raise DownloadError(f"{url}: {said}") from error
    except urllib.error.URLError as error:
        reason = f"{urlsplit(url).netloc} cannot be reached ({_one_line(error.reason)})"
        # A machine without network is told at once, one that has lost it in the middle waits a little.
        passing = have > 0 or isinstance(error.reason, (TimeoutError, ConnectionResetError))
        if passing and not isinstance(error.reason, ssl.SSLCertVerificationError):
            raise _Broken(reason) from error
        raise DownloadError(f"{url}: {reason}") from error
    except (http.client.HTTPException, OSError) as error:
        raise _Broken(_broken_line(error)) from error


def _next_chunk(response: http.client.HTTPResponse, size: int) -> bytes:
    try:
        return response.read1(size) if size else b""
    except (http.client.HTTPException, OSError, ValueError) as error:  # ValueError: nonsense between chunks
        raise _Broken(_broken_line(error)) from error


def _accept(part: _Part, url: str, target: Path, check: Callable[[Path], None]) -> None:
    """Check the whole file and move it into its place."""
    try:
        check(part.path)
    except ValueError as error:
        size = part.size
        part.discard()
        raise DownloadError(f"what {url} sent ({size} bytes) is refused and deleted: {error}") from error
    with part.path.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(part.path, target)
    part.discard()


def _refuse_page(url: str, content_type: str) -> None:
    """Raise DownloadError for the content type of a page or a message, as log-in pages and error pages have."""
    if content_type in PAGES:
        raise DownloadError(f"{url} is not weights: the server sent a page ({content_type}); is a log-in in between?")


def _check_room(folder: Path, url: str, total: int | None, have: int) -> None:
    free = shutil.disk_usage(folder).free
    if total is not None and total - have > free:
        raise DownloadError(
            f"{url} needs {total - have} more bytes and {folder} has room for {free}; make room, or set RESDIFF_CACHE"
        )


def _content_range(value: str) -> tuple[int | None, int | None]:
    """Parse "bytes 100-199/200" into (first byte, bytes of the whole file); None for what it does not say."""
    unit, _, rest = value.partition(" ")
    span, _, total = rest.partition("/")
    start = span.partition("-")[0]
    if unit != "bytes" or not start.isdecimal():
        return None, None
    return int(start), int(total) if total.isdecimal() else None


def _strong(etag: str | None) -> str | None:
    """Return the ETag if it stands for exact bytes; a weak one must not be used with If-Range."""
    return etag if etag is not None and etag.startswith('"') else None


def _broken_line(error: Exception) -> str:
    return (
        "the server has gone silent"
        if isinstance(error, TimeoutError)
        else f"the connection broke ({_one_line(error)})"
    )


def _one_line(message: object) -> str:
    return " ".join(str(message).split()) or type(message).__name__


def _not_writable(folder: Path, error: OSError) -> DownloadError:
    return DownloadError(
        f"cannot write into {folder} ({error.strerror or error}); set RESDIFF_CACHE to a folder that can be written"
    )
