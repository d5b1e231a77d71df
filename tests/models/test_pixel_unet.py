"""The bundled model's network."""

import pytest
import torch

from resdiff.models.pixel_blocks import Condition, Film
from resdiff.models.pixel_unet import PixelUNet


def tiny(seed: int = 0, **kwargs) -> PixelUNet:
    torch.manual_seed(seed)
    unet = PixelUNet(**{"channels": (8, 12, 16), "num_blocks": (1, 1, 1), "embed_dim": 16} | kwargs)
    for parameter in unet.parameters():  # zero-initialised layers would hide half of the network
        torch.nn.init.normal_(parameter, std=0.1)
    return unet.eval()


def inputs(height: int = 16, width: int = 24, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, 4 * height, 4 * width, generator=g)
    return x, torch.arange(batch), torch.randn(batch, 3, height, width, generator=g)


def test_an_untrained_network_predicts_no_residual() -> None:
    assert PixelUNet(channels=(8, 16), num_blocks=(1, 1))(*inputs()).abs().max() == 0


def test_the_output_has_the_size_of_the_noisy_image_and_depends_on_every_input() -> None:
    unet, (x, t, lq) = tiny(), inputs()
    out = unet(x, t, lq)
    assert out.shape == x.shape
    for other in (unet(x + 0.1, t, lq), unet(x, t + 1, lq), unet(x, t, lq + 0.1)):
        assert not torch.allclose(out, other)


