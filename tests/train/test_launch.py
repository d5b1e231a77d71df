"""Threads, precision, workers and trackers of a run."""

import os
from pathlib import Path

import pytest
import torch

from resdiff.train import launch
from resdiff.train.launch import choose_precision, choose_workers, set_threads, start
from resdiff.train.settings import TrainingArguments

CPU = torch.device("cpu")


@pytest.fixture
def eight_cores(monkeypatch):
    """A machine of eight cores that no launcher has touched."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "TORCHELASTIC_")) or name == "OMP_NUM_THREADS":
            monkeypatch.delenv(name)
    monkeypatch.setattr(launch, "cores", lambda: 8)
    before = torch.get_num_threads()
    yield monkeypatch
    torch.set_num_threads(before)


def test_each_process_gets_its_share_of_the_cores(eight_cores) -> None:
    assert set_threads(1) == torch.get_num_threads() == 8
    assert set_threads(3) == torch.get_num_threads() == 2
    assert set_threads(16) == torch.get_num_threads() == 1


@pytest.mark.parametrize("launcher", ["ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"])
def test_the_one_thread_that_a_launcher_sets_does_not_count(eight_cores, launcher) -> None:
    eight_cores.setenv(launcher, "no")
    eight_cores.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    assert set_threads(2) == torch.get_num_threads() == 4


def test_the_threads_that_the_user_chose_stay(eight_cores) -> None:
    torch.set_num_threads(1)
    eight_cores.setenv("OMP_NUM_THREADS", "1")  # without a launcher the user said it
    assert set_threads(1) == torch.get_num_threads() == 1
    eight_cores.setenv("ACCELERATE_MIXED_PRECISION", "no")
    eight_cores.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)  # as OpenMP does by the variable
    assert set_threads(2) == torch.get_num_threads() == 3
    assert set_threads(2, wanted=5) == torch.get_num_threads() == 5


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--mixed_precision fp16 is not for this device: .*choose fp32 or bf16"):
        choose_precision("fp16", CPU)


def test_auto_is_what_the_launcher_was_told_else_what_is_fast(monkeypatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(launch, "default_dtype", lambda device: torch.bfloat16)
    assert choose_precision("auto", CPU) == "bf16"
    monkeypatch.setattr(launch, "default_dtype", lambda device: torch.float32)
    assert choose_precision("auto", CPU) == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert choose_precision("auto", CPU) == "bf16"
    assert choose_precision("no", CPU) == "no"  # a flag wins over the launcher
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="--mixed_precision fp16"):
        choose_precision("auto", CPU)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="--mixed_precision fp8 is unknown"):
        choose_precision("auto", CPU)


def test_photos_are_read_by_the_cores_that_nothing_else_uses(monkeypatch) -> None:
    monkeypatch.setattr(launch, "cores", lambda: 12)
    cuda = torch.device("cuda")
    assert choose_workers(None, "auto", 1, CPU) == 0
    assert choose_workers(None, "auto", 1, cuda) == 8
    assert choose_workers(None, "disk", 4, cuda) == 3
    assert choose_workers(None, "memory", 16, cuda) == 1
    assert choose_workers(0, "auto", 1, cuda) == 0 and choose_workers(5, "auto", 1, CPU) == 5


def test_photos_on_the_device_are_not_sent_to_other_processes() -> None:
    assert choose_workers(None, "device", 1, torch.device("cuda")) == 0
    with pytest.raises(ValueError, match="--dataloader_num_workers 2 cannot read photos on the device"):
        choose_workers(2, "device", 1, torch.device("cuda"))


def test_a_tracker_that_is_not_installed_is_said_in_one_line(monkeypatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    args = TrainingArguments(
        train_data_dir=Path("x"), output_dir=Path("y"), max_train_steps=1, report_to="wandb", num_threads=1
    )
    with pytest.raises(ValueError, match="--report_to wandb: wandb is not installed; pip install it, or pass none"):
        start(args)


def test_a_run_says_how_it_works(caplog, tmp_path) -> None:
    args = TrainingArguments(
        train_data_dir=tmp_path,
        output_dir=tmp_path / "run",
        max_train_steps=1,
        report_to="none",
        num_threads=1,
        mixed_precision="no",
    )
    with caplog.at_level("INFO", logger="resdiff"):
        accelerator = start(args)
    assert "1 process(es) on cpu, 1 CPU threads each, mixed precision no" in caplog.text
    assert accelerator.mixed_precision == "no" and not (tmp_path / "run").exists()
