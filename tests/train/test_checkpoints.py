"""Checkpoints are written whole or not at all, rotated, and read back to the bit."""

import errno
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from resdiff.train import checkpoints as module
from resdiff.train.checkpoints import Checkpoints, all_checkpoints, checkpoint_step, find_checkpoint, load_random_state
from resdiff.train.ema import Ema
from resdiff.train.progress import Progress

FULL = OSError(errno.ENOSPC, "No space left on device")


class Numbers:
    """State of each process."""

    def __init__(self, value: float):
        self.value = torch.full((3,), value)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"value": self.value}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.value = tensors["value"]


class Run:
    """A linear layer with its optimizer, average and checkpoints."""

    def __init__(self, folder: Path, total_limit: int = 2, seed: int = 0):
        torch.manual_seed(seed)
        accelerator = Accelerator(cpu=True)
        layer = torch.nn.Linear(2, 2)
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        self.layer, self.optimizer = accelerator.prepare(layer, optimizer)
        self.ema = Ema(self.layer.parameters(), 0.9)
        self.numbers = Numbers(seed)
        self.checkpoints = Checkpoints(
            accelerator=accelerator,
            output_dir=folder,
            settings="seed: 0\n",
            total_limit=total_limit,
            shared={"ema": self.ema},
            per_process={"numbers": self.numbers},
        )
        self.checkpoints.begin()

    def step(self) -> float:
        loss = self.layer(torch.randn(4, 2)).square().mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step()
        return float(loss)

    def save(self, step: int) -> bool:
        return self.checkpoints.save(Progress(step=step))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_everything_comes_back_to_the_bit(tmp_path) -> None:
    first = Run(tmp_path)
    for _ in range(3):
        first.step()
    progress = Progress(step=3, samples=12, seconds=1.25, average_loss=0.1, bad_steps=2)
    assert first.checkpoints.save(progress)
    second = Run(tmp_path, seed=1)
    loaded = Progress()
    second.checkpoints.load(tmp_path / "checkpoint-3", loaded)
    assert loaded == progress
    assert torch.equal(second.numbers.value, first.numbers.value)
    state = torch.get_rng_state()  # restored by the load
    losses = []
    for run in (first, second):
        torch.set_rng_state(state)
        losses.append([run.step() for _ in range(3)])
    assert losses[0] == losses[1]
    for a, b in zip(first.layer.parameters(), second.layer.parameters(), strict=True):
        assert torch.equal(a, b)
    for name, tensor in first.ema.tensors().items():
        assert torch.equal(tensor, second.ema.tensors()[name])


def test_the_random_state_is_that_of_the_moment_of_saving(tmp_path) -> None:
    run = Run(tmp_path)
    run.save(1)
    expected = torch.rand(3)
    torch.manual_seed(99)
    run.checkpoints.load(tmp_path / "checkpoint-1", Progress())
    assert torch.equal(torch.rand(3), expected)


def test_a_checkpoint_says_what_it_holds(tmp_path) -> None:
    Run(tmp_path).save(7)
    assert names(tmp_path) == {"checkpoint-7", "run.yaml"}
    files = names(tmp_path / "checkpoint-7")
    assert files >= {"progress.json", "run.yaml", "ema.safetensors", "numbers-0.safetensors", "model.safetensors"}
    assert (tmp_path / "checkpoint-7" / "run.yaml").read_text() == "seed: 0\n"


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_newest_are_kept_by_number(tmp_path, limit) -> None:
    run = Run(tmp_path, total_limit=limit)
    for step in (8, 9, 10, 11):
        run.save(step)
    assert [path.name for path in all_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10", "checkpoint-11"][
        -limit:
    ]


def test_the_latest_is_the_one_of_the_highest_number(tmp_path) -> None:
    for name in ("checkpoint-9", "checkpoint-100", "checkpoint-20", "checkpoint-x", "partial-300", "checkpoint-"):
        (tmp_path / name).mkdir()
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-100"
    assert find_checkpoint(tmp_path / "nothing", "latest") is None
    assert checkpoint_step(tmp_path / "checkpoint-x") is None


def test_a_checkpoint_is_found_by_name_or_path(tmp_path) -> None:
    Run(tmp_path).save(3)
    assert find_checkpoint(tmp_path, "checkpoint-3") == tmp_path / "checkpoint-3"
    assert find_checkpoint(tmp_path / "elsewhere", str(tmp_path / "checkpoint-3")) == tmp_path / "checkpoint-3"
    for wanted in ("checkpoint-4", str(tmp_path)):
        with pytest.raises(ValueError, match=r"--resume_from_checkpoint .* is no checkpoint; pass latest"):
            find_checkpoint(tmp_path, wanted)


