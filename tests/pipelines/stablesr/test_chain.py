"""The chain: a stock UNet modulated during a call, guidance, begin, samplers, reference; and adapters that do not fit."""

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from resdiff.pipelines.tiny import tiny_stablesr
from resdiff.schedulers.spaced import SpacedDDPMScheduler
from resdiff.text.prompts import STABLESR_NEGATIVE_PROMPT


def hooks_of(unet: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in unet.modules())


# --- the base stays a stock UNet -------------------------------------------------------------------------------------


def test_the_unet_is_diffusers_own_before_and_after_a_call(stablesr, photo, run) -> None:
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor(500), torch.randn(1, 5, 64)
    with torch.no_grad():
        before = stablesr.unet(x, t, text).sample
        run(stablesr, photo())
        assert type(stablesr.unet) is UNet2DConditionModel and hooks_of(stablesr.unet) == 0
        assert torch.equal(stablesr.unet(x, t, text).sample, before)
        with stablesr.modulation.attached(stablesr.unet):
            structure = stablesr.structure_encoder(x, t)
            assert not torch.allclose(stablesr.unet(x, t, text, timestep_cond=structure).sample, before, atol=1e-2)


def test_an_interrupted_call_leaves_a_stock_unet(stablesr, photo) -> None:
    def fail(pipe, step, timestep, tensors):
        raise KeyError("enough")

    with pytest.raises(KeyError):
        stablesr(photo(), callback_on_step_end=fail)
    assert hooks_of(stablesr.unet) == 0


def test_diffusers_own_pipeline_runs_on_the_same_unet(stablesr, photo, run) -> None:
    parts = {name: getattr(stablesr, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
    stock = StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)

    def image():
        generator = torch.Generator().manual_seed(0)
        return stock("a cat", 32, 32, num_inference_steps=2, generator=generator, output_type="np").images

    first = image()
    run(stablesr, photo())
    assert (first == image()).all()


@pytest.mark.parametrize("target", ["to_q", "conv2"])
def test_a_lora_of_the_base_counts_and_is_taken_off(own_stablesr, photo, run, target) -> None:
    from peft import LoraConfig, get_peft_model_state_dict

    plain = run(own_stablesr, photo())
    trained = UNet2DConditionModel.from_config(own_stablesr.unet.config)
    trained.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=[target]))
    tensors = get_peft_model_state_dict(trained)
    lora = {f"unet.{key}": torch.randn_like(value) * 0.3 for key, value in tensors.items()}
    own_stablesr.load_lora_weights(lora)
    assert (run(own_stablesr, photo()) - plain).abs().max() > 0.01
    none = run(own_stablesr, photo(), cross_attention_kwargs={"scale": 0.0})
    torch.testing.assert_close(none, plain, rtol=0, atol=1e-5)
    own_stablesr.unload_lora_weights()
    assert torch.equal(run(own_stablesr, photo()), plain)


