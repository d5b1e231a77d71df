"""The training script on a CUDA device."""

import os

import pytest
import torch
from safetensors.torch import load_file

from resdiff.pipelines import SRPipeline

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(autouse=True)
def on_cuda(fresh_accelerate) -> None:
    """Undo what keeps the other tests on the CPU."""
    del os.environ["ACCELERATE_USE_CPU"]


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("photos_in", ["memory", "device"])
def test_a_run_on_cuda_learns_and_opens(train, metrics, precision, photos_in) -> None:
    flags = ["--max_train_steps", "6", "--logging_steps", "1", "--mixed_precision", precision, "--photos_in", photos_in]
    folder = train(*flags, "--pair_pool", "8")
    losses = metrics(folder, "loss")
    assert len(losses) == 6 and all(0 < loss < 1 for (loss,) in losses)
    images = SRPipeline.from_pretrained(folder).to("cuda")(torch.rand(1, 3, 16, 16), output_type="pt").images
    assert torch.isfinite(images).all()


def test_a_resumed_run_on_cuda_goes_on_with_state_on_the_device(train, metrics) -> None:
    flags = ["--lr_scheduler", "constant", "--logging_steps", "1", "--pair_pool", "8"]
    whole = train(*flags, "--max_train_steps", "8", name="whole")
    train(*flags, "--max_train_steps", "5", name="cut")
    cut = train(*flags, "--max_train_steps", "8", "--resume_from_checkpoint", "latest", name="cut")
    for a, b in zip(metrics(whole, "loss"), metrics(cut, "loss"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)  # kernels of CUDA may add up in another order
    first, second = (load_file(run / "checkpoint-8" / "ema.safetensors") for run in (whole, cut))
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=1e-4, rtol=1e-3)
