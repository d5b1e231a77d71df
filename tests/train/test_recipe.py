"""From the sections of a recipe to networks, scheduler, pipeline and degradation; the recipes that come along."""

from pathlib import Path

import pytest
import torch

import resdiff.train.adversarial as adversarial
import resdiff.train.resshift as script
from resdiff.checkpoints.known import KNOWN
from resdiff.data.degradation.presets import PRESETS
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.recipe import ModelArguments, build_degradation, build_pipeline, build_unet, build_vae, check_crop
from resdiff.train.resshift import parse_args

PIXEL = {"_class_name": "PixelUNet", "channels": [8, 16], "num_blocks": [1, 1]}
SWIN = {
    "_class_name": "SwinUNet",
    "image_size": 16,
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "attention_resolutions": [16],
    "num_head_channels": 16,
    "swin_embed_dim": 32,
    "window_size": 4,
    "mlp_ratio": 2,
    "lq_size": 16,
}
VAE = {"ch": 32, "ch_mult": [1, 1, 1], "num_res_blocks": 1, "n_embed": 8}
RECIPES = sorted((Path(script.__file__).parent / "recipes").glob("*.yaml"))
ADVERSARIAL = [path for path in RECIPES if path.stem.endswith("_adversarial")]
PUBLISHED = {
    "realsr_v1": "resshift-realsrx4-v1",
    "realsr_v2": "resshift-realsrx4-v2",
    "realsr_v3": "resshift-realsrx4-v3",
    "bicubic": "resshift-bicsrx4",
}


@pytest.fixture
def autoencoder(tmp_path) -> Path:
    """A saved folder of a tiny autoencoder."""
    torch.manual_seed(0)
    VQAutoencoder(**VAE).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def arguments(**sections) -> ModelArguments:
    return ModelArguments(**{"unet": PIXEL, "pipeline": {"upsampling": "pil"}} | sections)


def test_the_weights_depend_on_the_seed_alone() -> None:
    first, second, other = (build_pipeline(arguments(), seed).unet.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_sections_reach_their_objects() -> None:
    scheduler = {"num_train_timesteps": 6, "kappa": 0.5, "prediction_type": "residual"}
    pipe = build_pipeline(arguments(scheduler=scheduler, pipeline={"num_inference_steps": 2, "tile_size": 64}), 0)
    assert isinstance(pipe.unet, PixelUNet) and pipe.unet.config.channels == [8, 16] and pipe.vae is None
    assert {key: pipe.scheduler.config[key] for key in scheduler} == scheduler
    assert pipe.default_steps == 2 and pipe.config.tile_size == 64
    assert pipe.config.padding_multiple == pipe.unet.size_multiple == 2


def test_a_latent_recipe_takes_its_autoencoder_from_a_folder(autoencoder) -> None:
    pipe = build_pipeline(arguments(unet=SWIN, vae=VAE, pipeline={}, pretrained_vae=autoencoder), 0)
    assert isinstance(pipe.unet, SwinUNet) and isinstance(pipe.vae, VQAutoencoder)
    saved = VQAutoencoder.from_pretrained(autoencoder).state_dict()
    assert all(torch.equal(weight, saved[name]) for name, weight in pipe.vae.state_dict().items())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"unet": {"_class_name": "UNet"}}, "unet has _class_name 'UNet'; choose PixelUNet, SwinUNet"),
        ({"unet": {"channels": [8]}}, "unet has _class_name None; choose PixelUNet, SwinUNet"),
        ({"unet": PIXEL | {"chanels": [8]}}, "the recipe's unet has no option 'chanels'; it knows .*channels"),
        ({"unet": PIXEL | {"channels": 3}}, "the recipe's unet"),
        ({"scheduler": {"steps": 4}}, "the recipe's scheduler has no option 'steps'; it knows num_train_timesteps"),
        ({"scheduler": {"prediction_type": "v"}}, "'v' is unknown"),
        ({"pipeline": {"scales": 4}}, "the recipe's pipeline has no option 'scales'"),
        ({"pipeline": {"vae": None}}, "the recipe's pipeline names vae, which have sections of their own"),
        ({"pipeline": {"scale": 2}}, "the recipe's unet has scale 4, its pipeline 2; make them equal"),
        ({"vae": VAE}, "works in latent space: pass --pretrained_vae"),
        (
            {"pretrained_vae": Path("x")},
            "--pretrained_vae is for recipes with an autoencoder; this one works on pixels",
        ),
        ({"vae": VAE, "pretrained_vae": Path("missing")}, "--pretrained_vae missing does not exist"),
    ],
)
def test_a_section_that_cannot_be_meant_is_one_line(sections, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_pipeline(arguments(**sections), 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("n_embed", 16), ("ch", 64), ("ch_mult", [1, 1]), ("embed_dim", 4)])
def test_an_autoencoder_other_than_the_recipe_says_is_refused(autoencoder, key, value) -> None:
    changed = VAE | {key: value} | ({"z_channels": 4} if key == "embed_dim" else {})
    with pytest.raises(ValueError, match=f"--pretrained_vae .* has {key} .*, the recipe"):
        build_vae(changed, autoencoder)
    with pytest.raises(ValueError, match="the recipe's vae has no option 'n_embedd'"):
        build_vae(VAE | {"n_embedd": 3}, autoencoder)


