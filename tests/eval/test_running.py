"""Shares of the work: nothing is left out, whatever the order and speed of the processes."""

import numpy as np
import pytest
import torch
from PIL import Image

from resdiff.eval.harness.models import parse_models
from resdiff.eval.harness.run_folder import RunFolder, read_record
from resdiff.eval.harness.running import list_tasks, restore, score, with_lr, write_lr
from resdiff.eval.harness.testsets import open_testset
from resdiff.metrics.protocols import CLASSIC_Y
from resdiff.metrics.suite import Suite
from resdiff.runs.jobs import Shard
from resdiff.runs.restorer import Restorer, Settings, load_pipeline

SETTINGS = Settings(device="cpu", dtype="float32", model="bicubic")


@pytest.fixture
def tasks(tmp_path):
    random = np.random.default_rng(0)
    for name in "abcde":
        (tmp_path / "set" / "HR").mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(
            tmp_path / "set" / "HR" / f"{name}.png"
        )
    folder = RunFolder(tmp_path / "out")
    testset = with_lr(open_testset(f"{tmp_path / 'set'} degradation=bicubic-matlab", 4), folder)
    for index in (1, 2):
        write_lr(testset, Shard(index, 2))
    return list_tasks(folder, [testset], parse_models(["bicubic"], [], SETTINGS))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_processes_one_after_the_other_leave_no_image_out(tasks, order) -> None:
    restorer = Restorer(load_pipeline(SETTINGS), SETTINGS)
    suite = Suite(["psnr_y"], CLASSIC_Y, scale=4, device=torch.device("cpu"))
    for index in order:  # the later one sees what the earlier one has finished
        restore(tasks, restorer, Shard(index, 2), 0.0)
    for index in order:
        score(tasks, suite, CLASSIC_Y, Shard(index, 2))
    records = [read_record(task.record, task.image) for task in tasks]
    assert all(record is not None and record.figures["psnr_y"] > 0 for record in records)


def test_an_image_that_does_not_fit_its_hr_is_named(tasks) -> None:
    tasks[0].image.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(tasks[0].image)
    suite = Suite(["psnr_y"], CLASSIC_Y, scale=4, device=torch.device("cpu"))
    with pytest.raises(ValueError, match="set/a, bicubic: the result is 8x8 and HR 32x24"):
        score(tasks[:1], suite, CLASSIC_Y, Shard())
