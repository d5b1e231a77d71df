"""A web server on this machine that misbehaves as told."""

import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


@dataclass(frozen=True, kw_only=True)
class Reply:
    """How one request is answered; the defaults are a server in order."""

    status: int | None = None  # instead of the file
    location: str = "/"  # with a 3xx status
    drop_after: int | None = None  # bytes of the body, then the connection closes
    claim: int | None = None  # Content-Length instead of the true one
    ranges: bool = True
    etag: str | None = '"one"'
    body: bytes | None = None  # instead of the file's
    content_type: str = "application/octet-stream"
    chunked: bool = False  # no Content-Length
    silent: bool = False  # says nothing until the test is over


@dataclass
class Server:
    """Files by name, what to do with the next requests, and the requests that came."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    script: list[Reply] = field(default_factory=list)  # then in order
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    hurry: threading.Event = field(default_factory=threading.Event)  # set: a silent connection closes

    @property
    def ranges(self) -> list[str | None]:
        return [headers.get("range") for _, headers in self.requests]


def _handler(server_of: dict[str, Server]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server = server_of["it"]
            server.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
            reply = server.script.pop(0) if server.script else Reply()
            self.close_connection = True
            if reply.silent:
                server.hurry.wait(20)
                return
            body = reply.body if reply.body is not None else server.files.get(self.path.rpartition("/")[2])
            status = reply.status or (200 if body is not None else 404)
            if status != 200 or body is None:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if 300 <= status < 400:
                    self.send_header("Location", reply.location)
                self.end_headers()
                return
            start, wanted = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            same = self.headers.get("If-Range") in (None, reply.etag)
            if wanted and reply.ranges and same:
                start = int(wanted[1])
            if start >= len(body) and start:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{reply.claim or len(body)}")
            self.send_header("Content-Type", reply.content_type)
            if reply.etag is not None:
                self.send_header("ETag", reply.etag)
            if reply.chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str((reply.claim or len(body)) - start))
            self.end_headers()
            sent = body[start:] if reply.drop_after is None else body[start : start + reply.drop_after]
            if reply.chunked:
                self.wfile.write(
                    b"%x\r\n%s\r\n" % (len(sent), sent) + (b"0\r\n\r\n" if reply.drop_after is None else b"")
                )
            else:
                self.wfile.write(sent)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A `Server`, and an environment in which downloads come from it into an empty cache."""
    holder: dict[str, Server] = {}
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(holder))
    httpd.daemon_threads = True
    holder["it"] = Server(f"http://127.0.0.1:{httpd.server_address[1]}/weights")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    for name in ("HF_HUB_OFFLINE", "RESDIFF_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RESDIFF_MIRROR", holder["it"].url)
    monkeypatch.setenv("RESDIFF_CACHE", str(tmp_path / "cache"))
    yield holder["it"]
    holder["it"].hurry.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def reply() -> type[Reply]:
    return Reply


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The cache of published files, an empty folder."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setenv("RESDIFF_CACHE", str(folder))
    return folder
