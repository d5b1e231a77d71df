"""The training script of the residual-shifting model, from photos to a folder that opens."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines import SRPipeline
from resdiff.runs.launcher import RunAborted
from resdiff.train.resshift import assemble, parse_args

from .conftest import TINY

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "train" / "resshift.py"
LATENT = {
    "unet": {
        "_class_name": "SwinUNet",
        "image_size": 8,
        "model_channels": 32,
        "num_res_blocks": [1],
        "channel_mult": [1],
        "attention_resolutions": [8],
        "num_head_channels": 16,
        "swin_embed_dim": 32,
        "window_size": 4,
        "mlp_ratio": 2,
        "lq_size": 8,
    },
    "scheduler": {"num_train_timesteps": 4, "min_noise_level": 0.2},
    "vae": {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "n_embed": 64},
    "pipeline": {"padding_multiple": 8},
    "loss": "mse",
}


def upscale(folder: Path, photo: Path) -> tuple[int, int]:
    """Return the size of a photo (width, height) enlarged by the model in a folder."""
    pipe = SRPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe(photo).images[0].size


@pytest.fixture
def autoencoder(tmp_path) -> Path:
    """A saved folder of a tiny autoencoder."""
    torch.manual_seed(0)
    VQAutoencoder(**LATENT["vae"]).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.fixture
def partners(photos, tmp_path) -> Path:
    """A folder of LR partners of the photos."""
    folder = tmp_path / "lr"
    folder.mkdir()
    for path in photos.iterdir():
        photo = Image.open(path)
        photo.resize((photo.width // 4, photo.height // 4), Image.Resampling.BICUBIC).save(folder / path.name)
    return folder


@pytest.fixture
def refused(train, tmp_path, capsys):
    """Return the one line that a run is refused with, which must have created nothing."""

    def run(*flags: str, **recipe) -> str:
        before = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} | {Path("tiny.yaml")}
        with pytest.raises((ValueError, SystemExit)) as caught:
            train(*flags, **recipe)
        said = str(caught.value) if issubclass(caught.type, ValueError) else capsys.readouterr().err.strip()
        assert "\n" not in said
        assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*")} <= before
        return said

    return run


def test_the_real_launcher_trains_validates_reports_and_writes_a_model(photos, write_recipe, tmp_path, metrics) -> None:
    (photos / "broken.jpg").write_bytes(b"not a photo")
    recipe = write_recipe(report_to="tensorboard", logging_steps=2, validation_steps=2, dtype="fp16")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    flags = ["--train_data_dir", photos, "--validation_dir", photos, "--num_validation_images", "1"]
    output = tmp_path / "run"
    command = [*launcher, SCRIPT, "--recipe", recipe, *flags, "--output_dir", output, "--max_train_steps", "4"]
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("1 CPU threads each, mixed precision no", "broken.jpg", "learning_rate: 0.001", "the model is in"):
        assert text in done.stderr
    assert metrics(output, "step", "loss") and [s for (s,) in metrics(output, "step") if s] == [2, 2, 4, 4]
    assert len(metrics(output, "psnr_y_1_step", "psnr_y_4_step", "ssim_y_4_step")) == 2
    assert list((output / "logs").rglob("events.out.tfevents.*"))
    assert upscale(output, photos / "0.png") == (160, 192)
    weights = load_file(output / "unet" / "diffusion_pytorch_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert "psnr_y_1_step" in (output / "README.md").read_text()


def test_the_recipe_beside_the_model_trains_the_same_again(train, photos, tmp_path) -> None:
    first = train("--max_train_steps", "3", name="first")
    recipe = first / "recipe.yaml"
    kept = yaml.safe_load(recipe.read_text())
    assert kept["unet"]["channels"] == [8, 16] and kept["degradation"] == "light" and "train_data_dir" not in kept
    flags = ["--train_data_dir", str(photos), "--report_to", "none", "--num_threads", "1"]
    args = parse_args(["--recipe", str(recipe), *flags, "--output_dir", str(tmp_path / "second")])
    assert args.max_train_steps == 3
    second = train("--recipe", str(recipe), *flags[2:], name="second")
    a, b = (load_file(run / "unet" / "diffusion_pytorch_model.safetensors") for run in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_model_has_the_averaged_weights(train) -> None:
    run = train("--max_train_steps", "5")
    average = load_file(run / "checkpoint-5" / "ema.safetensors")
    trained = load_file(run / "checkpoint-5" / "model.safetensors")
    model = load_file(run / "unet" / "diffusion_pytorch_model.safetensors")
    parameters = list(SRPipeline.from_pretrained(run).unet.named_parameters())
    for i, (name, _) in enumerate(parameters):
        assert torch.equal(model[name], average[f"shadow.{i}"])
    assert any(not torch.equal(model[name], trained[name]) for name, _ in parameters)


def test_whatever_is_trained_takes_part_in_the_loss(photos, write_recipe, tmp_path) -> None:
    # several processes wait for the gradients of all of it; a network that takes prompts is trained without any here
    recipe = write_recipe(unet=TINY["unet"] | {"prompt_dim": 4})
    flags = ["--train_data_dir", str(photos), "--output_dir", str(tmp_path / "run"), "--max_train_steps", "1"]
    run = assemble(parse_args(["--recipe", str(recipe), *flags]))
    (batch,) = next(run.session.batches(0))
    run.loss(run.session.prepare(batch))["loss"].backward()
    unet = run.session.pipe.unet
    assert [name for name, p in unet.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_latent_model_trains_and_opens(train, photos, autoencoder, metrics) -> None:
    run = train("--max_train_steps", "2", "--logging_steps", "1", "--pretrained_vae", str(autoencoder), **LATENT)
    assert all(loss > 0 for (loss,) in metrics(run, "loss"))
    saved, original = (VQAutoencoder.from_pretrained(folder).state_dict() for folder in (run / "vae", autoencoder))
    assert all(torch.equal(saved[name], original[name]) for name in original)
    assert upscale(run, photos / "0.png") == (160, 192)


def test_a_latent_model_trained_in_half_precision_keeps_its_autoencoder_whole(train, autoencoder) -> None:
    flags = ["--max_train_steps", "1", "--mixed_precision", "bf16"]
    run = train(*flags, "--pretrained_vae", str(autoencoder), **LATENT)
    again = train(*flags, "--pretrained_model_name_or_path", str(run), name="again", **LATENT)
    original = VQAutoencoder.from_pretrained(autoencoder).state_dict()
    for folder in (run, again):
        saved = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(saved[name], original[name]) for name in original)


def test_training_goes_on_from_a_model(train, metrics) -> None:
    first = train("--max_train_steps", "20", "--learning_rate", "1e-2", name="first")
    flags = ["--max_train_steps", "1", "--logging_steps", "1", "--learning_rate", "1e-12"]
    second = train(*flags, "--pretrained_model_name_or_path", str(first), name="second")
    a, b = (load_file(run / "unet" / "diffusion_pytorch_model.safetensors") for run in (first, second))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=1e-6)


def test_two_folders_of_pairs_and_a_manifest_train_the_same(train, photos, partners, tmp_path, metrics) -> None:
    rows = [f"{path},{partners / path.name}" for path in sorted(photos.iterdir())]
    (tmp_path / "pairs.csv").write_text("\n".join(["hr,lr", *rows]))
    flags = ["--max_train_steps", "3", "--logging_steps", "1"]
    folders = train(*flags, "--lr_data_dir", str(partners), name="folders")
    manifest = train(*flags, "--manifest", str(tmp_path / "pairs.csv"), name="manifest")
    degraded = train(*flags, name="degraded")
    assert metrics(folders, "loss") == metrics(manifest, "loss") != metrics(degraded, "loss")
    assert upscale(folders, partners / "0.png") == (40, 48)


def test_gradient_checkpointing_changes_no_number(train, autoencoder, metrics) -> None:
    flags = ["--max_train_steps", "3", "--logging_steps", "1", "--pretrained_vae", str(autoencoder)]
    plain = train(*flags, name="plain", **LATENT)
    less_memory = train(*flags, "--gradient_checkpointing", name="less_memory", **LATENT)
    assert metrics(plain, "loss", "grad_norm") == metrics(less_memory, "loss", "grad_norm")


def test_accumulation_is_a_larger_batch(train, metrics) -> None:
    flags = ["--max_train_steps", "4", "--logging_steps", "1"]
    whole = train(*flags, "--train_batch_size", "4", name="whole")
    parts = train(*flags, "--train_batch_size", "1", "--global_batch_size", "4", name="parts")
    for a, b in zip(metrics(whole, "loss", "grad_norm"), metrics(parts, "loss", "grad_norm"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


@pytest.mark.parametrize("options", [{"pair_pool": 8}, {"train_batch_size": 2, "gradient_accumulation_steps": 2}])
def test_a_resumed_run_is_exact(train, metrics, options) -> None:
    flags = ["--lr_scheduler", "constant", "--logging_steps", "1"]
    whole = train(*flags, "--max_train_steps", "7", name="whole", **options)
    train(*flags, "--max_train_steps", "4", name="cut", **options)
    cut = train(*flags, "--max_train_steps", "7", "--resume_from_checkpoint", "latest", name="cut", **options)
    assert metrics(whole, "step", "loss", "lr") == metrics(cut, "step", "loss", "lr")
    names = {path.name for path in (whole / "checkpoint-7").glob("*.safetensors")}
    pool = {"pool-0.safetensors"} if "pair_pool" in options else set()
    assert names == {"model.safetensors", "ema.safetensors", "random-0.safetensors"} | pool
    for name in names:
        a, b = (load_file(run / "checkpoint-7" / name) for run in (whole, cut))
        assert all(torch.equal(a[key], b[key]) for key in a), name


def test_workers_give_the_same_samples(train, metrics) -> None:
    flags = ["--max_train_steps", "3", "--logging_steps", "1"]
    none = train(*flags, name="none")
    two = train(*flags, "--dataloader_num_workers", "2", name="two")
    assert metrics(none, "loss") == metrics(two, "loss")


def test_an_ended_run_says_so_when_a_bad_loss_aborts_it(train, tmp_path) -> None:
    with pytest.raises(RunAborted, match=r"stopped at step \d+: (the loss|the gradient's norm) is (nan|inf)"):
        train("--max_train_steps", "50", "--on_bad_loss", "abort", "--learning_rate", "1e30", "--logging_steps", "1")
    assert list((tmp_path / "run").glob("bad-batch-*.safetensors"))


# Bad input: one line each, and nothing is created


def test_folders_that_cannot_be_trained_on(refused, photos, tmp_path) -> None:
    steps = ["--max_train_steps", "1"]
    assert "missing is not a folder" in refused(*steps, "--train_data_dir", str(tmp_path / "missing"))
    (tmp_path / "empty").mkdir()
    assert "holds no image" in refused(*steps, "--train_data_dir", str(tmp_path / "empty"))
    said = refused(*steps, "--resolution", "64")
    assert "all 6 photos are too small for a crop of 64x64, the largest is 40x48" in said
    (photos / "0.txt").write_bytes("ein Löwe".encode("latin-1"))
    assert "0.txt is not in UTF-8; save it as UTF-8" in refused(*steps)


def test_pairs_that_do_not_fit(refused, photos, partners, tmp_path) -> None:
    steps = ["--max_train_steps", "1"]
    (partners / "3.png").unlink()
    assert "1 of the 11 files" in refused(*steps, "--lr_data_dir", str(partners))
    (tmp_path / "pairs.csv").write_text(f"hr,lr\n{photos / '0.png'},{partners / '3.png'}\n")
    said = refused(*steps, "--manifest", str(tmp_path / "pairs.csv"))
    assert "1 file(s) of the manifest do not exist, the first is" in said and "3.png" in said
    assert "--manifest names the pairs itself" in refused(
        *steps, "--manifest", str(tmp_path / "pairs.csv"), "--lr_data_dir", str(partners)
    )


@pytest.mark.parametrize(
    ("flags", "recipe", "message"),
    [
        ([], {}, "give --max_train_steps, --max_train_minutes or --num_train_epochs"),
        (["--max_train_steps", "1"], {"learning_rat": 1}, "unknown key 'learning_rat'; did you mean 'learning_rate'?"),
        (
            ["--max_train_steps", "1", "--pair_pool", "6"],
            {},
            "--pair_pool 6 must be a multiple of --train_batch_size 4",
        ),
        (["--max_train_steps", "1", "--global_batch_size", "6"], {}, "--global_batch_size 6 is no multiple of"),
        (["--max_train_steps", "1", "--mixed_precision", "fp16"], {}, "--mixed_precision fp16 is not for this device"),
        (["--max_train_steps", "1", "--resolution", "36"], {}, "--resolution 36 36 must be a multiple of 8"),
        (["--max_train_steps", "1", "--last_step_share", "2"], {}, "--last_step_share 2.0 must lie in [0, 1]"),
        (["--max_train_steps", "1", "--degradation", "ligth"], {}, "did you mean 'light'?"),
        (["--max_train_steps", "1"], {"degradation": "face-gfpgan"}, "the degradation reduces by 1"),
        (["--max_train_steps", "1"], {"unet": {"_class_name": "X"}}, "choose PixelUNet, SwinUNet"),
        (["--max_train_steps", "1"], {"vae": LATENT["vae"]}, "pass --pretrained_vae"),
        (["--max_train_steps", "1"], {"timestep_weights": [1, 2]}, "--timestep_weights has 2 values for 4 timesteps"),
        (["--max_train_steps", "1", "--ema_decay", "1"], {}, "--ema_decay 1.0 must lie in [0, 1)"),
        (["--max_train_steps", "1", "--validation_dir", "missing"], {}, "missing is not a folder"),
        (["--max_train_steps", "1", "--lpips_weight", "1", "--lpips_weights", "x.pth"], {}, "vgg16-397923af.pth"),
        (["--max_train_steps", "1", "--pretrained_model_name_or_path", "missing"], {}, "missing"),
        (["--max_train_steps", "1", "--resume_from_checkpoint", "checkpoint-9"], {}, "checkpoint-9 is no checkpoint"),
    ],
)
def test_settings_that_cannot_be_meant(refused, flags, recipe, message) -> None:
    assert message in refused(*flags, **recipe)


def test_the_folder_of_another_run_and_the_checkpoint_of_another_model(train, refused) -> None:
    train("--max_train_steps", "1")
    assert "holds another run: add --resume_from_checkpoint latest" in refused("--max_train_steps", "1")
    wider = {"_class_name": "PixelUNet", "channels": [16], "num_blocks": [1]}
    said = refused("--max_train_steps", "2", "--resume_from_checkpoint", "latest", unet=wider)
    assert "checkpoint-1 is a checkpoint of another model: its unet differ from this recipe's" in said


def test_a_damaged_checkpoint_is_one_line(train, tmp_path) -> None:
    train("--max_train_steps", "1")
    (tmp_path / "run" / "checkpoint-1" / "optimizer.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="checkpoint-1 is damaged, or of another number of processes") as caught:
        train("--max_train_steps", "2", "--resume_from_checkpoint", "latest")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--train_data_dir", "missing"], "error: missing is not a folder; pass a folder of photos"),
        (["--steps", "1"], "error: unrecognized arguments: --steps 1"),
    ],
)
def test_the_script_leaves_with_one_line_and_no_traceback(
    monkeypatch, write_recipe, tmp_path, capsys, flags, line
) -> None:
    recipe = ["--recipe", str(write_recipe()), "--output_dir", str(tmp_path / "run"), "--max_train_steps", "1"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *recipe, *flags])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines() == [line]
