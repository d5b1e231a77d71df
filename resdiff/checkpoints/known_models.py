"""All models that are known by name, of whichever family. Importing this file does not import torch."""

from resdiff.checkpoints.by_name import named
from resdiff.checkpoints.known import KNOWN, KnownModel
from resdiff.checkpoints.known_seesr import SEESR_MODELS, KnownSeeSR
from resdiff.checkpoints.known_stablesr import STABLESR_MODELS, KnownStableSR

Known = KnownModel | KnownSeeSR | KnownStableSR

MODELS: dict[str, Known] = {**KNOWN, **SEESR_MODELS, **STABLESR_MODELS}


def known_model(name: str) -> Known:
    """Return the model called `name`; raises ValueError that lists the names, the closest first."""
    return named(name, MODELS, "model")
