"""Published weights of ResShift (2307.12348, 2403.07319) and SinSR (2311.14760) as SwinUNet and VQAutoencoder.

Parameter names are the reference's, so there is nothing to rename: the constructor arguments are deduced from shapes
(`resdiff.checkpoints.shapes`) and the state dict is loaded strictly. What shapes do not tell (schedule, task, SinSR's
rule for the condition) comes from the table of published files (`resdiff.checkpoints.known`). The reference reads a
configuration file instead, and leaves names that it does not know unmentioned.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import torch
from accelerate import init_empty_weights

from resdiff.checkpoints.cache import cache_dir, find_file, show_licence
from resdiff.checkpoints.io import CheckpointError, load_strictly, read_shapes, read_state_dict
from resdiff.checkpoints.known import (
    KNOWN,
    Condition,
    KnownModel,
    autoencoder_by_file,
    known_by_file,
    known_by_name,
)
from resdiff.checkpoints.layout import COMPUTED, TRAINING_LOSS
from resdiff.checkpoints.shapes import (
    AUTOENCODER_NAMES,
    UNET_NAMES,
    Inlet,
    State,
    autoencoder_config,
    detect,
    unet_config,
)
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.schedulers.resshift import ResShiftScheduler


@contextmanager
def _naming(source: str | Path) -> Iterator[None]:
    """Put the file's name in front of what is wrong with a configuration that was deduced from it."""
    try:
        yield
    except ValueError as error:
        raise CheckpointError(f"{source}: {error}") from error


def load_unet(
    state: State,
    condition: Condition = "resshift",
    dtype: torch.dtype = torch.float32,
    source: str | Path = "the checkpoint",
) -> SwinUNet:
    """Build the network that a state dict belongs to and load it strictly; eval mode. Raises CheckpointError."""
    with _naming(source), init_empty_weights():
        unet = SwinUNet(**unet_config(state, condition))
    load_strictly(unet, state, COMPUTED, source, dtype)
    return unet.eval()


def load_autoencoder(
    state: State, dtype: torch.dtype = torch.float32, source: str | Path = "the checkpoint"
) -> VQAutoencoder:
    """Build the autoencoder that a state dict belongs to and load it strictly; eval mode. Raises CheckpointError."""
    with _naming(source), init_empty_weights():
        vae = VQAutoencoder(**autoencoder_config(state))
    load_strictly(vae, state, TRAINING_LOSS, source, dtype)
    return vae.eval()


def scheduler_for(known: KnownModel) -> ResShiftScheduler:
    """Return the scheduler with the noise levels that a published network was trained with."""
    return ResShiftScheduler(**asdict(known.schedule))


@dataclass(frozen=True)
class Published:
    """A known model and the files that hold it."""

    known: KnownModel
    unet_file: Path
    autoencoder_file: Path


class Components(TypedDict):
    """The parts of a pipeline."""

    unet: SwinUNet
    vae: VQAutoencoder
    scheduler: ResShiftScheduler


def resolve(files: Sequence[str | Path], known_as: str | None = None) -> Published:
    """Find which known model one or two files are: the network and, in any order, its autoencoder.

    The model is `known_as`, else the one published under the network's file name. An autoencoder that is not given is
    looked for beside the network, then in `cache_dir()`. Only names and shapes are read.
    Raises CheckpointError, one line: the files are not of this family, the model cannot be told (the message lists
    those that fit), shapes contradict it, or the autoencoder is not there; ValueError: `known_as` is unknown.
    """
    found = _by_role(files)
    if "unet" not in found:
        raise CheckpointError(f"{found['autoencoder'][0]} is an autoencoder; give the file of the network too")
    unet_file, state = found["unet"]
    inlet = Inlet.of(state)
    known = known_by_file(unet_file) if known_as is None else known_by_name(known_as)
    fitting = (
        ", ".join(name for name, model in KNOWN.items() if _inlet_of(model) == inlet) or "none of the known models"
    )
    if known is None:
        raise CheckpointError(
            f"{unet_file} could be {fitting} by its shapes; say which with --as NAME (in Python known_as=NAME)"
        )
    if _inlet_of(known) != inlet:
        raise CheckpointError(
            f"{unet_file} is not {known.name}: it takes {inlet}, and should take {_inlet_of(known)}; "
            f"by its shapes it could be {fitting}: pass --as NAME (in Python known_as=NAME)"
        )
    if "autoencoder" in found:
        autoencoder_file, shapes = found["autoencoder"]
    else:
        autoencoder_file = _find_autoencoder(known, unet_file)
        shapes = read_shapes(autoencoder_file)
    _check_autoencoder(known, autoencoder_file, shapes)
    return Published(known, unet_file, autoencoder_file)