def test_saving_the_same_step_again_replaces_it(tmp_path) -> None:
    run = Run(tmp_path)
    assert run.save(1) and run.save(1)
    assert names(tmp_path) == {"checkpoint-1", "run.yaml"}


@pytest.mark.parametrize("where", ["ema", "weights", "flush"])
def test_a_full_disk_leaves_the_last_good_checkpoint_and_nothing_half(tmp_path, monkeypatch, caplog, where) -> None:
    run = Run(tmp_path, total_limit=1)
    assert run.save(1)
    before = {path: path.read_bytes() for path in (tmp_path / "checkpoint-1").rglob("*") if path.is_file()}

    def fail(*args: object, **options: object) -> None:
        raise FULL

    def fail_midway(folder: str) -> None:
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0:\n file write failed")

    with monkeypatch.context() as patch:
        if where == "weights":
            patch.setattr(run.checkpoints.accelerator, "save_state", fail_midway)
        else:
            patch.setattr(module, {"ema": "save_tensors", "flush": "flush"}[where], fail)
        assert run.save(2) is False
    assert names(tmp_path) == {"checkpoint-1", "run.yaml"}
    assert before == {path: path.read_bytes() for path in (tmp_path / "checkpoint-1").rglob("*") if path.is_file()}
    assert caplog.messages[-1].startswith("checkpoint-2 could not be written, the last one stays: ")
    assert "\n" not in caplog.messages[-1]
    assert run.save(3)  # when there is room again
    assert names(tmp_path) == {"checkpoint-3", "run.yaml"}


def test_a_full_disk_while_saving_the_same_step_again_keeps_the_first(tmp_path, monkeypatch) -> None:
    run = Run(tmp_path)
    run.save(1)

    def fail(*args: object) -> None:
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_tensors", fail)
        assert not run.save(1)
    loaded = Progress()
    run.checkpoints.load(tmp_path / "checkpoint-1", loaded)
    assert loaded.step == 1


def test_what_a_killed_run_left_half_written_is_removed(tmp_path) -> None:
    Run(tmp_path).save(1)
    (tmp_path / "partial-2").mkdir()
    (tmp_path / "partial-2" / "model.safetensors").write_bytes(b"half")
    Run(tmp_path)
    assert names(tmp_path) == {"checkpoint-1", "run.yaml"}


FILES = ["progress.json", "model.safetensors", "optimizer.bin", "ema.safetensors", "numbers-0.safetensors"]


@pytest.mark.parametrize("damage", ["half", "empty", "garbage", "gone"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_checkpoint_is_one_line(tmp_path, file, damage) -> None:
    run = Run(tmp_path)
    run.step()
    run.save(1)
    path = tmp_path / "checkpoint-1" / file
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "garbage": b"\x93garbage" * 40}[damage])
    with pytest.raises(ValueError, match="checkpoint-1 is damaged, or of another number of processes") as caught:
        run.checkpoints.load(tmp_path / "checkpoint-1", Progress())
    assert "\n" not in str(caught.value)


def test_state_of_another_shape_is_refused(tmp_path) -> None:
    Run(tmp_path).save(1)
    other = Run(tmp_path)
    other.ema._model.shadow_params[0] = torch.zeros(5)
    with pytest.raises(ValueError, match="is damaged"):
        other.checkpoints.load(tmp_path / "checkpoint-1", Progress())


def test_random_numbers_go_on_where_they_were(tmp_path) -> None:
    run = Run(tmp_path)
    run.checkpoints.save(Progress(step=1))
    expected = torch.rand(3)
    torch.manual_seed(99)
    run.checkpoints.load(tmp_path / "checkpoint-1", Progress())
    assert torch.equal(torch.rand(3), expected)


def test_damaged_random_numbers_are_refused_and_missing_ones_of_a_new_process_are_told(tmp_path, caplog) -> None:
    run = Run(tmp_path)
    run.checkpoints.save(Progress(step=1))
    path = tmp_path / "checkpoint-1" / "random-0.safetensors"
    load_random_state(path.with_name("random-1.safetensors"))
    assert "starts with random numbers of its own" in caplog.text
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="checkpoint-1 is damaged"):
        run.checkpoints.load(tmp_path / "checkpoint-1", Progress())
    path.unlink()
    with pytest.raises(ValueError, match=r"random-0\.safetensors is missing"):
        run.checkpoints.load(tmp_path / "checkpoint-1", Progress())
