"""The training script of the residual-shifting model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from resdiff.models.pixel_unet import PixelUNet
from resdiff.pipelines import SRPipeline
from resdiff.resize import bicubic
from resdiff.train.resshift import build_scheduler, degrade, diffusion_loss, parse_args

ROOT = Path(__file__).parents[2]
TINY = ["--channels", "8", "16", "--num_blocks", "1", "1", "--resolution", "32", "--train_batch_size", "2"]


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"not a photo")
    return folder


def test_the_real_launcher_trains_and_resumes_and_writes_a_pipeline(photos, tmp_path) -> None:
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", str(ROOT / "train" / "resshift.py")]
    arguments = [
        "--train_data_dir",
        str(photos),
        "--output_dir",
        str(tmp_path / "run"),
        *TINY,
        "--learning_rate",
        "1e-2",
    ]
    held_out = ["--validation_dir", str(ROOT / "tests" / "data")]
    for extra in (["--max_train_steps", "2"], ["--max_train_steps", "4", "--resume_from_checkpoint", *held_out]):
        done = subprocess.run([*command, *arguments, *extra], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "resumed from" in done.stderr and "broken.jpg skipped" in done.stderr
    assert "psnr_rgb=" in done.stdout + done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "checkpoint-2",
        "checkpoint-4",
        "model_index.json",
        "unet",
    }
    pipe = SRPipeline.from_pretrained(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    assert pipe(photos / "0.png").images[0].size == (256, 192)
    assert pipe.config.upsampling == "pil" and pipe.config.padding_multiple == 2
    weights = load_file(tmp_path / "run" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float16}
    assert weights["conv_out.weight"].abs().max() > 0  # it did learn


def test_the_loss_of_an_untrained_network_is_the_error_of_bicubic() -> None:
    torch.manual_seed(0)
    unet, scheduler = PixelUNet(channels=(8, 16), num_blocks=(1, 1)), build_scheduler()
    hr = torch.rand(2, 3, 32, 32) * 2 - 1
    lr = degrade(hr, 4)
    t = torch.tensor([0, 3])
    loss = diffusion_loss(unet, scheduler, hr, lr, t, torch.randn_like(hr))
    expected = (bicubic(lr, (32, 32), "pil") - hr).abs().mean()
    torch.testing.assert_close(loss, expected)


def test_degraded_crops_hold_only_8_bit_values() -> None:
    lr = degrade(torch.rand(1, 3, 32, 32) * 2 - 1, 4)
    assert lr.shape == (1, 3, 8, 8)
    levels = (lr + 1) * 127.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_the_pixel_schedule_is_the_one_of_the_specification() -> None:
    tables = build_scheduler().train_tables
    std = tables.kappa * tables.sqrt_etas
    np.testing.assert_allclose(std, [0.008, 0.095, 0.168, 0.250], atol=6e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resolution", "30"], "--resolution 30 must be a multiple of 16"),
        (["--train_batch_size", "0"], "--train_batch_size 0"),
        (["--last_step_share", "2"], "--last_step_share 2.0"),
        (["--dtype", "fp8"], "--dtype fp8 is unknown; choose one of fp32"),
    ],
)
def test_bad_arguments_are_said_before_anything_is_built(arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(["--train_data_dir", "x", "--output_dir", "y", "--max_train_steps", "1", *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_without_an_end_is_refused_as_a_bad_argument(capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(["--train_data_dir", "x", "--output_dir", "y"])
    assert caught.value.code == 2
    assert "give max_train_steps or max_train_minutes" in capsys.readouterr().err


def test_a_folder_without_photos_is_one_line(tmp_path) -> None:
    command = [sys.executable, str(ROOT / "train" / "resshift.py"), "--train_data_dir", str(tmp_path / "none")]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run"), "--max_train_steps", "1"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'none'} is not a folder; pass a folder of photos"
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()
