"""StableSR opens by name, from published files and from the folder that it is saved into."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# the layouts are modules there, not a package
sys.path.insert(0, str(Path(__file__).parents[1] / "checkpoints"))

from stablesr_layouts import (
    adapter,
    cfw,
    diffusers_folder,
    lightning_file,
    make_small,
    random_networks,
    states_of,
    whole,
)

from resdiff.checkpoints.known_stablesr import STABLESR_MODELS
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.stablesr import StableSRPipeline
from resdiff.schedulers.spaced import SpacedDDPMScheduler

SMALL = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
WHOLE, CFW = "stablesr_000117.ckpt", "vqgan_cfw_00011.ckpt"


@pytest.fixture(scope="module")
def networks():
    return random_networks(0)


@pytest.fixture(scope="module")
def tree(networks, tmp_path_factory):
    """All that is published, beside one another, as in a cache; not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    states = states_of(networks)
    for known in STABLESR_MODELS.values():
        lightning_file(folder / known.weights.file, whole(states))
        if known.cfw is not None:
            lightning_file(folder / known.cfw.file, cfw(states))
    torch.save(adapter(states), folder / "webui_768v_139.ckpt")
    diffusers_folder(folder / "stable-diffusion-2-1", networks, prediction_type="v_prediction")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Stable Diffusion is as small as in the layouts; the cache is empty."""
    make_small(monkeypatch, tmp_path / "cache")


def restored(pipe, **options):
    """The image that a small photo becomes in two steps; images of any size are small enough."""
    pipe.set_progress_bar_config(disable=True)
    pipe.smallest_side = 1
    generator = torch.Generator().manual_seed(5)
    return pipe(SMALL, num_inference_steps=2, generator=generator, output_type="pt", **options).images


def refused(match, *given, **options):
    with pytest.raises(ValueError, match=match) as caught:
        SRPipeline.from_pretrained(*given, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", STABLESR_MODELS)
def test_a_name_opens_what_lies_in_the_cache_with_its_published_defaults(tree, monkeypatch, name):
    monkeypatch.setenv("RESDIFF_CACHE", str(tree))
    known = STABLESR_MODELS[name]
    pipe = SRPipeline.from_pretrained(name)
    assert type(pipe) is StableSRPipeline and pipe.native_scale == known.scale
    assert (pipe.default_steps, pipe.default_guidance_scale(negative=False)) == (known.num_inference_steps, 1.0)
    assert (pipe.config.fidelity, pipe.config.process_size) == (known.fidelity, known.process_size)
    assert pipe.default_color_fix == known.color_fix and (pipe.cfw is None) == (known.cfw is None)
    assert type(pipe.scheduler) is SpacedDDPMScheduler
    assert pipe.scheduler.config.prediction_type == known.prediction_type


def test_a_saved_pipeline_gives_the_image_of_the_published_files_bit_for_bit(tree, tmp_path):
    pipe = SRPipeline.from_pretrained(tree / WHOLE)
    before = restored(pipe)
    pipe.save_pretrained(tmp_path / "saved")
    again = SRPipeline.from_pretrained(tmp_path / "saved")
    assert type(again) is StableSRPipeline and again.default_steps == 200
    torch.testing.assert_close(restored(again), before, atol=0, rtol=0)
    assert before.shape == (1, 3, 32, 32) and before.std() > 0.01
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["structure_encoder"] == ["resdiff.models.time_aware_encoder", "TimeAwareEncoder"]
    assert index["modulation"] == ["resdiff.models.spade", "SpadeModulation"]
    assert index["cfw"] == ["resdiff.models.cfw", "ControllableFeatureWrapping"]
    assert index["scheduler"] == ["resdiff.schedulers.spaced", "SpacedDDPMScheduler"]
    assert index["unet"][1] == "UNet2DConditionModel" and index["unet"][0] == "diffusers"


def test_every_network_counts(tree, networks):
    """The image is that of a pipeline put together by hand, and changes with each of the networks."""
    pipe = SRPipeline.from_pretrained(tree / WHOLE)
    before = restored(pipe, fidelity=1.0)
    parts = {name: networks[name] for name in pipe.components if name in networks}
    assert len(parts) == 6
    by_hand = StableSRPipeline(**parts, tokenizer=pipe.tokenizer, scheduler=SpacedDDPMScheduler())
    torch.testing.assert_close(restored(by_hand, fidelity=1.0), before, atol=0, rtol=0)
    for name in ("cfw", "structure_encoder", "modulation"):
        parameter = next(iter(getattr(pipe, name).parameters()))
        kept = parameter.data.clone()
        parameter.data.add_(0.5)
        assert not torch.equal(restored(pipe, fidelity=1.0), before), name
        parameter.data.copy_(kept)


def test_parts_may_be_given_and_be_of_any_precision(tree):
    pipe = SRPipeline.from_pretrained(
        tree / "webui_768v_139.ckpt", base=tree / "stable-diffusion-2-1", cfw_file=tree / CFW, dtype=torch.bfloat16
    )
    assert pipe.config.fidelity == 0.0 and pipe.cfw is not None  # it may be asked for, and was not published with one
    assert {network.dtype for network in pipe.networks} == {torch.bfloat16}


def test_without_cfw_the_fidelity_is_0(tree, tmp_path):
    (tmp_path / "alone").mkdir()
    file = tmp_path / "alone" / WHOLE
    file.symlink_to(tree / WHOLE)
    pipe = SRPipeline.from_pretrained(file)
    assert pipe.cfw is None and pipe.config.fidelity == 0.0
    assert restored(pipe).std() > 0.01


def test_a_name_that_is_not_in_the_cache_says_what_to_put_where(tmp_path):
    where = "https://huggingface.co/Iceclear/StableSR/resolve/main"
    refused(
        f"offline: stablesr needs {where}/{WHOLE} and {where}/{CFW}: download into {tmp_path / 'cache'}", "stablesr"
    )
    refused(r"face_stablesr_000050\.ckpt \(its address is not known", "stablesr-face")


def test_options_of_other_families_are_refused(tree):
    match = "vae_file: unknown options; for .*000117.ckpt there are dtype, known_as, base, cfw_file, prediction_type, progress"
    refused(match, tree / WHOLE, vae_file="x")
    refused("cfw_file: unknown options; for sinsr-v1 there are dtype, known_as, vae_file", "sinsr-v1", cfw_file="x")
    refused("cfw_file: for published files and folders only", None, cfw_file="x")
    refused("known_as is stablesr, but stablesr-turbo says which", "stablesr-turbo", known_as="stablesr")
    refused("is stablesr by its name, not stablesr-face", tree / WHOLE, known_as="stablesr-face")
    refused("did you mean stablesr-turbo", "stablesr-tubo")


HEAVY = """
import sys
from resdiff.pipelines import SRPipeline
SRPipeline.from_pretrained()
heavy = ("transformers.models.clip.modeling_clip", "resdiff.pipelines.stablesr", "resdiff.checkpoints.stablesr")
assert not set(heavy) & set(sys.modules), set(heavy) & set(sys.modules)
"""


def test_other_families_open_without_importing_this_one():
    subprocess.run([sys.executable, "-c", HEAVY], check=True)
