"""The residual-shifting family: steps, tiles, masks, saving."""

import numpy as np
import pytest
import torch

from resdiff.models.pixel_unet import PixelUNet
from resdiff.pipelines import SRPipeline
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.resize import bicubic
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.tiling import Chop, Smooth


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width, generator=seeded(seed))


def test_an_untrained_pixel_model_is_bicubic_at_any_number_of_steps() -> None:
    pipe = ResShiftPipeline(
        PixelUNet(channels=(8, 16), num_blocks=(1, 1)),
        None,
        ResShiftScheduler(num_train_timesteps=4, kappa=0.25, prediction_type="residual", respacing="trailing"),
        padding_multiple=2,
        upsampling="pil",
    )
    pipe.set_progress_bar_config(disable=True)
    lr = photo(11, 14)
    expected = bicubic(lr, (44, 56), "pil").clamp(0, 1)
    for steps in (1, 2, 4):
        out = pipe(lr, num_inference_steps=steps, generator=seeded(), output_type="pt").images
        inner = slice(None), slice(None), slice(0, 36), slice(0, 48)  # padding to even sides bends the last columns
        torch.testing.assert_close(out[inner], expected[inner], atol=1e-5, rtol=0)


def test_one_step_is_x0_predicted_at_the_last_timestep(residual) -> None:
    pipe = residual
    seen = []
    result = pipe(
        photo(16, 16),
        num_inference_steps=1,
        generator=seeded(),
        output_type="latent",
        callback_on_step_end=lambda _, step, t, tensors: seen.append((step, t, tensors)) or tensors,
    ).images
    ((step, t, tensors),) = seen
    assert (step, t) == (0, 3)
    assert torch.equal(tensors["pred_original_sample"], tensors["latents"])
    assert torch.equal(result, tensors["latents"])


def test_tiles_of_the_pixel_model_are_exact(pixel) -> None:
    lr = photo(150, 97)
    whole = pixel(lr, generator=seeded(), tile="off", output_type="pt").images
    halo = pixel.unet.receptive_radius
    tiles = Smooth(2 * halo + 32, overlap=2 * halo + 2, halo=halo)
    joined = pixel(lr, generator=seeded(), tile=tiles, output_type="pt").images
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=0)
    assert pixel.default_tiling(1).halo == halo


def test_smooth_tiles_of_a_latent_model_cover_the_image_and_stay_near_it(latent) -> None:
    lr = photo(40, 70)
    joined = latent(lr, generator=seeded(), tile=32, output_type="pt").images
    whole = latent(lr, generator=seeded(), tile="off", output_type="pt").images
    assert joined.shape == whole.shape == (1, 3, 160, 280)
    assert not torch.equal(joined, whole)  # group norms see the tile only


def test_reference_tiles_draw_in_the_published_order(latent) -> None:
    lr = photo(20, 28)
    joined = latent(lr, generator=seeded(5), tile=Chop(16, 12), output_type="pt").images
    generator = seeded(5)
    total, count = torch.zeros(1, 3, 80, 112), torch.zeros(80, 112)
    for top in (0, 4):
        for left in (0, 12):
            tile = lr[..., top : top + 16, left : left + 16]
            out = latent(tile, generator=generator, tile="reference", output_type="pt").images
            total[..., 4 * top : 4 * top + 64, 4 * left : 4 * left + 64] += out
            count[4 * top : 4 * top + 64, 4 * left : 4 * left + 64] += 1
    torch.testing.assert_close(joined, total / count, atol=1e-5, rtol=0)


def test_inpainting_changes_only_what_the_mask_says_is_unknown(inpainting) -> None:
    lr, mask = photo(50, 40), torch.zeros(1, 1, 50, 40)
    mask[..., 10:30, 5:25] = 1
    out = inpainting(lr, mask=mask, generator=seeded(), output_type="pt").images
    assert out.shape == lr.shape
    known = mask.expand_as(lr) == 0
    torch.testing.assert_close(out[known], lr[known], atol=1e-6, rtol=0)
    assert (out - lr)[~known].abs().mean() > 0.01
    blanked = lr * (1 - mask)  # what stands under the mask is not looked at
    torch.testing.assert_close(inpainting(blanked, mask=mask, generator=seeded(), output_type="pt").images, out)


def test_inpainting_says_what_is_wrong_with_its_mask(inpainting) -> None:
    lr = photo(16, 16)
    with pytest.raises(ValueError, match="pass mask="):
        inpainting(lr)
    with pytest.raises(ValueError, match="sizes must agree"):
        inpainting(lr, mask=torch.zeros(1, 1, 8, 16))
    with pytest.raises(ValueError, match="2 masks for 1 images"):
        inpainting(lr, mask=torch.zeros(2, 1, 16, 16))
    with pytest.raises(ValueError, match="leave scale out"):
        inpainting(lr, mask=torch.zeros(1, 1, 16, 16), scale=2)
    with pytest.raises(ValueError, match="mask holds NaN"):
        inpainting(np.zeros((32, 32, 3), np.uint8), mask=np.full((32, 32), np.nan))


