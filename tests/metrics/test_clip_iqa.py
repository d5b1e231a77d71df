"""CLIP-IQA against open_clip's own towers, and what its numbers must not depend on."""

import hashlib
import math
import re
import warnings
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from safetensors.torch import save_file

from resdiff.checkpoints.io import CheckpointError
from resdiff.metrics import clip_weights
from resdiff.metrics.clip_iqa import (
    FIVE_PAIRS,
    PAPER_PAIR,
    PUBLISHED_PAIRS,
    PUBLISHED_SMALLEST,
    ClipIQA,
    clip_iqa,
    clip_iqa_pair,
    learned_pair,
    load_clip_iqa,
    load_clip_iqa_plus,
    text_pairs,
    tokenize,
)
from resdiff.metrics.clip_towers import (
    build_clip,
    image_features,
    resized_positions,
    smallest_side,
    token_features,
    vision_config,
)
from resdiff.metrics.clip_weights import BACKBONES, LEARNED, find_clip, is_torchscript, read_clip, read_clip_state
from resdiff.metrics.weights import MetricWeights, MissingWeights

RESNET = CLIPVisionCfg(layers=(1, 2, 1, 1), width=8, image_size=64)
VIT = CLIPVisionCfg(layers=2, width=64, patch_size=16, image_size=64)


def random_clip(vision: CLIPVisionCfg, quick_gelu: bool = True) -> CLIP:
    torch.manual_seed(0)
    clip = CLIP(32, vision, CLIPTextCfg(width=64, heads=1, layers=2), quick_gelu=quick_gelu).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in clip.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.normal_(float(name.endswith("weight")), 0.2, generator=generator)
            elif tensor.is_floating_point() and tensor.ndim:
                tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        clip.logit_scale.fill_(4.6052)
    return clip.requires_grad_(False)


@pytest.fixture(scope="module", params=[RESNET, VIT], ids=["resnet", "vit"])
def clip(request) -> CLIP:
    return random_clip(request.param)


@pytest.fixture(scope="module")
def resnet() -> CLIP:
    return random_clip(RESNET)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    x = torch.rand(5, 3, 75, 101, generator=torch.Generator().manual_seed(2))
    x[1] = torch.nn.functional.avg_pool2d(x[1], 9, 1, 4)
    x[2] = x[2].mean()
    return x


