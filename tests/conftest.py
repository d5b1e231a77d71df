"""Settings of the whole suite, and stand-ins that several of its folders use."""

import functools
import http.server
import os
import random
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

# before anything of the hub is imported: the suite needs no network and leaves the user's cache alone
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["RESDIFF_CACHE"] = tempfile.mkdtemp(prefix="resdiff-tests-")

import pytest
import torch

# The suite's tensors are small: a second thread costs more than it gives, above all beside other work.
torch.set_num_threads(1)


@pytest.fixture
def command_environment(monkeypatch) -> None:
    """Undo after the test what the `resdiff` command sets in the environment of its process."""
    for variable in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(variable, "error")  # as the command does
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.delenv("RESDIFF_DEBUG", raising=False)


TINY_UNET = {
    "image_size": 16,
    "model_channels": 32,
    "num_res_blocks": (1,),
    "channel_mult": (1,),
    "attention_resolutions": (16,),
    "num_head_channels": 16,
    "swin_embed_dim": 32,
    "window_size": 4,
    "mlp_ratio": 2,
    "lq_size": 16,
}
TINY_VQ = {"ch": 32, "ch_mult": (1, 1, 1), "num_res_blocks": 1, "n_embed": 4}


@pytest.fixture
def tiny_layout(monkeypatch) -> tuple[dict, dict]:
    """Every published network is as small as TINY_UNET, every autoencoder as TINY_VQ; both are returned."""
    from resdiff.checkpoints import layout
    from resdiff.checkpoints.known import KnownAutoencoder

    monkeypatch.setattr(layout, "arguments", lambda part: TINY_VQ if isinstance(part, KnownAutoencoder) else TINY_UNET)
    return TINY_UNET, TINY_VQ


@pytest.fixture
def serve(monkeypatch) -> Iterator[Callable[[Path], list[str]]]:
    """A function that serves a folder on this machine as the mirror of published files; returns the paths asked for."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def serve(folder: Path) -> list[str]:
        requests: list[str] = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_request(self, *args: object) -> None:
                requests.append(self.path)

            def log_message(self, *args: object) -> None:
                pass

        httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(httpd)
        for name in ("HF_HUB_OFFLINE", "RESDIFF_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("RESDIFF_MIRROR", f"http://127.0.0.1:{httpd.server_address[1]}")
        return requests

    yield serve
    for httpd in servers:
        httpd.shutdown()
        httpd.server_close()


@pytest.fixture
def read_damaged() -> Callable[..., None]:
    """A function that reads a file with wrong bytes among its first `head`: an image, or one line that names the file."""
    from resdiff.images import read_photos

    def read(path: Path, content: bytes, head: int) -> None:
        draw = random.Random(0)
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(5):
                damaged[draw.randrange(min(len(content), head))] = draw.randrange(256)
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    read_photos(path)
                except ValueError as error:
                    assert str(error).startswith(str(path)) and "\n" not in str(error)

    return read


@pytest.fixture
def unreadable(monkeypatch) -> Callable[[Path], None]:
    """A function after which a folder cannot be looked into, by root neither."""
    listdir = os.listdir

    def close(folder: Path) -> None:
        def guarded(path: str | os.PathLike[str] = ".") -> list[str]:
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied")
            return listdir(path)

        monkeypatch.setattr(os, "listdir", guarded)

    return close
