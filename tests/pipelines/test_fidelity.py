"""The dial between the posterior mean and the most natural detail."""

import numpy as np
import pytest
import torch
from torch import Tensor

from resdiff.pipelines import SRPipeline
from resdiff.tiling import Smooth


def photo(height: int = 14, width: int = 18, seed: int = 0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def run(pipe: SRPipeline, lr: Tensor | None = None, output_type: str = "pt", **options) -> Tensor:
    lr = photo() if lr is None else lr
    return pipe(lr, generator=torch.Generator().manual_seed(0), output_type=output_type, **options).images


@pytest.mark.parametrize("options", [{}, {"prompt": "sharp"}, {"prompt": "sharp", "guidance_scale": 2.0}])
def test_its_ends_are_one_step_and_all_steps_bit_for_bit(worded, options) -> None:
    one, all_steps = run(worded, num_inference_steps=1, **options), run(worded, **options)
    assert not torch.equal(one, all_steps)
    assert torch.equal(run(worded, fidelity=1.0, **options), one)
    assert torch.equal(run(worded, fidelity=1, num_inference_steps=3, **options), one)
    assert torch.equal(run(worded, fidelity=0.0, **options), all_steps)
    assert torch.equal(
        run(worded, fidelity=0, num_inference_steps=2, **options), run(worded, num_inference_steps=2, **options)
    )


@pytest.mark.parametrize("steps", [2, 4])
def test_between_them_the_images_are_blended(worded, steps) -> None:
    one, final = (run(worded, output_type="latent", num_inference_steps=n) for n in (1, steps))
    for fidelity in (0.25, 0.5, 0.9):
        blend = run(worded, output_type="latent", num_inference_steps=steps, fidelity=fidelity)
        torch.testing.assert_close(blend, one + (1 - fidelity) * (final - one), atol=1e-6, rtol=0)


def test_the_most_faithful_result_takes_one_step(worded) -> None:
    seen = []
    for fidelity, steps in ((1.0, 1), (0.5, 4)):
        seen.clear()
        run(worded, fidelity=fidelity, callback_on_step_end=lambda pipe, i, t, _: seen.append((i, pipe.num_timesteps)))
        assert seen == [(i, steps) for i in range(steps)]
        assert worded.num_timesteps == steps


def test_tiles_give_the_image_that_the_whole_gives(worded) -> None:
    lr, halo = photo(81, 20), worded.unet.receptive_radius
    tiles = Smooth(2 * halo + 24, overlap=2 * halo + 2, halo=halo)
    whole, joined = (run(worded, lr, fidelity=0.5, tile=tile) for tile in ("off", tiles))
    torch.testing.assert_close(joined, whole, atol=1e-5, rtol=0)


def test_a_batch_gives_the_images_that_singles_give(worded) -> None:
    lr = torch.cat([photo(), photo(seed=1)])
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    together = worded(lr, fidelity=0.5, generator=generators, output_type="np").images
    for i in range(2):
        alone = worded(lr[i : i + 1], fidelity=0.5, generator=torch.Generator().manual_seed(i), output_type="np").images
        np.testing.assert_allclose(together[i], alone[0], atol=1e-6)


def test_given_noise_starts_both_ends(worded) -> None:
    noise = torch.randn(1, *worded.latent_shape(14, 18), generator=torch.Generator().manual_seed(5))
    one, final, blend = (
        run(worded, output_type="latent", latents=noise, **options)
        for options in ({"num_inference_steps": 1}, {}, {"fidelity": 0.5})
    )
    torch.testing.assert_close(blend, (one + final) / 2, atol=1e-6, rtol=0)


def test_an_interrupted_chain_is_blended_with_what_it_has_reached(worded) -> None:
    predictions = []

    def stop(pipe: SRPipeline, step: int, _, tensors: dict) -> dict:
        predictions.append(tensors["pred_original_sample"])
        pipe._interrupt = step == 1
        return tensors

    blend = run(worded, output_type="latent", fidelity=0.25, callback_on_step_end=stop)
    assert len(predictions) == 2
    torch.testing.assert_close(blend, 0.25 * predictions[0] + 0.75 * predictions[1], atol=1e-6, rtol=0)


def test_a_callback_may_change_the_one_step_of_the_most_faithful_result(worded) -> None:
    def freeze(pipe, step, timestep, tensors: dict) -> dict:
        return {"latents": torch.zeros_like(tensors["latents"])}

    assert run(worded, output_type="latent", fidelity=1.0, callback_on_step_end=freeze).abs().max() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fidelity": 1.5}, r"fidelity=1.5 must lie between 0 \(most detail\) and 1"),
        ({"fidelity": -1}, "fidelity=-1 must lie"),
        ({"fidelity": float("nan")}, "fidelity=nan must lie"),
        ({"fidelity": "high"}, "fidelity='high' must lie"),
        ({"fidelity": 0.5, "num_inference_steps": 1}, "fidelity=0.5 needs at least 2 steps; raise num_inference_steps"),
        ({"fidelity": 1.0, "num_inference_steps": 99}, "num_inference_steps=99 must lie between 1 and 4"),
    ],
)
def test_what_cannot_be_meant_is_one_line(worded, options, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        worded(photo(), **options)
    assert "\n" not in str(caught.value)


def test_models_without_a_predictor_have_no_dial(latent, inpainting) -> None:
    bicubic = SRPipeline.from_pretrained("bicubic")
    for pipe in (latent, bicubic):
        assert not pipe.takes_fidelity
        with pytest.raises(
            ValueError, match=r"fidelity=1.0 is for models with such a dial; this one has none"
        ) as caught:
            pipe(photo(), fidelity=1.0)
        assert "\n" not in str(caught.value)
