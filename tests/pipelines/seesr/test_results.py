"""One pipeline out of the other, and what a call returns."""

import sys
from pathlib import Path

import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))  # a module beside this file, not a package

from tiny_calls import LR, SIDE, quiet, run, seeded

from resdiff.color import color_fix
from resdiff.pipelines.addsr import AddSRPipeline
from resdiff.pipelines.seesr import SeeSRPipeline
from resdiff.pipelines.tiny import UNET, UP_BLOCKS
from resdiff.resize import bicubic
from resdiff.text.prompts import ADDED_PROMPT, ADDSR_ADDED_PROMPT, NEGATIVE_PROMPT


def test_addsr_from_seesr_shares_the_components_and_has_its_own_defaults(seesr) -> None:
    other = AddSRPipeline.from_pipe(seesr)
    assert all(other.components[name] is part for name, part in seesr.components.items())
    config = {name: other.config[name] for name in ("num_inference_steps", "guidance_scale", "added_prompt")}
    published = {"num_inference_steps": 4, "guidance_scale": 1.0, "added_prompt": ADDSR_ADDED_PROMPT}
    assert config == published
    assert other.config.negative_prompt == NEGATIVE_PROMPT and other.max_steps == 4


def test_seesr_from_addsr_has_its_own_defaults(addsr) -> None:
    other = SeeSRPipeline.from_pipe(addsr)
    assert (other.default_steps, other.config.guidance_scale) == (50, 5.5)
    assert other.config.added_prompt == ADDED_PROMPT and other.max_steps == 1000


def test_a_pipeline_of_the_same_class_keeps_the_options_and_takes_changes(seesr, addsr) -> None:
    assert SeeSRPipeline.from_pipe(seesr).config.process_size == SIDE
    changed = AddSRPipeline.from_pipe(seesr, process_size=SIDE, added_prompt="sharp")
    assert (changed.config.process_size, changed.config.added_prompt) == (SIDE, "sharp")
    again = AddSRPipeline.from_pipe(changed)
    assert (again.config.process_size, again.config.added_prompt) == (SIDE, "sharp")


def test_the_other_class_gives_the_image_of_its_own_pipeline(seesr) -> None:
    parts = dict(seesr.components)
    direct = quiet(AddSRPipeline(**parts, process_size=SIDE))
    through = quiet(AddSRPipeline.from_pipe(seesr, process_size=SIDE))
    ask = {"output_type": "pt"}
    a, b = (pipe(LR, generator=seeded(), **ask).images for pipe in (direct, through))
    assert torch.equal(a, b)


@pytest.mark.filterwarnings("ignore")
def test_seesr_grows_out_of_a_stable_diffusion_pipeline(seesr) -> None:
    unet = UNet2DConditionModel(**UNET, up_block_types=UP_BLOCKS)
    parts = {name: seesr.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler")}
    base = StableDiffusionPipeline(**parts, unet=unet, safety_checker=None, feature_extractor=None)
    added = {"unet": seesr.unet, "controlnet": seesr.controlnet, "tagger": seesr.tagger}
    grown = quiet(SeeSRPipeline.from_pipe(base, **added, process_size=SIDE))
    assert torch.equal(run(grown), run(seesr))
    with pytest.raises(ValueError, match="unet has no image cross-attention"):
        SeeSRPipeline.from_pipe(base, controlnet=seesr.controlnet)


def test_addsr_takes_the_noise_levels_of_whichever_scheduler_is_assigned(addsr) -> None:
    expected = run(addsr)
    other = AddSRPipeline.from_pipe(addsr, scheduler=EulerDiscreteScheduler.from_config(addsr.scheduler.config))
    assert torch.equal(run(quiet(other)), expected)


def test_latents_decode_to_the_image(seesr) -> None:
    latents = run(seesr, output_type="latent")
    assert latents.shape == (1, 4, 4, 5)
    image = run(seesr, color_fix="none")
    torch.testing.assert_close(seesr.decode(latents).clamp(-1, 1) / 2 + 0.5, image, rtol=0, atol=1e-5)


def test_results_of_one_image_differ_and_each_is_that_of_its_generator(seesr) -> None:
    both = run(seesr, num_images_per_prompt=2, generator=[seeded(4), seeded(5)])
    alone = torch.cat([run(seesr, generator=seeded(i)) for i in (4, 5)])
    assert (both - alone).abs().max() <= 1 / 255 and (both[0] - both[1]).abs().max() > 0.02
    one = run(seesr, num_images_per_prompt=2, generator=seeded(4))
    torch.testing.assert_close(one[:1], both[:1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fix", ["adain", "wavelet"])
def test_colours_are_corrected_against_the_enlarged_image_as_much_as_asked(seesr, fix) -> None:
    raw, full, half = (run(seesr, color_fix=fix, color_fix_strength=strength) for strength in (0.0, 1.0, 0.5))
    latents = run(seesr, output_type="latent")
    content = seesr.decode(latents).clamp(-1, 1)
    corrected = color_fix(content, bicubic(LR * 2 - 1, (32, 40), "pil"), fix).clamp(-1, 1)
    assert torch.equal(raw, run(seesr, color_fix="none"))
    torch.testing.assert_close(full * 2 - 1, corrected, rtol=0, atol=1e-4)
    assert min((a - b).abs().max() for a, b in ((raw, full), (raw, half), (full, half))) > 1 / 255
    if fix == "adain":  # which is the default
        assert torch.equal(full, run(seesr))


def test_an_interrupted_chain_returns_what_is_predicted_so_far(seesr) -> None:
    seen: list[Tensor] = []

    def stop_after_one(pipe, step, _t, tensors):
        seen.append(tensors["pred_original_sample"])
        pipe._interrupt = step == 0
        return {}

    latents = run(
        seesr,
        output_type="latent",
        callback_on_step_end=stop_after_one,
        callback_on_step_end_tensor_inputs=["pred_original_sample"],
    )
    assert len(seen) == 1 and torch.equal(latents, seen[0])
