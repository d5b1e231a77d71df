"""A prompt in the pipeline of the small model: what it changes, what it leaves bit for bit, and what is said about it."""

import copy
import warnings

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor

from resdiff.models.clip_tokenizer import tokenize
from resdiff.models.prompt_encoder import PromptEncoder
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.tiling import Smooth

SHARP, SOFT = "sharp", "soft"  # the words that `worded` knows
pytestmark = pytest.mark.filterwarnings("ignore:.*to the model it says nothing")


def quiet(pipe: SRPipeline) -> SRPipeline:
    pipe.set_progress_bar_config(disable=True)
    return pipe


def photo(height: int = 14, width: int = 18, seed: int = 0, count: int = 1) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def run(pipe: SRPipeline, prompt=None, lr: Tensor | None = None, **options) -> Tensor:
    lr = photo() if lr is None else lr
    generators = [torch.Generator().manual_seed(i) for i in range(len(lr))]
    return pipe(lr, prompt, generator=generators, output_type="pt", **options).images


@pytest.fixture
def calls(worded, monkeypatch) -> dict[str, int]:
    """How often the network predicted and denoised."""
    counts = {"predict": 0, "denoise": 0}
    predictor, denoiser = worded.unet.predictor.forward, worded.unet.denoiser.forward

    def counted(name: str, forward):
        def call(*args):
            counts[name] += 1
            return forward(*args)

        return call

    monkeypatch.setattr(worded.unet.predictor, "forward", counted("predict", predictor))
    monkeypatch.setattr(worded.unet.denoiser, "forward", counted("denoise", denoiser))
    return counts


def test_known_words_change_the_image_each_in_its_own_way(worded) -> None:
    assert worded.takes_prompt
    plain, sharp, soft = run(worded), run(worded, SHARP), run(worded, SOFT)
    for a, b in ((plain, sharp), (plain, soft), (sharp, soft)):
        assert (a - b).abs().mean() > 1e-3


def test_unknown_words_around_known_ones_change_no_bit(worded) -> None:
    assert torch.equal(run(worded, f"a photo of {SHARP} fur, please"), run(worded, SHARP))


def test_a_negative_prompt_of_unknown_words_is_bit_for_bit_none(worded) -> None:
    assert torch.equal(run(worded, SHARP, negative_prompt="an elephant"), run(worded, SHARP))


def test_the_default_scale_of_an_image_does_not_depend_on_the_others(worded) -> None:
    lr, negatives = photo(count=3), ["", SOFT, "elephant"]
    together = run(worded, SHARP, lr, negative_prompt=negatives)
    plain, all_negative = run(worded, SHARP, lr), run(worded, SHARP, lr, negative_prompt=SOFT)
    assert torch.equal(together[[0, 2]], plain[[0, 2]]) and torch.equal(together[1], all_negative[1])
    assert not torch.equal(plain[1], all_negative[1])


@pytest.mark.parametrize("scale", [None, 1.0, 3.0, 0.0])
@pytest.mark.parametrize("prompt", ["", "  ", "fur", "an elephant on a hill"])
def test_a_prompt_of_unknown_words_is_bit_for_bit_an_empty_one(worded, prompt, scale) -> None:
    assert torch.equal(run(worded, prompt, guidance_scale=scale), run(worded))
    assert torch.equal(run(worded, None, negative_prompt=prompt, guidance_scale=scale), run(worded))


def test_unknown_words_are_warned_of_once(worded) -> None:
    own = quiet(copy.deepcopy(worded))
    own._warned_of_prompt = False
    with pytest.warns(UserWarning, match=r"^'an elephant' changes nothing: to the model it says nothing; its card"):
        run(own, "an elephant")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(own, "a mouse", negative_prompt="a cat")
        own._warned_of_prompt = False
        run(own, f"{SHARP} elephant", negative_prompt=" ")