@pytest.fixture
def no_weights_anywhere(monkeypatch, tmp_path) -> Path:
    """Empty caches and no network; returns our cache."""
    for name in ("RESDIFF_CACHE", "TORCH_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("RESDIFF_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    return tmp_path / "RESDIFF_CACHE"


@pytest.fixture
def small_backbone(monkeypatch, resnet) -> dict[str, torch.Tensor]:
    """Let RN50 mean the small network; returns its state dict."""
    small = replace(BACKBONES["RN50"], layers=RESNET.layers, width=RESNET.width)
    monkeypatch.setitem(clip_weights.BACKBONES, "RN50", small)
    return resnet.state_dict()


# --- the towers --------------------------------------------------------------------------------------------------


def test_towers_are_rebuilt_from_a_state_dict(clip) -> None:
    rebuilt = build_clip(clip.state_dict(), text_heads=1)
    assert rebuilt.state_dict().keys() == clip.state_dict().keys()
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(rebuilt.encode_image(x), clip.encode_image(x))
    assert torch.equal(rebuilt.encode_text(tokenize(["a"])), clip.encode_text(tokenize(["a"])))


def test_with_positions_and_at_its_own_size_a_tower_is_open_clips(clip) -> None:
    x = torch.randn(3, 3, 64, 64)
    ours, theirs = image_features(clip.visual, x, use_positions=True), clip.encode_image(x)
    assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max()


def test_without_positions_a_tower_is_open_clips_with_an_empty_table(clip) -> None:
    x = torch.randn(2, 3, 64, 64)
    empty = build_clip(clip.state_dict(), text_heads=1)
    table = getattr(empty.visual, "attnpool", empty.visual).positional_embedding
    table.zero_()
    ours, theirs = image_features(clip.visual, x), empty.encode_image(x)
    assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max()
    assert (ours - clip.encode_image(x)).abs().max() > 1e-3, "positions must matter for this test to mean anything"


def test_texts_are_embedded_as_by_open_clip(clip) -> None:
    tokens = tokenize(["Good photo.", "noisy image"])
    theirs = clip.encode_text(tokens)
    assert (token_features(clip, tokens) - theirs).abs().max() < 2e-6 * theirs.abs().max()


def test_positions_are_resized_as_a_grey_picture_with_the_class_row() -> None:
    table = torch.randn(5, 8)
    assert torch.allclose(resized_positions(table, 5), table, atol=1e-6)
    larger = resized_positions(table, 10)
    assert larger.shape == (10, 8)
    # row 1 lies at 0.25 of the table: cubic weights (a = -0.75) of rows 0, 0 (clamped), 1, 2 there
    weights = torch.tensor([-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    assert torch.allclose(larger[1], weights @ table[[0, 0, 1, 2]], atol=1e-6)


def test_a_network_without_openais_gelu_is_refused() -> None:
    exact = random_clip(RESNET, quick_gelu=False)
    with pytest.raises(ValueError, match="exact GELU"):
        ClipIQA(exact, torch.zeros(1, 2, 32))


def test_the_gelu_is_openais_whatever_the_state_dict_came_from() -> None:
    exact, quick = random_clip(RESNET, quick_gelu=False), random_clip(RESNET)
    tokens = tokenize(["Good photo."])
    assert torch.equal(exact.ln_final.weight, quick.ln_final.weight)
    assert not torch.allclose(exact.encode_text(tokens), quick.encode_text(tokens), atol=1e-4)
    assert torch.equal(build_clip(exact.state_dict()).encode_text(tokens), quick.encode_text(tokens))


def test_the_full_size_configurations_are_deduced() -> None:
    for name in BACKBONES:
        with torch.device("meta"):
            config = open_clip.get_model_config(f"{name}-quickgelu")
            vision, text = CLIPVisionCfg(**config["vision_cfg"]), CLIPTextCfg(**config["text_cfg"])
            state = CLIP(config["embed_dim"], vision, text).state_dict()
        found = vision_config(state)
        layers = found.layers if isinstance(found.layers, int) else list(found.layers)
        assert [layers, found.width, found.image_size] == [vision.layers, vision.width, 224]
        assert (found.layers, found.width) == (BACKBONES[name].layers, BACKBONES[name].width)
        assert BACKBONES[name].patch_size == vision.patch_size


# --- the score ---------------------------------------------------------------------------------------------------


def test_one_forward_gives_the_five_pair_and_the_one_pair_score(resnet, images) -> None:
    both = ClipIQA(resnet, text_pairs(resnet, PUBLISHED_PAIRS))(images)
    five, pair = (ClipIQA(resnet, text_pairs(resnet, pairs))(images) for pairs in (FIVE_PAIRS, [PAPER_PAIR]))
    assert both.shape == (5, 6) and both.dtype == torch.float32
    assert torch.allclose(clip_iqa(both), five.mean(dim=1), atol=1e-6)
    assert torch.allclose(clip_iqa_pair(both), pair[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="PUBLISHED_PAIRS"):
        clip_iqa(five)


def test_the_score_is_the_softmax_of_scaled_cosines(resnet, images) -> None:
    model = ClipIQA(resnet, text_pairs(resnet, [PAPER_PAIR]))
    x = (images - torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    )[:, None, None]
    picture, good, bad = (
        features.double()
        for features in (image_features(resnet.visual, x), *resnet.encode_text(tokenize(PAPER_PAIR)).split(1))
    )
    difference = torch.cosine_similarity(picture, good) - torch.cosine_similarity(picture, bad)
    expected = 1 / (1 + torch.exp(-difference * math.exp(4.6052)))
    assert torch.allclose(model(images)[:, 0].double(), expected, atol=1e-5)
    assert expected.max() - expected.min() > 1e-3


def test_exchanging_the_texts_of_a_pair_gives_the_complement(resnet, images) -> None:
    there, back = (ClipIQA(resnet, text_pairs(resnet, [pair]))(images) for pair in (("a", "b"), ("b", "a")))
    assert torch.allclose(there + back, torch.ones(5, 1), atol=1e-6)


def test_scores_do_not_depend_on_batch_or_order(clip, images) -> None:
    model = ClipIQA(clip, text_pairs(clip, PUBLISHED_PAIRS))
    scores = model(images)
    assert torch.equal(scores, model(images))
    assert torch.equal(scores, torch.cat([model(image) for image in images.split(1)]))
    assert torch.equal(scores, torch.cat([model(images[:2]), model(images[2:])]))
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.equal(scores[order], model(images[order]))
    assert torch.equal(scores, model(images.contiguous(memory_format=torch.channels_last)))


def test_scores_do_not_depend_on_batch_with_the_full_size_trunk(images) -> None:
    """Batched, its convolutions sum in another order, which moved scores by up to 2e-6."""
    torch.manual_seed(0)
    config = open_clip.get_model_config("RN50")
    text = CLIPTextCfg(vocab_size=49408, width=64, heads=1, layers=1)
    clip = CLIP(config["embed_dim"], CLIPVisionCfg(**config["vision_cfg"]), text, quick_gelu=True).eval()
    with torch.no_grad():
        for name, weight in clip.named_parameters():
            if name.endswith("bn3.weight"):
                weight.fill_(0.3)  # else the blocks are empty
        clip.logit_scale.fill_(4.6052)
    model = ClipIQA(clip.requires_grad_(False), text_pairs(clip, PUBLISHED_PAIRS))
    assert torch.equal(model(images), torch.cat([model(image) for image in images.split(1)]))


def test_any_size_from_one_position_or_patch_is_scored_and_less_is_refused(clip) -> None:
    model = ClipIQA(clip, text_pairs(clip, [PAPER_PAIR]))
    side = smallest_side(clip.visual)
    assert side <= PUBLISHED_SMALLEST
    for height, width in ((side, side), (33, 95), (200, 40)):
        assert 0 < model(torch.rand(1, 3, height, width)).item() < 1
    with pytest.raises(ValueError, match=f"{side - 1}x64"):
        model(torch.rand(1, 3, side - 1, 64))


def test_pairs_that_are_no_pairs_of_texts_are_refused() -> None:
    for pairs in ((), ("Good photo.", "Bad photo."), (("a", "b", "c"),)):
        with pytest.raises(ValueError, match=r"give at least one \(positive, negative\) pair"):
            load_clip_iqa(pairs=pairs)


@pytest.mark.parametrize("images", [torch.rand(1, 1, 64, 64), torch.rand(3, 64, 64), torch.full((1, 3, 64, 64), 255.0)])
def test_other_than_rgb_in_0_to_1_is_refused(resnet, images) -> None:
    with pytest.raises(ValueError, match="images"):
        ClipIQA(resnet, text_pairs(resnet, [PAPER_PAIR]))(images)


# --- prompts -----------------------------------------------------------------------------------------------------


def test_prompts_are_tokenised_as_openais() -> None:
    tokens = tokenize(["Good photo.", "good PHOTO."])
    assert tokens.shape == (2, 77) and torch.equal(tokens[0], tokens[1])
    assert tokens[0, :6].tolist() == [49406, 886, 1125, 269, 49407, 0]
    assert tokenize(["Good photo.."])[0, 3] != 269, "two dots are one token"


def test_prompts_that_are_empty_or_too_long_are_refused() -> None:
    assert tokenize(["a " * 75])[0, -1] == 49407
    with pytest.raises(ValueError, match="more than 75 tokens"):
        tokenize(["a " * 76])
    with pytest.raises(ValueError, match="empty"):
        tokenize(["good", " "])


def test_learned_words_surround_the_class_words(resnet) -> None:
    """With the words "X" as context, it is the text of their order; the end is at the same place."""
    x = resnet.token_embedding(tokenize(["X"]))[:, 1:2].expand(2, 16, -1)
    xs = " ".join(["X"] * 8)
    expected = resnet.encode_text(tokenize([f"{xs} Good photo.. {xs}", f"{xs} Bad photo.. {xs}"]))
    assert torch.allclose(learned_pair(resnet, x), expected[None], atol=1e-5)


# --- weights -----------------------------------------------------------------------------------------------------


def test_missing_weights_say_what_to_fetch(no_weights_anywhere) -> None:
    with pytest.raises(MissingWeights, match=r"RN50\.pt.*afeb0e10.*RESDIFF_CACHE") as raised:
        load_clip_iqa()
    assert "\n" not in str(raised.value)
    with pytest.raises(MissingWeights, match=r"CLIP-IQA\+_learned_prompts-603f3273\.pth"):
        load_clip_iqa_plus()


def test_weights_are_found_in_each_cache(no_weights_anywhere, monkeypatch, tmp_path) -> None:
    published = BACKBONES["RN50"]
    hub = tmp_path / "hub.safetensors"
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda *asked: str(hub) if asked[0] == published.hub else None
    )
    assert find_clip(published) == hub
    for folder in (tmp_path / "HOME/.cache/clip", tmp_path / "TORCH_HOME/hub/clip", no_weights_anywhere):
        folder.mkdir(parents=True)
        (folder / "RN50.pt").touch()
        assert find_clip(published) == folder / "RN50.pt"


def test_a_folder_or_file_may_be_named(tmp_path) -> None:
    published = BACKBONES["RN50"]
    copy, own = tmp_path / "open_clip_model.safetensors", tmp_path / "RN50.pt"
    with pytest.raises(MissingWeights, match="does not hold it"):
        find_clip(published, tmp_path)
    copy.touch()
    assert find_clip(published, tmp_path) == copy
    own.touch()
    assert find_clip(published, tmp_path) == own
    assert find_clip(published, copy) == copy


@pytest.mark.parametrize("file", ["RN50.safetensors", "RN50.pt"])
def test_weights_load_from_half_precision_files(small_backbone, images, tmp_path, file) -> None:
    half = {name: x.half() if x.is_floating_point() else x for name, x in small_backbone.items()}
    half = {name: x for name, x in half.items() if not name.endswith("num_batches_tracked")}
    if file.endswith(".pt"):
        torch.save(half, tmp_path / file)
    else:
        save_file(half, tmp_path / file)
    model = load_clip_iqa(weights=tmp_path)
    clip = build_clip(half)
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    assert not any(x.requires_grad for x in model.parameters())
    assert torch.equal(model(images), ClipIQA(clip, text_pairs(clip, PUBLISHED_PAIRS))(images))


class Holder(torch.nn.Module):
    """What an OpenAI archive is to a reader: weights, numbers beside them, and code."""

    def __init__(self, value: float):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((2,), value, dtype=torch.half))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.weight


def test_torchscript_is_loaded_only_with_the_published_digest(tmp_path, monkeypatch) -> None:
    path = tmp_path / "RN50.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is on its way out
        torch.jit.script(Holder(3.0)).save(str(path))
    assert is_torchscript(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    published = MetricWeights(file="RN50.pt", url="https://example.org/RN50.pt", sha256=digest, licence="MIT")
    assert read_clip_state(path, published)["weight"].tolist() == [3, 3]

    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(CheckpointError, match=r"not the published one.*example\.org"):
        read_clip_state(path, replace(published, sha256="0" * 64))


def test_a_plain_state_dict_is_not_taken_for_torchscript(tmp_path) -> None:
    torch.save({"weight": torch.ones(1)}, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"no archive")
    assert not is_torchscript(tmp_path / "a.pt") and not is_torchscript(tmp_path / "b.pt")


def test_another_clip_is_not_taken_for_the_asked_one(small_backbone, tmp_path) -> None:
    save_file(random_clip(VIT).state_dict(), tmp_path / "RN50.safetensors")
    with pytest.raises(CheckpointError, match="not RN50"):
        read_clip("RN50", tmp_path)
    save_file({"weight": torch.ones(1)}, tmp_path / "RN50.safetensors")
    with pytest.raises(CheckpointError, match="is no CLIP"):
        read_clip("RN50", tmp_path)


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'ViT-L-14'"):
        load_clip_iqa("ViT-L/14")
    with pytest.raises(ValueError, match="did you mean 'RN50_512'"):
        load_clip_iqa_plus("RN50-512")


@pytest.mark.parametrize("variant", ["RN50", "RN50_512"])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"params": {"prompt_learner.ctx": x}}], ids=["bare", "params"])
def test_learned_words_are_read_in_both_published_forms(small_backbone, images, tmp_path, variant, wrap) -> None:
    context = torch.randn(2, 16, 64, generator=torch.Generator().manual_seed(3)) * 0.02
    torch.save(wrap(torch.nn.Parameter(context)), tmp_path / LEARNED[variant].weights.file)
    save_file(small_backbone, tmp_path / "RN50.safetensors")
    model = load_clip_iqa_plus(variant, weights=tmp_path, context=tmp_path)
    clip = build_clip(small_backbone)
    expected = ClipIQA(clip, learned_pair(clip, context), use_positions=variant == "RN50_512")(images)
    assert expected.shape == (5, 1) and torch.equal(model(images), expected)


@pytest.mark.parametrize("content", [torch.ones(3, 16, 64), {"ctx": torch.ones(2, 16, 64), "x": torch.ones(1)}, {}, 5])
def test_other_files_are_not_taken_for_learned_words(content, tmp_path) -> None:
    torch.save(content, tmp_path / LEARNED["RN50"].weights.file)
    with pytest.raises(CheckpointError, match=re.escape("needs `ctx` of shape (2, n, C)")):
        load_clip_iqa_plus(context=tmp_path)