@torch.no_grad()
def test_a_batch_equals_its_images_alone() -> None:
    unet, (x, t, lq) = tiny(), inputs()
    singles = torch.cat([unet(x[i : i + 1], t[i : i + 1], lq[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(unet(x, t, lq), singles, atol=1e-5, rtol=1e-5)


def test_nothing_beyond_the_receptive_radius_changes_an_output_pixel() -> None:
    unet = tiny().double()
    radius = unet.receptive_radius
    size = 2 * radius + 8
    size += -size % unet.size_multiple
    lq = torch.randn(1, 3, size, size, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 3, 4 * size, 4 * size, dtype=torch.float64, requires_grad=True)
    centre = size // 2
    out = unet(x, torch.zeros(1), lq)
    out[..., 4 * centre : 4 * centre + 4, 4 * centre : 4 * centre + 4].sum().backward()
    rows = torch.nonzero(lq.grad.abs().sum(dim=(0, 1, 3)))
    assert centre - radius <= int(rows.min()) and int(rows.max()) <= centre + radius
    assert int(rows.max()) - int(rows.min()) > radius  # the bound is not idle
    rows = torch.nonzero(x.grad.abs().sum(dim=(0, 1, 3))) // 4
    assert centre - radius <= int(rows.min()) and int(rows.max()) <= centre + radius


def test_it_saves_and_loads(tmp_path) -> None:
    unet, sample = tiny(), inputs()
    unet.save_pretrained(tmp_path)
    torch.testing.assert_close(PixelUNet.from_pretrained(tmp_path)(*sample), unet(*sample))


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    unet, (x, t, lq) = tiny().train(), inputs()
    unet(x, t, lq).square().mean().backward()
    plain = [p.grad.clone() for p in unet.parameters()]
    unet.zero_grad()
    unet.enable_gradient_checkpointing()
    unet(x, t, lq).square().mean().backward()
    for a, b in zip(plain, unet.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


def test_half_precision_stays_near_float32() -> None:
    unet, (x, t, lq) = tiny(), inputs()
    full = unet(x, t, lq)
    half = unet.to(torch.bfloat16)(x.bfloat16(), t, lq.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()


def test_wrong_sizes_and_masks_are_refused() -> None:
    unet, (x, t, lq) = tiny(), inputs()
    with pytest.raises(ValueError, match="multiples of 4"):
        unet(x[..., :60], t, lq[..., :15])
    with pytest.raises(ValueError, match="mask"):
        unet(x, t, lq, lq[:, :1])
    with pytest.raises(ValueError, match="same number of levels"):
        PixelUNet(channels=(8, 16), num_blocks=(1,))
    with pytest.raises(ValueError, match="positive"):
        PixelUNet(channels=(8, 16), num_blocks=(1, 0))


@torch.no_grad()
def test_a_prediction_made_beforehand_gives_the_same_output() -> None:
    unet, (x, t, lq) = tiny(), inputs()
    prediction = unet.predict(lq)
    assert prediction.shape == (2, 8 + 48, 16, 24)
    assert torch.equal(unet(x, t, lq, prediction=prediction), unet(x, t, lq))
    assert torch.equal(unet(x, t, torch.zeros_like(lq), prediction=prediction), unet(x, t, lq))


@torch.no_grad()
def test_without_a_noisy_image_the_output_is_the_predictor_s_mean() -> None:
    unet, (x, t, lq) = tiny(), inputs()
    mean = unet(None, None, lq)
    assert mean.shape == x.shape and mean.abs().max() > 0
    torch.nn.init.zeros_(unet.denoiser.conv_out.weight)
    torch.nn.init.zeros_(unet.denoiser.conv_out.bias)
    assert torch.equal(unet(x, t, lq), mean)  # an untrained denoiser adds nothing


@torch.no_grad()
def test_a_prompt_of_zeros_changes_no_bit_and_another_does() -> None:
    unet, (x, t, lq) = tiny(prompt_dim=4), inputs()
    plain = unet(x, t, lq)
    assert torch.equal(unet(x, t, lq, prompt=torch.zeros(2, 4)), plain)
    one_told = unet(x, t, lq, prompt=torch.tensor([[0.0, 0, 0, 0], [1, 0, 0, 0]]))
    assert torch.equal(one_told[0], plain[0]) and not torch.allclose(one_told[1], plain[1])


def test_a_fresh_network_ignores_prompts_but_can_learn_them() -> None:
    torch.manual_seed(0)
    unet, (x, t, lq) = PixelUNet(channels=(8, 12), num_blocks=(1, 1), prompt_dim=4), inputs()
    torch.nn.init.normal_(unet.denoiser.conv_out.weight)
    torch.nn.init.normal_(unet.denoiser.body.mid_blocks[0].conv2.weight)
    assert torch.equal(unet(x, t, lq, prompt=torch.ones(2, 4)), unet(x, t, lq))
    unet(x, t, lq, prompt=torch.ones(2, 4)).square().mean().backward()
    assert unet.denoiser.body.mid_blocks[0].film.prompt.weight.grad.abs().max() > 0


def test_a_step_of_the_optimizer_teaches_a_channel_eight_times_as_much_about_a_word_as_its_rate() -> None:
    film, rate = Film(channels=3, embed_dim=4, prompt_dim=4), 1e-3
    condition = Condition(torch.zeros(1, 4), torch.tensor([[0.0, 0, 1, 0]]))
    optimizer = torch.optim.Adam([film.prompt.weight], lr=rate)
    (-sum(part.sum() for part in film(condition))).backward()
    optimizer.step()
    scale, shift = film(condition)
    torch.testing.assert_close(torch.cat([scale, shift]).flatten(), torch.full((6,), 8 * rate))


def test_the_two_parts_share_no_parameter_and_leave_none_out() -> None:
    unet = tiny(prompt_dim=4)
    parts = [{id(p) for module in unet.parts(name) for p in module.parameters()} for name in ("predictor", "denoiser")]
    assert not parts[0] & parts[1] and parts[0] | parts[1] == {id(p) for p in unet.parameters()}


@torch.no_grad()
def test_the_encoder_is_the_denoisers_way_down() -> None:
    unet, (x, t, lq) = tiny(), inputs()
    seen = unet.encode(x, t, lq)
    assert [tuple(f.shape) for f in seen] == [(2, 8, 16, 24), (2, 8, 16, 24), (2, 12, 8, 12)]
    assert tuple(f.shape[1] for f in seen) == unet.encoder_dims
    blocks = []
    for stage in (*unet.denoiser.body.down_blocks, unet.denoiser.body.mid_blocks):
        stage[-1].register_forward_hook(lambda _, __, output: blocks.append(output))
    unet(x, t, lq)
    assert all(torch.equal(ours, block) for ours, block in zip(seen[1:], blocks, strict=True))
    for ours, known in zip(seen, unet.encode(x, t, lq, prediction=unet.predict(lq)), strict=True):
        assert torch.equal(ours, known)
