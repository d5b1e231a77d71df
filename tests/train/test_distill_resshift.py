"""Distillation as a script: from a teacher's folder to a student that opens, alone and in two processes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.checkpoints import all_checkpoints
from resdiff.train.distill_resshift import assemble, main, parse_args
from resdiff.train.recipe import build_degradation
from resdiff.train.update import Update

from .conftest import TINY, reset_accelerate
from .test_resshift import LATENT
from .test_resume import assert_same_end, begin, finish, kill

SCRIPT = Path(__file__).parents[2] / "train" / "distill_resshift.py"
RECIPES = sorted((SCRIPT.parent / "recipes" / "distill").glob("*.yaml"))
FAST = ["--report_to", "none", "--num_threads", "1", "--mixed_precision", "no", "--resolution", "32"]
FAST += ["--train_batch_size", "4", "--logging_steps", "1", "--learning_rate", "1e-3", "--degradation", "light"]
LAUNCHER = "accelerate.commands.launch --cpu --num_processes 1"
IN_TWO = "torch.distributed.run --standalone --nproc_per_node=2"
GAME = ["--method", "rsd", "--fake_updates", "2", "--fake_warmup_steps", "1"]
ADD = ["--method", "add", "--critic_warmup_steps", "1", "--teacher_draws", "2", "--psr_weight", "0.4"]


IDS = ["sinsr", "rsd", "add"]


def save_teacher(folder: Path, steps: int = 4, zero: bool = False, width: int = 8, **recipe: Any) -> Path:
    """Write a tiny model on pixels with random weights, or with those of bicubic enlargement."""
    torch.manual_seed(0)
    unet = PixelUNet(channels=(width,), num_blocks=(1,))
    if not zero:
        for part in (unet.predictor, unet.denoiser):
            torch.nn.init.normal_(part.conv_out.weight, std=0.1)
    scheduler = ResShiftScheduler(**TINY["scheduler"] | {"num_train_timesteps": steps})
    ResShiftPipeline(unet, None, scheduler, padding_multiple=1, upsampling="pil").save_pretrained(folder)
    if recipe:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def teacher(tmp_path) -> Path:
    """A tiny teacher of four steps on pixels."""
    return save_teacher(tmp_path / "teacher")


@pytest.fixture
def latent_teacher(tmp_path) -> Path:
    """A tiny teacher of four steps in latent space."""
    torch.manual_seed(0)
    unet = SwinUNet(**{key: value for key, value in LATENT["unet"].items() if key != "_class_name"})
    torch.nn.init.normal_(unet.out[-1].weight, std=0.1)
    scheduler = ResShiftScheduler(**LATENT["scheduler"])
    ResShiftPipeline(unet, VQAutoencoder(**LATENT["vae"]), scheduler, padding_multiple=8).save_pretrained(
        tmp_path / "latent"
    )
    return tmp_path / "latent"


@pytest.fixture
def distil(tmp_path, photos, teacher) -> Callable[..., Path]:
    """Distil in this process; return the output folder."""

    def run(*flags: str, name: str = "student", teacher: Path = teacher) -> Path:
        reset_accelerate()
        always = ["--teacher", str(teacher), "--output_dir", str(tmp_path / name), "--train_data_dir", str(photos)]
        main(parse_args([*FAST, *always, *flags]))
        return tmp_path / name

    return run


def opened(folder: Path) -> SRPipeline:
    pipe = SRPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def keys_of(folder: Path) -> list[set[str]]:
    """Return the names in each line of a run's metrics."""
    return [set(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def launched(tmp_path, teacher, photos) -> Callable[..., tuple[Path, str]]:
    """Distil by a launcher; return the output folder and what was said."""

    def run(launcher: str, *flags: str) -> tuple[Path, str]:
        data = ["--teacher", str(teacher), "--train_data_dir", str(photos), "--output_dir", str(tmp_path / "launched")]
        return tmp_path / "launched", finish(
            [sys.executable, "-m", *launcher.split(), str(SCRIPT), *FAST, *data, *flags]
        )

    return run


def test_the_launcher_distils_validates_and_writes_a_student(launched, photos, tmp_path) -> None:
    flags = ["--method", "sinsr", "--max_train_steps", "2", "--num_inference_steps", "2"]
    run, said = launched(LAUNCHER, *flags, "--validation_dir", str(photos), "--num_validation_images", "1")
    assert "the model is in" in said
    pipe = opened(run)
    assert pipe.default_steps == 2 and pipe.scheduler.config.deterministic
    for number in (None, 1, 4):
        assert pipe(photos / "0.png", num_inference_steps=number).images[0].size == (160, 192)
    card = (run / "README.md").read_text()
    assert "from `teacher` (weights " in card and "4 steps became 2." in card and str(tmp_path) not in card
    assert "| psnr_y_2_step |" in card and "| psnr_y_4_step |" in card  # the student's, and the teacher's


@pytest.mark.parametrize(
    "flags",
    # without an epsilon Adam blows up what is rounding in the gradients of biases before a norm
    [["--method", "sinsr"], GAME, [*ADD, "--adam_epsilon", "1e-4"]],
    ids=IDS,
)
def test_two_processes_equal_one_with_twice_the_batch(launched, distil, metrics, flags) -> None:
    flags = [*flags, "--num_inference_steps", "2", "--max_train_steps", "2"]
    two, said = launched(IN_TWO, *flags, "--train_batch_size", "2")
    assert "2 process(es) on cpu" in said
    one = distil(*flags, name="one")
    names = {"sinsr": ("loss", "grad_norm"), "rsd": ("fake",), "add": ("critic",)}[flags[1]]
    rows = [metrics(run, "step", *names) for run in (one, two)]
    assert len(rows[0]) == 2
    for a, b in zip(*rows, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    for name in {path.name for path in (one / "checkpoint-2").glob("*.safetensors")} - {"random-0.safetensors"}:
        a, b = (load_file(run / "checkpoint-2" / name) for run in (one, two))
        assert max(float((a[key].double() - b[key].double()).abs().max()) for key in a) < 1e-5, name


@pytest.mark.parametrize("flags", [["--method", "sinsr"], GAME, [*ADD, "--num_inference_steps", "3"]], ids=IDS)
def test_a_resumed_run_is_exact(distil, metrics, flags) -> None:
    flags = [*flags, "--lr_scheduler", "constant"]
    whole = distil(*flags, "--max_train_steps", "4", name="whole")
    distil(*flags, "--max_train_steps", "2", name="cut")
    cut = distil(*flags, "--max_train_steps", "4", "--resume_from_checkpoint", "latest", name="cut")
    assert metrics(whole, "step", "loss", "grad_norm") == metrics(cut, "step", "loss", "grad_norm") != []
    files = {"model.safetensors", "ema.safetensors", "random-0.safetensors"}
    assert_same_end(whole, cut, 4, files | (set() if "sinsr" in flags else {"model_1.safetensors"}))


@pytest.mark.parametrize("flags", [GAME, [*ADD, "--num_inference_steps", "2"]], ids=IDS[1:])
def test_a_killed_run_ends_with_the_same_weights(distil, teacher, photos, tmp_path, flags) -> None:
    flags = [*flags, "--lr_scheduler", "constant", "--max_train_steps", "40"]
    data = ["--teacher", str(teacher), "--train_data_dir", str(photos), "--output_dir", str(tmp_path / "cut")]
    command = [sys.executable, "-m", *LAUNCHER.split(), str(SCRIPT), *FAST, *data, *flags, "--checkpointing_steps", "2"]
    kill(begin(command, tmp_path / "cut", tmp_path / "log"))
    assert int(all_checkpoints(tmp_path / "cut")[-1].name.split("-")[1]) < 40
    finish([*command, "--resume_from_checkpoint", "latest"])
    files = {"model.safetensors", "model_1.safetensors", "ema.safetensors", "random-0.safetensors"}
    assert_same_end(distil(*flags, name="whole"), tmp_path / "cut", 40, files)


@pytest.mark.parametrize(
    "flags",
    [
        ["--method", "sinsr", "--loss_in_image_space", "--num_inference_steps", "2"],
        GAME,
        [*ADD, "--loss_in_image_space", "--num_inference_steps", "2"],
    ],
    ids=IDS,
)
def test_a_latent_teacher(distil, latent_teacher, photos, metrics, flags) -> None:
    run = distil(*flags, "--max_train_steps", "2", teacher=latent_teacher)
    assert all(loss == loss for (loss,) in metrics(run, "loss"))
    saved, original = (VQAutoencoder.from_pretrained(f / "vae").state_dict() for f in (run, latent_teacher))
    assert all(torch.equal(saved[name], original[name]) for name in original)
    assert opened(run)(photos / "0.png").images[0].size == (160, 192)


def test_sinsr_leads_a_student_astray_to_where_the_teachers_chain_ends(distil, tmp_path, metrics) -> None:
    bicubic = save_teacher(tmp_path / "bicubic", zero=True)
    flags = ["--max_train_samples", "1", "--augmentation", "none", "--resolution", "40", "--max_train_steps", "60"]
    flags += ["--pretrained_model_name_or_path", str(bicubic), "--learning_rate", "3e-3", "--gt_weight", "0"]
    run = distil("--method", "sinsr", *flags)
    losses = [loss for (loss,) in metrics(run, "mse")]
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.parametrize("form", [[], ["--detached"]], ids=["exact", "detached"])
def test_rsd_leads_a_student_astray_back_to_the_teacher(distil, teacher, tmp_path, photos, form) -> None:
    # the teacher is bicubic interpolation, whatever the noise; the student starts from other weights
    bicubic = save_teacher(tmp_path / "bicubic", zero=True)
    flags = [*GAME, "--fake_warmup_steps", "10", "--fake_updates", "3", "--max_train_steps", "60", *form]
    flags += ["--pretrained_model_name_or_path", str(teacher), "--lr_scheduler", "constant", "--ema_decay", "0.5"]
    flags += ["--learning_rate", "2e-3", "--adam_beta1", "0.5"]
    run = distil(*flags, "--max_train_samples", "1", teacher=bicubic)
    images = [
        opened(folder)(
            photos / "0.png", num_inference_steps=1, generator=torch.Generator().manual_seed(0), output_type="pt"
        ).images
        for folder in (bicubic, teacher, run)
    ]
    wanted, before, after = images
    assert float((after - wanted).square().mean()) < 0.3 * float((before - wanted).square().mean())


def test_rsd_with_an_adversarial_head(distil) -> None:
    run = distil(*GAME, "--adversarial_weight", "3e-3", "--num_inference_steps", "2", "--max_train_steps", "2")
    assert [{"fake", "critic"} <= keys for keys in keys_of(run)] == [True, True]
    assert "adversarial" in keys_of(run)[1] and (run / "checkpoint-2" / "model_2.safetensors").exists()


def test_while_it_warms_up_the_fake_alone_learns(distil, teacher) -> None:
    run = distil(*GAME, "--fake_warmup_steps", "2", "--max_train_steps", "3", "--checkpointing_steps", "1")
    assert [{"loss", "game", "mse"} <= keys for keys in keys_of(run)] == [False, False, True]
    assert all("fake" in keys for keys in keys_of(run))
    before = opened(teacher).unet.state_dict()
    student, fake = (load_file(run / "checkpoint-2" / f"model{of}.safetensors") for of in ("", "_1"))
    assert all(torch.equal(student[name], before[name]) for name in before)
    assert any(not torch.equal(fake[name], before[name]) for name in before)


def test_players_of_a_game_are_not_judged_by_the_size_of_their_losses(teacher, photos, tmp_path) -> None:
    games = {}
    for flags in (["--method", "sinsr"], [*GAME, "--adversarial_weight", "1"], ADD):
        reset_accelerate()
        always = ["--teacher", str(teacher), "--output_dir", str(tmp_path / "x"), "--train_data_dir", str(photos)]
        step = assemble(parse_args([*FAST, *always, *flags, "--max_train_steps", "1"])).advance
        updates = [step.func] if flags[1] == "sinsr" else [x for x in vars(step).values() if isinstance(x, Update)]
        games[flags[1]] = [update.game for update in updates]
    assert games == {"sinsr": [False], "rsd": [True] * 3, "add": [True] * 2}


def test_each_player_learns_at_a_rate_of_its_own(distil, teacher) -> None:
    flags = ["--lr_scheduler", "constant", "--learning_rate", "1e-6", "--max_train_steps", "2", "--ema_decay", "0"]
    before = opened(teacher).unet.state_dict()
    for other in ([*GAME, "--fake_learning_rate", "1e-2"], [*ADD, "--critic_learning_rate", "1e-2"]):
        run = distil(*flags, *other, name=other[1])
        student, second = (load_file(run / "checkpoint-2" / f"model{of}.safetensors") for of in ("", "_1"))
        assert 0 < max(float((student[name] - before[name]).abs().max()) for name in before) < 1e-5
        if other[1] == "rsd":
            assert max(float((second[name] - before[name]).abs().max()) for name in before) > 1e-3


def test_the_denoiser_alone(distil, teacher) -> None:
    run = distil(*GAME, "--trained_part", "denoiser", "--max_train_steps", "3", "--ema_decay", "0")
    before, after = (opened(folder).unet.state_dict() for folder in (teacher, run))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"denoiser", "time_embed"}


def test_the_students_schedule_begins_at_the_last_step(distil, tmp_path) -> None:
    fifteen = save_teacher(tmp_path / "fifteen", steps=15)
    run = distil("--method", "sinsr", "--num_inference_steps", "4", "--max_train_steps", "1", teacher=fifteen)
    scheduler = opened(run).scheduler
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [14, 11, 7, 3] and scheduler.config.deterministic


def test_the_recipe_beside_the_student_distils_the_same_again(distil, tmp_path, teacher) -> None:
    first = distil("--method", "sinsr", "--max_train_steps", "2", name="first")
    kept = yaml.safe_load((first / "recipe.yaml").read_text())
    assert "teacher" not in kept and kept["unet"]["channels"] == [8]
    second = distil("--recipe", str(first / "recipe.yaml"), name="second")
    a, b = (load_file(run / "unet" / "diffusion_pytorch_model.safetensors") for run in (first, second))
    assert all(torch.equal(a[name], b[name]) for name in a)
    other = save_teacher(tmp_path / "other", zero=True)
    with pytest.raises(ValueError, match="other weights than --teacher_weights or the recipe names"):
        distil("--recipe", str(first / "recipe.yaml"), name="third", teacher=other)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_that_comes_along_is_one(path) -> None:
    always = ["--teacher", "x", "--train_data_dir", "x", "--output_dir", "y", "--max_train_minutes", "1"]
    args = parse_args(["--recipe", str(path), *always])
    assert args.method == path.stem.partition("_")[0] and build_degradation(args.degradation).scale == 4
    if path.stem.endswith("_realsr"):  # as published
        rate, decay = (2e-5, 0.99) if args.method == "add" else (5e-5, 0.999)  # those of AddSR
        assert (args.global_batch_size, args.learning_rate, args.ema_decay) == (64, rate, decay)


# Bad input: one line each


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_inference_steps", "4"], "--num_inference_steps 4 are no steps of the teacher's schedule of 4"),
        (["--num_inference_steps", "0"], "choose 1 to 3"),
        (["--teacher", "bicubic"], "--teacher bicubic is no residual-shifting model"),
        (["--teacher", "nowhere"], "model 'nowhere' is no file, folder or known name"),
        (["--method", "rsd", "--lpips_weight", "2", "--lpips_weights", "x.pth"], "vgg16-397923af.pth"),
        (["--method", "add", "--critic", "dino"], "dino_deitsmall16_pretrain.pth"),
        (["--method", "add", "--critic", "dino", "--critic_weights", "x.pth"], "dino_deitsmall16_pretrain.pth"),
    ],
)
def test_what_cannot_be_distilled(distil, tmp_path, flags, message) -> None:
    with pytest.raises(ValueError) as caught:
        distil("--method", "sinsr", "--max_train_steps", "1", *flags)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "error: --method must be given"),
        (["--method", "magic"], "error: --method magic is unknown; choose sinsr, rsd, add"),
        (["--method", "sinsr", "--gt_weight", "-1"], "error: --gt_weight -1.0 must not be negative"),
        (["--method", "rsd", "--fake_updates", "0"], "error: --fake_updates 0 must be at least 1"),
        (["--method", "rsd", "--fake_learning_rate", "0"], "error: --fake_learning_rate 0.0 must be positive"),
        (["--method", "add", "--adversarial_weight", "-1"], "error: --adversarial_weight -1.0 must not be negative"),
        (["--method", "add", "--teacher_draws", "0"], "error: --teacher_draws 0 must be at least 1"),
        (["--method", "add", "--psr_weight", "2"], "error: --psr_weight 2.0 must lie in [0, 1]"),
        (["--method", "add", "--r1_weight", "-1"], "error: --r1_weight -1.0 must not be negative"),
        (["--method", "add", "--critic_warmup_steps", "-1"], "error: --critic_warmup_steps -1 must not be negative"),
        (["--method", "add", "--critic_learning_rate", "0"], "error: --critic_learning_rate 0.0 must be positive"),
        (
            ["--method", "add", "--critic_weights", "x"],
            "error: --critic_weights is for --critic dino; the teacher's features need none",
        ),
    ],
)
def test_settings_that_cannot_be_meant(tmp_path, capsys, flags, line) -> None:
    always = [
        "--teacher",
        "x",
        "--train_data_dir",
        "x",
        "--output_dir",
        str(tmp_path / "out"),
        "--max_train_steps",
        "1",
    ]
    with pytest.raises(SystemExit) as caught:
        parse_args([*always, *flags])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines() == [line]


