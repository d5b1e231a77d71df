"""Checkpoints made to do harm: code in pickles, absurd shapes, broken headers, indices that name what they must not.

Whatever of them runs as code creates a file, the canary.
"""

import io
import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch


def as_zip(state: dict[str, torch.Tensor]) -> bytes:
    """Return what torch.save writes."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def as_pickle(state: dict[str, torch.Tensor]) -> bytes:
    """Return what torch.save wrote before torch 1.6."""
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file.getvalue()


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def hostile_files(state: dict[str, torch.Tensor], canary: Path) -> Iterator[tuple[str, str, bytes]]:
    """Yield (what, suffix, content) of files made to do harm; code that runs would create the file `canary`."""
    calls = {
        "os.system": Call(os.system, f"touch '{canary}'"),
        "exec": Call(exec, f"open({str(canary)!r}, 'w')"),
        "open": Call(open, str(canary), "w"),
        "eval": Call(eval, f"open({str(canary)!r}, 'w')"),
    }
    for name, call in calls.items():
        yield f"pickle that calls {name}", ".pth", pickle.dumps(call)
        yield f"torch pickle that calls {name}", ".ckpt", as_pickle(state | {"extra": call})
        yield f"torch zip that calls {name}", ".pth", as_zip(state | {"extra": call})
    yield "pickle named safetensors", ".safetensors", pickle.dumps(calls["open"])
    name = next(iter(state))
    for what, size in (("giant", (10**6, 10**6)), ("empty", (0, 10**12)), ("many axes", (1,) * 60)):
        view = torch.zeros(size) if what != "giant" else torch.zeros(1).expand(*size)  # of one stored number
        yield f"zip with a {what} tensor", ".pth", as_zip(state | {name: view})
    wide = {key: torch.zeros(1).expand(x.shape[0] * 10**5, *x.shape[1:]) if x.ndim else x for key, x in state.items()}
    yield "zip with all tensors giant", ".pth", as_zip(wide)
    yield "zip of integers", ".pth", as_zip({key: x.long() for key, x in state.items()})
    yield "zip of NaN", ".pth", as_zip({key: x * float("nan") for key, x in state.items()})
    yield "zip of complex numbers", ".pth", as_zip({key: x.to(torch.complex64) for key, x in state.items()})
    yield "zip of sparse tensors", ".pth", as_zip({key: x.to_sparse() for key, x in state.items()})
    yield "zip of strange names", ".pth", as_zip({"../../x\n\x1b[31m": torch.zeros(1), **state})
    yield "list in a zip", ".pth", as_zip([state])
    itself: dict[str, Any] = {}
    itself["state_dict"] = itself
    yield "wrapper that holds itself", ".pth", as_zip(itself)
    deep = b"\x80\x02" + b"}X\n\0\0\0state_dict" * 5000 + b"}" + b"s" * 5000 + b"."
    yield "deep wrappers", ".pth", zip_of({"archive/data.pkl": deep, "archive/version": b"3\n"})
    yield "other zip", ".pth", zip_of({"../../../escaped.txt": b"x", "data.pkl": b"."})
    yield "zip bomb", ".pth", zip_of({"archive/data.pkl": bytes(2**28), "archive/version": b"3\n"})
    for what, header in (
        ("no header", b""),
        ("not JSON", b"{not json"),
        ("a list", b"[]"),
        ("deep", b'{"a":' * 5000 + b"1" + b"}" * 5000),
        ("unknown dtype", tensor_header(dtype="F128")),
        ("negative shape", tensor_header(shape=[-1, 4])),
        ("giant shape", tensor_header(shape=[2**40, 2**40])),
        ("offsets beyond the end", tensor_header(data_offsets=[0, 2**62])),
        ("offsets backwards", tensor_header(data_offsets=[4, 0])),
        ("metadata only", b'{"__metadata__":{"a":"b"}}'),
        ("names twice", b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},' * 2 + b'"__metadata__":{}}'),
        ("no UTF-8", b'{"\xff\xfe":{}}'),
    ):
        yield f"safetensors, {what}", ".safetensors", struct.pack("<Q", len(header)) + header + bytes(4)
    for length in (0, 2**31, 2**62, 2**64 - 1):
        yield f"safetensors, header of {length}", ".safetensors", struct.pack("<Q", length) + b"{}"
    yield "HTML", ".pth", b"<!DOCTYPE html><html><body>Not Found</body></html>"
    yield "empty", ".pth", b""
    yield "one byte", ".ckpt", b"\x80"
    yield "git-lfs pointer", ".safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def zip_of(files: dict[str, bytes]) -> bytes:
    """Return a compressed zip file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tensor_header(**changes: Any) -> bytes:
    """Return a safetensors header of one tensor with something wrong."""
    return json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} | changes}).encode()


def hostile_folders(canary: Path) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield (what, a function that does it to a copy of a saved folder)."""
    module = f"open({str(canary)!r}, 'w')\nclass Canary:\n    pass\n"

    def index(**changes: Any) -> Callable[[Path], None]:
        return lambda folder: edit(folder / "model_index.json", lambda content: content | changes)

    def own_module(folder: Path) -> None:
        (folder / "unet" / "canary_module.py").write_text(module)
        index(unet=["canary_module", "Canary"])(folder)

    def own_pipeline(folder: Path) -> None:
        (folder / "pipeline.py").write_text(module)
        index(_class_name=["pipeline", "Canary"])(folder)

    def pickled_weights(folder: Path) -> None:
        for file in folder.rglob("*.safetensors"):
            file.unlink()
            file.with_suffix(".bin").write_bytes(pickle.dumps(Call(open, str(canary), "w")))

    def escaping_shards(folder: Path) -> None:
        (file,) = (folder / "unet").glob("*.safetensors")
        shards = {"metadata": {}, "weight_map": {"a": "../../../../../../etc/passwd", "b": "../" * 9 + "dev/zero"}}
        file.with_suffix(".safetensors.index.json").write_text(json.dumps(shards))
        file.unlink()

    def loop(folder: Path) -> None:
        shutil.rmtree(folder / "unet")
        (folder / "unet").symlink_to("unet")

    def fifo(folder: Path) -> None:
        (folder / "unet" / "config.json").unlink()
        os.mkfifo(folder / "unet" / "config.json")

    yield "index names an installed module", index(unet=["canary_module", "Canary"])
    yield "index names a module of its own", own_module
    yield "index names a pipeline of its own", own_pipeline
    yield "index names a function", index(unet=["os", "system"])
    yield "index names a foreign class", index(unet=["subprocess", "Popen"])
    yield "index names a path", index(unet=["../../outside", "SwinUNet"])
    yield "index escapes", index(**{"../../outside": ["resdiff.models.vq", "VQAutoencoder"]})
    yield "index has a dict for a name", index(_class_name={})
    yield "index has a list for a name", index(_class_name=[1, 2])
    yield "index without network", index(unet=[None, None])
    yield "index is deep", lambda folder: overwrite(folder / "model_index.json", "[" * 100000)
    yield "pickled weights", pickled_weights
    yield "shards that escape", escaping_shards
    yield "link to itself", loop
    yield "pipe for a file", fifo


def edit(file: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON file."""
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def overwrite(file: Path, text: str) -> None:
    """Replace the content of a file."""
    file.write_text(text)