def test_the_warning_points_to_the_caller(worded) -> None:
    own = quiet(copy.deepcopy(worded))
    own._warned_of_prompt = False
    with pytest.warns(UserWarning, match="to the model it says nothing") as caught:
        own(photo(), "elephant")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(
    ("prompt", "options", "per_step"),
    [
        (None, {}, 1),
        (SHARP, {}, 1),
        (SHARP, {"guidance_scale": 1.0}, 1),
        (None, {"guidance_scale": 3.0}, 1),
        ("elephant", {"guidance_scale": 3.0}, 1),
        (SHARP, {"guidance_scale": 2.0}, 2),
        (SHARP, {"negative_prompt": SOFT}, 2),
        (None, {"negative_prompt": SOFT}, 2),
        (SHARP, {"negative_prompt": "elephant"}, 1),  # as no negative prompt
        (SHARP, {"negative_prompt": "elephant", "guidance_scale": 2.0}, 2),
    ],
)
def test_the_network_looks_at_the_photo_once_and_denoises_as_rarely_as_can_be(
    worded, calls, steps, prompt, options, per_step
) -> None:
    run(worded, prompt, num_inference_steps=steps, **options)
    assert calls == {"predict": 1, "denoise": steps * per_step}


def test_guidance_is_linear_in_the_networks_answers(worded) -> None:
    one = {"num_inference_steps": 1, "output_type": "latent", "generator": torch.Generator()}

    def result(prompt=None, **options) -> Tensor:
        return worded(photo(), prompt, **one | {"generator": torch.Generator().manual_seed(0)} | options).images

    plain, sharp, soft = result(), result(SHARP), result(SOFT)
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(result(SHARP, guidance_scale=2.5), plain + 2.5 * (sharp - plain), **close)
    torch.testing.assert_close(result(SHARP, guidance_scale=0.0), plain, **close)
    torch.testing.assert_close(
        result(SHARP, negative_prompt=SOFT, guidance_scale=1.5), soft + 1.5 * (sharp - soft), **close
    )
    torch.testing.assert_close(result(None, negative_prompt=SOFT), plain + (plain - soft), **close)  # 2 is its default
    assert torch.equal(result(SHARP, negative_prompt=SOFT, guidance_scale=1.0), sharp)


def test_a_list_has_a_prompt_for_each_image(worded) -> None:
    lr = photo(count=3)
    prompts = [SHARP, "elephant", SOFT]
    together = run(worded, prompts, lr)
    for i, prompt in enumerate(prompts):
        same = run(worded, prompt, lr)
        torch.testing.assert_close(together[i], same[i], atol=1e-6, rtol=0)
    assert torch.equal(together[1], run(worded, None, lr)[1])


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 2.0}, {"negative_prompt": [SOFT, "fur"]}])
def test_an_image_of_unknown_words_in_a_batch_is_bit_for_bit_that_of_the_batch_without_words(worded, options) -> None:
    lr = photo(count=2)
    together, plain = run(worded, [SHARP, "elephant"], lr, **options), run(worded, None, lr)
    assert torch.equal(together[1], plain[1]) and not torch.equal(together[0], plain[0])
    alone = worded(lr[1:], generator=torch.Generator().manual_seed(1), output_type="pt").images
    torch.testing.assert_close(together[1:], alone, atol=1e-5, rtol=0)  # convolutions round by the size of the batch


def test_prompts_are_repeated_with_their_images(worded) -> None:
    lr = photo(count=2)
    generators = [torch.Generator().manual_seed(i) for i in range(4)]
    images = worded(lr, [SHARP, "fur"], num_images_per_prompt=2, generator=generators, output_type="pt").images
    plain = worded(
        lr,
        num_images_per_prompt=2,
        generator=[torch.Generator().manual_seed(i) for i in range(4)],
        output_type="pt",
    ).images
    same = [torch.equal(a, b) for a, b in zip(images, plain, strict=True)]
    assert same == [False, False, True, True]


def test_images_of_several_sizes_keep_their_prompts(worded) -> None:
    sizes, prompts = [(10, 12), (12, 10), (10, 12)], ["fur", SHARP, SOFT]
    lrs = [photo(*size) for size in sizes]
    generators = [torch.Generator().manual_seed(0) for _ in sizes]
    together = worded([lr[0] for lr in lrs], prompts, generator=generators, output_type="pt").images
    for image, lr, prompt in zip(together, lrs, prompts, strict=True):
        assert torch.equal(image, run(worded, prompt, lr)[0])


