"""Settings of the whole suite."""

import os
import tempfile

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