def test_a_trained_model_is_opened_and_must_be_the_one_of_the_recipe(tmp_path) -> None:
    first = build_pipeline(arguments(), 1)
    first.save_pretrained(tmp_path)
    opened = build_pipeline(arguments(pretrained_model_name_or_path=str(tmp_path)), 2)
    weights = first.unet.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in opened.unet.state_dict().items())
    for sections, message in (
        ({"unet": PIXEL | {"channels": [8, 8]}}, r"has unet.channels \[8, 16\], the recipe \[8, 8\]"),
        ({"unet": SWIN}, "has unet._class_name PixelUNet, the recipe SwinUNet"),
        ({"scheduler": {"kappa": 1.0}}, "has scheduler.kappa 2.0, the recipe 1.0"),
        ({"pipeline": {"upsampling": "torch"}}, "has pipeline.upsampling pil, the recipe torch"),
        ({"vae": VAE}, "works on pixels, the recipe does not; pass its own --recipe"),
    ):
        with pytest.raises(ValueError, match=message):
            build_pipeline(arguments(**sections, pretrained_model_name_or_path=str(tmp_path)), 2)


def test_a_folder_without_an_autoencoder_is_one_line(tmp_path) -> None:
    with pytest.raises(ValueError, match="--pretrained_vae") as caught:
        build_vae(VAE, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_degradation_is_a_name_or_its_options() -> None:
    assert build_degradation("resshift") is PRESETS["resshift"]
    assert build_degradation({"_class_name": "Bicubic", "kernel": "pil"}) == PRESETS["bicubic-pil"]
    with pytest.raises(ValueError, match="degradation 'resshfit' is unknown, did you mean 'resshift'"):
        build_degradation("resshfit")


def test_a_crop_must_pass_through_the_network() -> None:
    pipe = build_pipeline(arguments(), 0)
    check_crop((32, 48), pipe, PRESETS["light"])
    for crop in ((36, 48), (32, 44)):
        with pytest.raises(ValueError, match=f"--resolution {crop[0]} {crop[1]} must be a multiple of 8 on both sides"):
            check_crop(crop, pipe, None)


def test_the_degradation_must_reduce_as_much_as_the_model_enlarges() -> None:
    pipe = build_pipeline(arguments(), 0)
    with pytest.raises(ValueError, match="the degradation reduces by 1, the model enlarges by 4"):
        check_crop((32, 32), pipe, build_degradation("face-gfpgan"))


def test_the_recipe_of_the_adversarial_stage_is_one_of_the_same_data() -> None:
    (path,) = ADVERSARIAL
    (chain,) = (path for path in RECIPES if path.stem.endswith("_chain"))
    common = ["--train_data_dir", "x", "--output_dir", "y", "--max_train_steps", "1"]
    args = adversarial.parse_args(["--recipe", str(path), "--pretrained_model_name_or_path", "z", *common])
    before = parse_args(["--recipe", str(chain), *common])
    assert args.degradation == before.degradation and args.crop == before.crop
    build_degradation(args.degradation)


@pytest.mark.parametrize("path", [p for p in RECIPES if p not in ADVERSARIAL], ids=lambda path: path.stem)
def test_a_recipe_that_comes_along_fits_together(path) -> None:
    args = parse_args(["--recipe", str(path), "--train_data_dir", "x", "--output_dir", "y", "--max_train_steps", "1"])
    with torch.device("meta"):
        unet = build_unet(args.unet)
        vae = None if args.vae is None else VQAutoencoder(**args.vae)
    pipe = build_pipeline(arguments(scheduler=args.scheduler, pipeline=args.pipeline), 0)
    pipe.register_modules(unet=unet, vae=vae)
    check_crop(args.crop, pipe, build_degradation(args.degradation))
    assert args.timestep_weights is None or len(args.timestep_weights) == len(pipe.scheduler)
    if vae is not None:
        assert vae.config.embed_dim == unet.config.in_channels
        assert args.crop[0] // vae.factor == unet.config.image_size


@pytest.mark.parametrize(("stem", "name"), PUBLISHED.items())
def test_a_published_recipe_is_the_published_model(stem, name) -> None:
    (path,) = (path for path in RECIPES if path.stem == stem)
    args, known = parse_args(["--recipe", str(path), "--train_data_dir", "x", "--output_dir", "y"]), KNOWN[name]
    scheduler = build_pipeline(arguments(scheduler=args.scheduler), 0).scheduler.config
    for key in ("num_train_timesteps", "min_noise_level", "etas_end", "kappa", "power", "cap_start", "deterministic"):
        assert scheduler[key] == getattr(known.schedule, key), key
    assert (scheduler.prediction_type, scheduler.input_scaling) == ("xstart", "latent")
    pipeline = args.pipeline
    assert (pipeline["scale"], pipeline["num_inference_steps"]) == (known.scale, known.num_inference_steps)
    assert pipeline["tile_size"] == known.tile_size and pipeline.get("upsampling", "torch") == "torch"
    with torch.device("meta"):
        unet, vae = build_unet(args.unet), VQAutoencoder(**args.vae)
    assert sum(p.numel() for p in unet.parameters()) == 118_593_583
    assert vae.factor == known.autoencoder.factor and vae.config.embed_dim == known.autoencoder.latent_channels
    # Specification, section 7
    assert (args.learning_rate, args.lr_warmup_steps, args.adam_weight_decay) == (5e-5, 5000, 0.0)
    assert (args.adam_beta1, args.adam_beta2, args.max_grad_norm) == (0.9, 0.999, None)
    assert (args.ema_decay, args.ema_warmup, args.loss, args.mixed_precision) == (0.999, False, "mse", "fp16")
    journal = stem in ("realsr_v3", "bicubic")
    assert (args.global_batch_size, args.train_batch_size) == ((96, 12) if journal else (64, 8))
    assert (args.lr_scheduler, args.lr_min) == (("cosine", 2e-5) if journal else ("constant_with_warmup", 0.0))
    assert args.max_train_steps == {"realsr_v1": 300_000, "realsr_v2": 500_000}.get(stem, 400_000)
    assert (args.loss_weight, args.lpips_weight) == (1.0, 1.0 if journal else 0.0)
    assert args.degradation == ("bicubic-matlab" if stem == "bicubic" else "resshift")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"unet": {"_class_name": "PixelUNet", "channels": [0], "num_blocks": [1]}}, "the recipe's unet"),
        ({"unet": {"_class_name": "PixelUNet", "channels": 8}}, "the recipe's unet"),
        ({"pipeline": {"num_inference_steps": 99}}, "num_inference_steps=99 must lie between 1 and"),
        ({"pipeline": {"num_inference_steps": 0}}, "num_inference_steps=0 must lie between 1 and"),
        ({"pipeline": {"upsampling": "pill"}}, "upsampling='pill' is unknown; choose one of matlab, pil, torch"),
        ({"pipeline": {"scale": None}}, "the recipe's pipeline has scale None"),
        ({"pipeline": {"scale": "foo"}}, "the recipe's pipeline has scale 'foo'"),
    ],
)
def test_a_recipe_whose_model_could_not_be_used_is_refused(sections, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        build_pipeline(ModelArguments(**sections), seed=0)
    assert "\n" not in str(caught.value)


def save_pixel_model(folder: Path, **unet) -> Path:
    torch.manual_seed(3)
    network = PixelUNet(**{"channels": (8, 16), "num_blocks": (1, 1)} | unet)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ResShiftPipeline(network, None, ResShiftScheduler(num_train_timesteps=4), upsampling="pil").save_pretrained(folder)
    return folder


def test_the_predictor_alone_goes_on_to_a_chain_of_another_schedule(tmp_path) -> None:
    model = save_pixel_model(tmp_path / "model")
    from_it = {"pretrained_model_name_or_path": str(model), "pretrained_part": "predictor"}
    pipe = build_pipeline(arguments(scheduler={"num_train_timesteps": 15}, **from_it), 0)
    saved, anew = PixelUNet.from_pretrained(model / "unet"), build_pipeline(arguments(), 0).unet
    assert len(pipe.scheduler) == 15
    for part, expected in (("predictor", saved), ("denoiser", anew)):
        for name, x in getattr(pipe.unet, part).state_dict().items():
            assert torch.equal(x, getattr(expected, part).state_dict()[name]), f"{part} {name}"


def test_a_predictor_that_cannot_be_taken_over(tmp_path) -> None:
    with pytest.raises(ValueError, match="--pretrained_part predictor needs --pretrained_model_name_or_path"):
        build_pipeline(arguments(pretrained_part="predictor"), 0)
    model = str(save_pixel_model(tmp_path / "model", num_blocks=(2, 1)))
    given = {"pretrained_model_name_or_path": model, "pretrained_part": "predictor"}
    with pytest.raises(ValueError, match=r"has unet.num_blocks \[2, 1\], the recipe .*make them equal"):
        build_pipeline(arguments(**given), 0)
    given["pretrained_model_name_or_path"] = "bicubic"
    with pytest.raises(ValueError, match="--pretrained_part predictor is a part of PixelUNet, which bicubic and"):
        build_pipeline(arguments(**given), 0)