@pytest.mark.parametrize("tile_batch", [1, 3])
def test_every_tile_of_every_image_hears_its_own_prompt(worded, tile_batch) -> None:
    lr, halo = photo(81, 20, count=2), worded.unet.receptive_radius
    tiles = Smooth(2 * halo + 24, overlap=2 * halo + 2, halo=halo)
    options = {"prompt": [SHARP, SOFT], "negative_prompt": ["", SHARP], "guidance_scale": 1.5, "lr": lr}
    whole = run(worded, **options, tile="off")
    joined = run(worded, **options, tile=tiles, tile_batch=tile_batch)
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=0)


def test_half_precision_networks_take_prompts(worded) -> None:
    own = quiet(copy.deepcopy(worded)).to(dtype=torch.bfloat16)
    expected, half = run(worded, SHARP, guidance_scale=2.0), run(own, SHARP, guidance_scale=2.0)
    assert 0 < (half - expected).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": [SHARP] * 2}, "prompt is a list of 2 for 1 images; pass one text, or one per image"),
        ({"negative_prompt": []}, "negative_prompt is a list of 0 for 1 images"),
        ({"prompt": 7}, "prompt is or holds 7"),
        ({"guidance_scale": -0.5}, "guidance_scale=-0.5 must be a number from 0"),
    ],
)
def test_what_cannot_be_said_is_one_line(worded, options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        worded(photo(), **options)
    assert "\n" not in str(caught.value)


def test_the_encoder_is_saved_and_opened_with_the_pipeline(worded, tmp_path) -> None:
    worded.save_pretrained(tmp_path)
    opened = quiet(SRPipeline.from_pretrained(tmp_path))
    assert isinstance(opened.text_encoder, PromptEncoder) and opened.takes_prompt
    ids = tokenize([SHARP])
    assert torch.equal(opened.text_encoder(ids), worded.text_encoder(ids))
    torch.testing.assert_close(run(opened, SHARP), run(worded, SHARP), atol=1e-4, rtol=0)


def test_a_folder_from_before_there_were_words_opens_and_takes_none(pixel, tmp_path) -> None:
    pixel.save_pretrained(tmp_path)
    index = tmp_path / "model_index.json"
    lines = [line for line in index.read_text().splitlines() if "text_encoder" not in line]
    start = next(i for i, line in enumerate(index.read_text().splitlines()) if "text_encoder" in line)
    assert lines[start : start + 3] == ["    null,", "    null", "  ],"]
    del lines[start : start + 3]
    index.write_text("\n".join(lines))
    opened = quiet(SRPipeline.from_pretrained(tmp_path))
    assert opened.text_encoder is None and not opened.takes_prompt
    with pytest.warns(UserWarning, match="takes no text"):
        assert torch.equal(run(opened, SHARP, guidance_scale=3.0), run(opened))


def test_words_need_an_encoder_and_a_network_that_go_together(worded, pixel) -> None:
    deaf = ResShiftPipeline.from_pipe(worded, text_encoder=None)
    assert not deaf.takes_prompt
    mute = ResShiftPipeline.from_pipe(pixel, text_encoder=worded.text_encoder)
    assert not mute.takes_prompt
    other = PromptEncoder(vocab_size=8, dim=2, width=2, attributes=("detail",), mean=(0.0,), std=(1.0,))
    with pytest.raises(ValueError, match="text_encoder gives 1 attributes and unet takes 4"):
        ResShiftPipeline.from_pipe(worded, text_encoder=other)


@pytest.mark.parametrize("way", ["model", "sequential", "block_level", "leaf_level"])
def test_words_are_heard_wherever_the_networks_are_kept(worded, way) -> None:
    own, expected = quiet(copy.deepcopy(worded)), run(worded, SHARP)
    if way == "model":
        own.enable_model_cpu_offload(device="cpu")
    elif way == "sequential":
        for name, network in own.components.items():  # what enable_sequential_cpu_offload does, which refuses a CPU
            if isinstance(network, torch.nn.Module) and name not in own._exclude_from_cpu_offload:
                cpu_offload(network, torch.device("cpu"))
    else:
        own.enable_group_offload(torch.device("cpu"), offload_type=way, num_blocks_per_group=1)
    for _ in range(2):
        assert torch.equal(run(own, SHARP), expected)


def test_only_networks_that_run_for_every_image_are_recorded(worded) -> None:
    own = quiet(copy.deepcopy(worded))
    own.enable_cuda_graphs()
    assert "forward" in vars(own.unet) and "forward" not in vars(own.text_encoder)
    assert own.image_networks == [own.unet] and own.text_encoder in own.networks
