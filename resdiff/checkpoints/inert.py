"""What trainers pickle beside the weights, as objects that do nothing: Lightning's files are read without their code.

PyTorch Lightning keeps callbacks and hyper-parameters in a checkpoint, objects of its own classes, of OmegaConf's and of
the trained project's. torch.load(weights_only=True) refuses them; installing those packages to read the weights would
run their code. So torch's own list of allowed names gets stand-ins for them, which take anything and keep nothing.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch.serialization import get_unsafe_globals_in_checkpoint

# Whose names may stand in a checkpoint: trainers, their configurations, and the projects around latent diffusion.
PACKAGES = (
    *("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "torchmetrics", "omegaconf"),
    *("ldm", "sgm", "taming", "basicsr"),
)
NAMES = (
    *("argparse.Namespace", "collections.defaultdict"),
    *("typing.Any", "builtins.dict", "builtins.list", "builtins.int", "builtins.float", "builtins.str"),  # OmegaConf's
    *("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"),  # learning rates and scores
)


class Inert:
    """Takes any arguments and any state, and keeps none."""

    def __new__(cls, *_: Any) -> Any:
        """As for any object; subclasses may return another."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class InertDict(Inert):
    """For classes of dictionaries: torch puts items into plain ones only."""

    def __new__(cls, *_: Any) -> Any:
        """Return one, empty."""
        return OrderedDict()


def stand_ins(path: Path) -> list[Any]:
    """Return a stand-in for each foreign name of `PACKAGES` and `NAMES` in a zip of torch.save, for torch's `safe_globals`.

    For other names there is none, so that torch.load refuses them. Raises whatever a damaged file makes torch raise.
    """
    names = (name for name in get_unsafe_globals_in_checkpoint(path) if _may_stand(name))
    return [_stand_in(*name.rpartition(".")[::2]) for name in names]


def _may_stand(name: str) -> bool:
    return name in NAMES or name.partition(".")[0] in PACKAGES


def _stand_in(module: str, name: str) -> type:
    kind = InertDict if name.lower().endswith("dict") else Inert
    return type(name, (kind,), {"__module__": module})