def test_a_saved_pipeline_opens_as_what_it_was(residual, tmp_path) -> None:
    pipe = residual
    pipe.save_pretrained(tmp_path)
    opened = SRPipeline.from_pretrained(tmp_path)
    assert type(opened) is ResShiftPipeline
    assert opened.config.padding_multiple == pipe.config.padding_multiple
    opened.set_progress_bar_config(disable=True)
    lr = photo(9, 11)
    run = [p(lr, generator=seeded(), output_type="latent").images for p in (pipe, opened)]
    torch.testing.assert_close(run[0], run[1], atol=1e-4, rtol=0)  # other memory, other kernels: rounding differs
    for name in ("unet", "vae"):
        saved, loaded = (getattr(p, name) for p in (pipe, opened))
        assert (saved is None) == (loaded is None)
        if saved is not None:
            assert all(torch.equal(x, loaded.state_dict()[key]) for key, x in saved.state_dict().items())


def test_one_scheduler_serves_calls_with_other_numbers_of_steps(pipe) -> None:
    lr = photo(8, 8)
    first = pipe(lr, generator=seeded(), output_type="pt").images
    pipe(lr, num_inference_steps=1)
    assert torch.equal(pipe(lr, generator=seeded(), output_type="pt").images, first)


def test_bfloat16_stays_near_float32(pixel) -> None:
    lr = photo(16, 16)
    full = pixel(lr, generator=seeded(), output_type="np").images
    try:
        pixel.unet.to(torch.bfloat16)
        half = pixel(lr, generator=seeded(), output_type="np").images
    finally:
        pixel.unet.to(torch.float32)
    assert 0 < np.abs(half - full).max() < 0.1


def test_float16_on_a_cpu_is_refused(pixel) -> None:
    try:
        pixel.unet.to(torch.float16)
        with pytest.raises(ValueError, match="float16 is not for CPUs"):
            pixel(photo(8, 8))
    finally:
        pixel.unet.to(torch.float32)


def test_a_result_that_is_not_finite_is_an_error(pixel, monkeypatch) -> None:
    monkeypatch.setattr(pixel, "decode", lambda latents, guidance, lq: latents * float("nan"))
    with pytest.raises(RuntimeError, match=r"^the result is not finite; check the weights$"):
        pixel(photo(8, 8))


def test_codes_are_chosen_of_latents_that_were_not_rounded(latent, monkeypatch) -> None:
    seen = []
    quantize = latent.vae.quantize.forward
    monkeypatch.setattr(latent.vae.quantize, "forward", lambda z: seen.append(z) or quantize(z))
    latents = torch.randn(1, 3, 8, 8, generator=seeded())
    named = latent.vae.named_parameters()
    kept = [(parameter, parameter.data) for name, parameter in named if not name.startswith("quantize")]
    try:
        for parameter, data in kept:
            parameter.data = data.bfloat16()
        image = latent.decode(latents)
    finally:
        for parameter, data in kept:
            parameter.data = data
    assert torch.equal(seen[0], latents) and image.dtype == torch.float32


def test_a_colour_fix_leaves_known_pixels_alone(inpainting) -> None:
    lr, mask = photo(50, 40), torch.zeros(1, 1, 50, 40)
    mask[..., 10:30, 5:25] = 1
    out = inpainting(lr, mask=mask, generator=seeded(), color_fix="wavelet", output_type="pt").images
    known = mask.expand_as(lr) == 0
    torch.testing.assert_close(out[known], lr[known], atol=1e-6, rtol=0)


def test_what_a_step_predicted_is_blended_into_what_the_next_one_sees(pixel, residual) -> None:
    lr = photo(16, 16)
    for pipe in (pixel, residual):
        plain = pipe(lr, num_inference_steps=2, generator=seeded(), output_type="pt").images
        seen, predicted = [], []
        hook = pipe.unet.register_forward_pre_hook(
            lambda _, args, kwargs, seen=seen: seen.append(kwargs["lq"]), with_kwargs=True
        )
        pipe.register_to_config(psr_weight=0.25)
        refined = pipe(
            lr,
            num_inference_steps=2,
            generator=seeded(),
            output_type="pt",
            callback_on_step_end=lambda _, step, t, x, predicted=predicted: (
                predicted.append(x["pred_original_sample"]) or x
            ),
        ).images
        hook.remove()
        image = bicubic(pipe.decode(predicted[0]).clamp(-1, 1), tuple(seen[0].shape[-2:]), "pil")
        torch.testing.assert_close(seen[1], 0.25 * image + 0.75 * seen[0])
        assert not torch.equal(refined, plain)
        pipe.register_to_config(psr_weight=0.0)


def test_a_psr_weight_that_cannot_be_meant() -> None:
    unet = PixelUNet(channels=(8,), num_blocks=(1,))
    with pytest.raises(ValueError, match=r"psr_weight=2 must lie in \[0, 1\]"):
        ResShiftPipeline(unet, None, ResShiftScheduler(), psr_weight=2)
