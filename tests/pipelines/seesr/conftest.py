"""SeeSR and AddSR around a tiny Stable Diffusion, for images as small as the tests' photo."""

import copy
import sys
from pathlib import Path

import pytest
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # a module beside this file, not a package

from tiny_calls import SIDE, quiet, run

from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.seesr import SeeSRPipeline


@pytest.fixture(scope="module")
def seesr(seesr) -> SeeSRPipeline:
    """SeeSR that leaves images as small as LR is."""
    return quiet(SeeSRPipeline.from_pipe(seesr, process_size=SIDE))


@pytest.fixture(scope="module")
def addsr(addsr) -> AddSRPipeline:
    """AddSR likewise."""
    return quiet(AddSRPipeline.from_pipe(addsr, process_size=SIDE))


@pytest.fixture
def mine(seesr) -> SeeSRPipeline:
    """SeeSR, the test's own but for the tokenizer, which is slow to copy."""
    return quiet(copy.deepcopy(seesr, {id(seesr.tokenizer): seesr.tokenizer}))


@pytest.fixture
def inverted(seesr) -> SeeSRPipeline:
    """SeeSR, the test's own with its tokenizer."""
    return quiet(copy.deepcopy(seesr))


@pytest.fixture(scope="module")
def plain(seesr) -> Tensor:
    """The image of a prompt without any LoRA."""
    return run(seesr, prompt="a cat")