def test_a_teacher_of_one_step(distil, tmp_path) -> None:
    with pytest.raises(ValueError, match="the teacher has a single step; there is nothing to distil"):
        distil("--method", "sinsr", "--max_train_steps", "1", teacher=save_teacher(tmp_path / "single", steps=1))


def test_a_recipe_of_another_model(distil, tmp_path) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump({"scheduler": {"kappa": 2.0}, "method": "sinsr"}))
    with pytest.raises(ValueError, match=r"has scheduler.kappa 0.25, the recipe 2.0; leave out its scheduler"):
        distil("--recipe", str(tmp_path / "r.yaml"), "--max_train_steps", "1")


def test_resuming_with_another_teacher_or_method(distil, tmp_path) -> None:
    distil("--method", "sinsr", "--max_train_steps", "1")
    again = ["--max_train_steps", "2", "--resume_from_checkpoint", "latest"]
    message = "checkpoint-1 is a checkpoint of another model: its {} differ"
    with pytest.raises(ValueError, match=message.format("teacher_weights")):
        distil("--method", "sinsr", *again, teacher=save_teacher(tmp_path / "other", zero=True))
    with pytest.raises(ValueError, match=message.format("teacher_weights, unet")):
        distil("--method", "sinsr", *again, teacher=save_teacher(tmp_path / "wider", width=12))
    with pytest.raises(ValueError, match=message.format("method, num_inference_steps")):
        distil(*GAME, "--num_inference_steps", "2", *again)


@pytest.mark.parametrize(
    ("recipe", "how"),
    [
        ({"loss": "l1"}, "by L1"),
        ({"loss": "mse", "lpips_weight": 1.0}, "with LPIPS"),
        ({"adversarial_weight": 0.3}, "adversarially"),
        ({"method": "add", "adversarial_weight": 0.02, "teacher_weights": "0"}, "by distillation"),
        ({"loss": "mse", "lpips_weight": 0.0}, None),
    ],
)
def test_a_teacher_for_rsd_that_is_no_conditional_mean_is_warned_of(distil, tmp_path, caplog, recipe, how) -> None:
    folder = save_teacher(tmp_path / "other", **recipe)
    distil(*GAME, "--max_train_steps", "1", "--fake_updates", "1", teacher=folder)
    said = [record.getMessage() for record in caplog.records if record.name == "resdiff.train.teacher"]
    assert [f"was trained {how}: rsd takes its predictions for conditional means" in line for line in said] == (
        [] if how is None else [True]
    )