def test_a_lora_on_the_modulated_convolution_comes_before_the_modulation(own_stablesr) -> None:
    from peft import LoraConfig

    unet, modulation = own_stablesr.unet, own_stablesr.modulation
    unet.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["conv2"], init_lora_weights=False))
    block = modulation.blocks[0]
    convolution, seen = unet.get_submodule(block).conv2, []
    with torch.no_grad(), modulation.attached(unet):
        hook = modulation.register_forward_pre_hook(lambda _m, given: seen.append(given))
        x, t = torch.randn(1, 4, 8, 8), torch.tensor(10)
        inputs = []
        convolution.register_forward_pre_hook(lambda _m, given: inputs.append(given[0]))
        unet(x, t, torch.randn(1, 5, 64), timestep_cond=own_stablesr.structure_encoder(x, t))
        hook.remove()
        convolution._forward_pre_hooks.clear()
    h = next(given[0] for given in seen if given[2] == block)
    with torch.no_grad():
        torch.testing.assert_close(h, convolution(inputs[0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("parts", [("unet",), ("structure_encoder", "modulation"), ("vae", "cfw"), ("vae",), ("all",)])
def test_networks_may_compute_in_bfloat16_together_or_alone(own_stablesr, photo, run, parts) -> None:
    exact = run(own_stablesr, photo())
    if parts == ("all",):
        own_stablesr.to(torch.bfloat16)
    for part in () if parts == ("all",) else parts:
        getattr(own_stablesr, part).to(torch.bfloat16)
    image = run(own_stablesr, photo())
    assert image.dtype == torch.float32 and 0 < (image - exact).abs().mean() < 0.05


# --- begin, guidance, samplers ---------------------------------------------------------------------------------------


def test_the_latents_of_the_image_are_a_sample_of_the_posterior(stablesr, photo, run) -> None:
    """One step from pure noise that is given: what is left of the seed is the posterior's sample."""
    noise = torch.randn(1, 4, 8, 9, generator=torch.Generator().manual_seed(7))
    options = {"latents": noise, "output_type": "latent", "num_inference_steps": 1, "start_point": "noise"}
    first, again, other = (run(stablesr, photo(), seed=seed, **options) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_chain_begins_at_the_noised_image_or_at_noise(stablesr, photo, run) -> None:
    from_image, from_noise = (run(stablesr, photo(), start_point=point) for point in ("lr", "noise"))
    assert not torch.equal(from_image, from_noise)


def test_a_negative_prompt_brings_the_published_scale(stablesr, photo, run) -> None:
    plain = run(stablesr, photo(), fidelity=0)
    negative = run(stablesr, photo(), fidelity=0, negative_prompt="blur")
    assert torch.equal(negative, run(stablesr, photo(), fidelity=0, negative_prompt="blur", guidance_scale=7.0))
    assert (negative - plain).abs().max() > 1e-3
    published = run(stablesr, photo(), fidelity=0, guidance_scale=7.0)
    assert torch.equal(published, run(stablesr, photo(), fidelity=0, negative_prompt=STABLESR_NEGATIVE_PROMPT))


def test_guidance_is_right_for_every_image_of_a_batch(stablesr, photo, run) -> None:
    photos = [photo(i)[0] for i in range(3)]
    words = {"prompt": ["fur", "", "a cat"], "negative_prompt": ["", "blur", "noise"]}
    together = run(stablesr, photos, seed=[0, 1, 2], guidance_scale=3.0, **words)
    for i in range(3):
        said = {name: texts[i] for name, texts in words.items()}
        alone = run(stablesr, photos[i], seed=[i], guidance_scale=3.0, **said)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["ddim", "unipc", "dpm++", "euler", SpacedDDPMScheduler()])
def test_other_samplers_begin_where_nothing_is_left_of_the_image(stablesr, photo, run, scheduler) -> None:
    taken: list[int] = []

    def note(pipe, step, timestep, tensors):
        taken.append(timestep)
        return {}

    image = run(stablesr, photo(), num_inference_steps=3, scheduler=scheduler, callback_on_step_end=note)
    assert taken[0] == 999 and len(taken) == 3 and torch.isfinite(image).all()


def test_eulers_only_step_would_be_where_nothing_is_noisy(stablesr, photo, run) -> None:
    with pytest.raises(ValueError, match=r"euler takes its only step at t = 0.*take 2 steps"):
        run(stablesr, photo(), num_inference_steps=1, scheduler="euler")


def test_one_step_is_taken_from_the_end_of_the_chain(stablesr, photo, run) -> None:
    taken: list[int] = []
    run(stablesr, photo(), num_inference_steps=1, callback_on_step_end=lambda p, i, t, x: taken.append(t) or {})
    assert taken == [999]


def test_a_reference_is_reached_where_it_pulls_all_the_way(stablesr, photo, run) -> None:
    lr, reference = photo(), photo(9, 30, 30)
    options = {"output_type": "latent", "reference_lr": 0.5, "reference_range": (0, 999)}
    pulled = run(stablesr, lr, reference=reference, **options)
    half = run(stablesr, lr, reference=reference, output_type="latent", reference_lr=0.1, reference_range=(0, 999))
    none = run(stablesr, lr, reference=reference, output_type="latent", reference_range=(1, 2))
    plain = run(stablesr, lr, output_type="latent")
    assert torch.equal(none, plain)
    size = [8 * side for side in pulled.shape[-2:]]
    target = torch.nn.functional.interpolate(reference * 2 - 1, size, mode="bicubic").clamp(-1, 1)
    with torch.no_grad():
        posterior = stablesr.vae.encode(target).latent_dist
    scaled = posterior.mean * stablesr.vae.config.scaling_factor
    deviation = posterior.std * stablesr.vae.config.scaling_factor
    assert ((pulled - scaled) / deviation).abs().max() < 6  # a sample of the reference's posterior
    assert (half - pulled).abs().mean() < (plain - pulled).abs().mean()


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_an_adapter_of_a_v_model_on_an_eps_base_is_refused() -> None:
    v_model, eps_model = tiny_stablesr(prediction_type="v_prediction"), tiny_stablesr()
    parts = v_model.components | {"scheduler": eps_model.scheduler}
    with pytest.raises(ValueError, match=r"trained with a base that predicts v_prediction, this base predicts epsilon"):
        type(v_model)(**parts)


def test_v_models_sample(photo, run) -> None:
    pipe = tiny_stablesr(prediction_type="v_prediction")
    pipe.set_progress_bar_config(disable=True)
    assert torch.isfinite(run(pipe, photo())).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference_lr": 0.7}, "reference_lr=0.7 must lie above 0 and up to 0.5"),
        ({"reference_steps": 0}, "reference_steps=0 must be at least 1"),
        ({"reference_range": 7}, "reference_range=7 must be two numbers"),
        ({"reference": [torch.zeros(3, 8, 8)] * 2}, "reference holds 2 images for 1"),
    ],
)
def test_a_reference_that_cannot_be_meant_is_refused(stablesr, photo, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        stablesr(photo(), **options)
