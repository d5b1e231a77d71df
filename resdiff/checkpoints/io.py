"""Read foreign checkpoint files and load them strictly.

The wrapper forms are those of zsyOAOA/ResShift and wyf0912/SinSR (a nested `state_dict`, prefixes of DataParallel and
torch.compile) and of other common trainers; the idea of one explicit list is spandrel's canonicalize.py. Unlike those
loaders this one never runs code from a pickle and accounts for every key.
"""

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

# Keys under which trainers nest a state dict, the averaged weights first.
WRAPPERS = ("params_ema", "ema", "model_ema", "state_dict", "model_state_dict", "params", "model")
# nn.DataParallel and torch.compile put these in front of every name, in either order.
PREFIXES = ("module.", "_orig_mod.")
SHOWN = 3  # names per kind of mismatch in a message


class CheckpointError(ValueError):
    """A checkpoint file cannot be used; the message is one line and names the file and the remedy."""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file or of anything `torch.save` wrote, wrappers and prefixes peeled.

    Tensors stay in the file's dtype on the CPU and, where the format allows, are mapped into memory, not read.
    Raises CheckpointError for a missing, empty or damaged file, a pickle that needs code, and a file without tensors.
    """
    path = _checked(path)
    if path.suffix.lower() == ".safetensors":
        with _open_safetensors(path) as file:
            return _peeled({key: file.get_tensor(key) for key in file.keys()}, path)  # noqa: SIM118 (not a dict)
    return _peeled(_torch_load(path), path)


def read_shapes(path: str | Path) -> dict[str, Tensor]:
    """Like `read_state_dict`, but with tensors on the meta device: names and shapes without the numbers."""
    path = _checked(path)
    if path.suffix.lower() == ".safetensors":
        with _open_safetensors(path) as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (not a dict)
            return _peeled({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}, path)
    return {key: tensor.to("meta") for key, tensor in read_state_dict(path).items()}


def peel(content: object) -> dict[str, Tensor]:
    """Return the tensors of a loaded checkpoint under their bare names; {} if there are none.

    Dicts under the names in `WRAPPERS` are entered, other entries that are not tensors are dropped, and a prefix in
    `PREFIXES` is stripped when every name has it.
    """
    if not isinstance(content, Mapping):
        return {}
    for wrapper in WRAPPERS:
        if inner := peel(content.get(wrapper)):
            return inner
    state = {
        key: value.detach() for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)
    }
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def load_strictly(
    model: nn.Module,
    state: Mapping[str, Tensor],
    ignorable: Sequence[str] = (),  # fnmatch patterns of names that may be there and are not used
    source: str | Path = "the checkpoint",  # named in messages
    dtype: torch.dtype = torch.float32,  # of the model's floats, whatever the file's
) -> None:
    """Fill every parameter and buffer of `model` and account for every name in `state`; nothing is loaded on error.

    The tensors are copied and become the model's own, so `model` may have been built without storage (meta device).
    Raises CheckpointError: names are missing, left over, or have another shape.
    """
    check_fit(model, state, ignorable, source)
    model.load_state_dict(
        {key: state[key].to(_own_dtype(model, key, state[key], dtype), copy=True) for key in model.state_dict()},
        assign=True,
    )


def check_fit(
    model: nn.Module, state: Mapping[str, Tensor], ignorable: Sequence[str] = (), source: str | Path = "the checkpoint"
) -> None:
    """Raise CheckpointError unless `state` (meta tensors will do) has the names and shapes of `model`; see above."""
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    extra = [key for key in state if key not in expected and not any(fnmatchcase(key, p) for p in ignorable)]
    shapes = {key: (tuple(state[key].shape), tuple(expected[key].shape)) for key in expected if key in state}
    wrong = [f"{key} {given} for {wanted}" for key, (given, wanted) in shapes.items() if given != wanted]
    problems = [_listed("missing", missing), _listed("unexpected", extra), _listed("of another shape", wrong)]
    if any(problems):
        raise CheckpointError(
            f"{source} does not fit {type(model).__name__}: {'; '.join(filter(None, problems))}; use a file of this model"
        )


def _own_dtype(model: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of a tensor in the model; diffusers models name parts that stay float32 in half precision."""
    if not tensor.is_floating_point():
        return tensor.dtype
    exact = getattr(model, "_keep_in_fp32_modules", None) or ()
    half = dtype in (torch.float16, torch.bfloat16)
    return torch.float32 if half and any(part in exact for part in name.split(".")) else dtype


def _listed(what: str, names: list[str]) -> str:
    """Return e.g. "5 missing (a, b, c, ...)", "" for none."""
    if not names:
        return ""
    return f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file; give the path of a .pth, .ckpt or .safetensors checkpoint")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; download it again")
    return path


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is truncated or not a checkpoint; download it again")


def _peeled(content: object, path: Path) -> dict[str, Tensor]:
    state = peel(content)
    if not state:
        raise CheckpointError(
            f"{path} has no tensors, neither at the top nor under {', '.join(WRAPPERS)}; save the plain state dict"
        )
    return state


def _open_safetensors(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise _damaged(path) from error


def _torch_load(path: Path) -> object:
    """torch.load without code execution, mapped into memory unless the file has the format from before torch 1.6."""
    zipped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the error says it better
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            pickled = zipped or file.read(1) == pickle.PROTO
        if not pickled:
            raise _damaged(path) from error
        raise CheckpointError(
            f"{path} holds pickled Python objects besides tensors and is refused, because loading it would run code; "
            "re-save the plain state dict with torch.save, or as .safetensors"
        ) from error
    except (EOFError, RuntimeError, OSError, KeyError) as error:
        raise _damaged(path) from error
