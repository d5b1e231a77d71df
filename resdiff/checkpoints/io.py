"""Read foreign checkpoint files and load them strictly.

The wrapper forms are those of zsyOAOA/ResShift and wyf0912/SinSR (a nested `state_dict`, prefixes of DataParallel and
torch.compile) and of other common trainers; the idea of one explicit list is spandrel's canonicalize.py. Unlike those
loaders this one never runs code from a pickle, reads the files of trainers all the same, and accounts for every key.
"""

import pickle
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.serialization import safe_globals

from resdiff.checkpoints.inert import stand_ins

# Keys under which trainers nest a state dict, the averaged weights first.
WRAPPERS = ("params_ema", "ema", "model_ema", "state_dict", "model_state_dict", "params", "model")
# nn.DataParallel and torch.compile put these in front of every name, in either order.
PREFIXES = ("module.", "_orig_mod.")
NESTED = 8  # wrappers within one another that are entered
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


def check_sums(path: str | Path) -> None:
    """Raise CheckpointError if parts of a file of `torch.save` contradict its checksums, which torch.load ignores.

    Reads the whole file. Other formats, and that from before torch 1.6, have no checksums and are not looked at.
    """
    path = _checked(path)
    if not _is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError, ValueError) as error:
        raise _damaged(path) from error
    if bad is not None:
        raise _damaged(path)


def peel(content: object, depth: int = NESTED) -> dict[str, Tensor]:
    """Return the tensors of a loaded checkpoint under their bare names; {} if there are none.

    Dicts under the names in `WRAPPERS` are entered, `depth` at most within one another, other entries that are not
    plain (strided) tensors are dropped, and a prefix in `PREFIXES` is stripped when every name has it.
    """
    if not isinstance(content, Mapping) or depth < 0:
        return {}
    for wrapper in WRAPPERS:
        if inner := peel(content.get(wrapper), depth - 1):
            return inner
    state = {key: value.detach() for key, value in content.items() if isinstance(key, str) and _is_plain(value)}
    while prefix := next((p for p in PREFIXES if state and all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided


def load_strictly(
    model: nn.Module,
    state: Mapping[str, Tensor],
    ignorable: Sequence[str] = (),  # fnmatch patterns of names that may be there and are not used
    source: str | Path = "the checkpoint",  # named in messages
    dtype: torch.dtype = torch.float32,  # of the model's floats, whatever the file's
) -> None:
    """Fill every parameter and buffer of `model` and account for every name in `state`; nothing is loaded on error.

    The tensors are copied and become the model's own, so `model` may have been built without storage (meta device).
    Raises CheckpointError: names are missing, left over, or have another shape, or integers stand for floats.
    """
    check_fit(model, state, ignorable, source)
    other = [
        name for name, own in model.state_dict().items() if own.is_floating_point() != state[name].is_floating_point()
    ]
    if other:
        raise CheckpointError(f"{source}: {_listed('of another kind of number', other)}; download it again")
    model.load_state_dict(
        {key: state[key].to(_own_dtype(model, key, state[key], dtype), copy=True) for key in model.state_dict()},
        assign=True,
    )


def with_counters(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` with the counters of batch normalisation that it lacks: only training reads them."""
    counters = (name for name in model.state_dict() if name.endswith("num_batches_tracked"))
    return {name: torch.zeros((), dtype=torch.long) for name in counters} | dict(state)


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


def _stored(tensor: Tensor) -> int:
    """Return how many numbers the storage of a tensor holds."""
    return tensor.untyped_storage().nbytes() // tensor.element_size()


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
    shown = [name if name.isprintable() else ascii(name) for name in names[:SHOWN]]
    return f"{len(names)} {what} ({', '.join(shown)}{', ...' if len(names) > SHOWN else ''})"


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
    repeated = [name for name, x in state.items() if not x.is_meta and x.numel() > _stored(x)]
    if repeated:  # a few bytes of a file that would fill the memory
        raise CheckpointError(f"{path}: {_listed('larger than what is stored of them', repeated)}; re-save the tensors")
    return state


def _open_safetensors(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except SafetensorError as error:
        raise _damaged(path) from error


def _is_zip(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile as error:  # flipped bits in its end record
        raise _damaged(path) from error


def _torch_load(path: Path) -> object:
    """torch.load without code execution, mapped into memory unless the file has the format from before torch 1.6.

    What trainers pickle beside the weights is replaced, see `resdiff.checkpoints.inert`; not in the older format.
    """
    zipped = _is_zip(path)
    try:
        with warnings.catch_warnings(), safe_globals(stand_ins(path) if zipped else []):
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
    except Exception as error:  # flipped bits of a pickle raise whatever they spell
        raise _damaged(path) from error