def load_published(published: Published, dtype: torch.dtype = torch.float32) -> Components:
    """Load the networks of `resolve`'s answer, with their scheduler; the licence is said the first time.

    Raises CheckpointError.
    """
    show_licence(published.known)
    known, unet_file, autoencoder_file = published.known, published.unet_file, published.autoencoder_file
    return {
        "unet": load_unet(read_state_dict(unet_file), known.condition, dtype, unet_file),
        "vae": load_autoencoder(read_state_dict(autoencoder_file), dtype, autoencoder_file),
        "scheduler": scheduler_for(known),
    }


def _by_role(files: Sequence[str | Path]) -> dict[str, tuple[Path, State]]:
    """Return {"unet" or "autoencoder": (path, shapes)}, told apart by parameter names."""
    if len(files) not in (1, 2):
        raise CheckpointError(f"{len(files)} files are given; give the network and, optionally, its autoencoder")
    found: dict[str, tuple[Path, State]] = {}
    for path in map(Path, files):
        state = read_shapes(path)
        role = detect(state)
        if role is None:
            lacks = " and ".join(
                next(name for name in names if name not in state) for names in (UNET_NAMES, AUTOENCODER_NAMES)
            )
            raise CheckpointError(
                f"{path} is not of the ResShift family: it lacks {lacks}; give one of its checkpoints"
            )
        if role in found:
            raise CheckpointError(
                f"{found[role][0]} and {path} are both of kind {role}; give one network, one autoencoder"
            )
        found[role] = (path, state)
    return found


def _inlet_of(known: KnownModel) -> Inlet:
    """What the network of a known model takes; SinSR's is ResShift's for images of the latent's size."""
    inlet = Inlet(known.autoencoder.latent_channels, 0, known.lq_factor, known.cond_mask)
    return inlet._replace(condition_channels=inlet.expected_channels())


def _find_autoencoder(known: KnownModel, unet_file: Path) -> Path:
    name, url = known.autoencoder.file, known.autoencoder.url
    path = find_file([name], [unet_file.parent, cache_dir()])
    if path is None:
        raise CheckpointError(
            f"{known.name} needs {name}, which is neither beside {unet_file} nor in {cache_dir()}: run resdiff models "
            f"fetch {known.name}, download {url} into one of them, or give the file too (vae_file= in Python)"
        )
    return path


def _check_autoencoder(known: KnownModel, path: Path, shapes: State) -> None:
    """By its name, where it has a published one, and by its shapes: two of the published have the same."""
    wanted = known.autoencoder
    if autoencoder_by_file(path) not in (None, wanted):
        raise CheckpointError(
            f"{path} is not the autoencoder of {known.name} by its name; give {wanted.file} ({wanted.url})"
        )
    with _naming(path):
        config = autoencoder_config(shapes)
    factor, channels = 2 ** (len(config["ch_mult"]) - 1), config["embed_dim"]
    if (factor, channels) != (wanted.factor, wanted.latent_channels):
        raise CheckpointError(
            f"{path} is not the autoencoder of {known.name}: it has factor {factor} and {channels} latent channels, not "
            f"{wanted.factor} and {wanted.latent_channels}; give {wanted.file} ({wanted.url})"
        )
