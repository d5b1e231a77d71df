"""The loss of residual shifting: by hand, per sample, in latent and pixel space."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from resdiff.data.degradation.pool import PairPool
from resdiff.data.degradation.presets import PRESETS
from resdiff.data.training_set import Batch, sample_generator
from resdiff.diffusion import resshift
from resdiff.models.pixel_unet import PixelUNet
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.resize import bicubic
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train import resshift_loss
from resdiff.train.prepare import Prepare
from resdiff.train.resshift_loss import LossArguments, ResShiftLoss

CPU = torch.device("cpu")
SCHEDULE = {"num_train_timesteps": 4, "min_noise_level": 0.2, "kappa": 2.0}


def pixel_pipeline(**schedule) -> ResShiftPipeline:
    torch.manual_seed(0)
    unet = PixelUNet(channels=(8,), num_blocks=(1,))
    options = {"prediction_type": "residual", "data_var": 0.25} | schedule
    scheduler = ResShiftScheduler(**SCHEDULE | options)
    return ResShiftPipeline(unet, None, scheduler, padding_multiple=1, upsampling="pil")


def latent_pipeline(**schedule) -> ResShiftPipeline:
    torch.manual_seed(0)
    unet = SwinUNet(
        image_size=8,
        model_channels=32,
        num_res_blocks=(1,),
        channel_mult=(1,),
        attention_resolutions=(8,),
        num_head_channels=16,
        swin_embed_dim=32,
        window_size=4,
        mlp_ratio=2,
        lq_size=8,
    )
    vae = VQAutoencoder(ch=32, ch_mult=(1, 1, 1), num_res_blocks=1, n_embed=64).requires_grad_(False)
    for network in (unet, vae):
        for parameter in network.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.1)
    return ResShiftPipeline(unet, vae, ResShiftScheduler(**SCHEDULE | schedule), padding_multiple=8)


def batch(indices: list[int], side: int = 32) -> Batch:
    """Return samples that depend on their index alone."""
    images = [torch.rand(3, side, side, generator=torch.Generator().manual_seed(i)) for i in indices]
    hr = torch.stack(images)
    lr = bicubic(hr, (side // 4, side // 4), "pil").clamp(0, 1)
    count = len(indices)
    return Batch(index=indices, hr=hr, lr=lr, draws=[None] * count, captions=[""] * count, tags=[()] * count)


def loss_of(pipe: ResShiftPipeline, seed: int = 3, **options) -> ResShiftLoss:
    return ResShiftLoss(LossArguments(**options), pipe, pipe.unet, CPU, seed)


@pytest.mark.parametrize(("kind", "power"), [("mse", 2), ("l1", 1)])
def test_the_loss_of_an_untrained_pixel_network_is_the_error_of_bicubic(kind, power) -> None:
    samples = batch([0, 1, 2])
    terms = loss_of(pixel_pipeline(), loss=kind)(samples)
    enlarged = bicubic(samples.lr * 2 - 1, (32, 32), "pil")
    expected = (enlarged - (samples.hr * 2 - 1)).abs().pow(power).mean()
    torch.testing.assert_close(terms["loss"], expected)
    assert terms.keys() == {"loss", kind} and torch.equal(terms["loss"], terms[kind])


def test_the_predictor_alone_is_trained_for_the_mean() -> None:
    pipe, samples = pixel_pipeline(), batch([0, 1])
    torch.nn.init.normal_(pipe.unet.predictor.conv_out.weight, std=0.1)
    terms = loss_of(pipe, loss="l1", trained_part="predictor")(samples)
    lq = samples.lr * 2 - 1
    mean = bicubic(lq, (32, 32), "pil") - pipe.unet(None, None, lq)
    torch.testing.assert_close(terms["loss"], (mean - (samples.hr * 2 - 1)).abs().mean())
    terms["loss"].backward()
    assert pipe.unet.predictor.conv_in.weight.grad.abs().max() > 0
    assert all(p.grad is None for p in pipe.unet.denoiser.parameters())
    with pytest.raises(ValueError, match="--trained_part predictor has no decoder"):
        LossArguments(trained_part="predictor", lpips_weight=1.0).check_loss()


@pytest.mark.parametrize("prediction_type", ["xstart", "residual", "epsilon", "epsilon_scale"])
def test_the_latent_loss_is_the_mse_of_what_is_predicted(prediction_type) -> None:
    pipe = latent_pipeline(prediction_type=prediction_type)
    samples, loss = batch([5, 6]), loss_of(pipe)
    terms = loss(samples)

    hr, lq = samples.hr * 2 - 1, samples.lr * 2 - 1
    x0 = pipe.vae.encode(hr)
    y = pipe.vae.encode(bicubic(lq, (32, 32), "torch"))
    t = torch.tensor([loss.draw(i, x0.shape[1:])[0] for i in (5, 6)])
    noise = torch.stack([loss.draw(i, x0.shape[1:])[1] for i in (5, 6)])
    eta = (pipe.scheduler.train_tables.sqrt_etas.float() ** 2)[t].view(2, 1, 1, 1)
    x_t = x0 + eta * (y - x0) + 2.0 * eta.sqrt() * noise  # Eq. (2), kappa 2
    output = pipe.unet(x_t / torch.sqrt(4.0 * eta + 1), t, lq)  # unit variance, data_var 1
    target = {"xstart": x0, "residual": y - x0, "epsilon": noise, "epsilon_scale": 2.0 * eta.sqrt() * noise}
    expected = (output - target[prediction_type]).square().mean()
    torch.testing.assert_close(terms["loss"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("prediction_type", ["xstart", "epsilon"])
def test_in_pixel_space_the_decoded_prediction_is_compared_with_the_photo(prediction_type) -> None:
    pipe = latent_pipeline(prediction_type=prediction_type)
    samples, loss = batch([5, 6]), loss_of(pipe, loss_space="pixel", loss="l1", loss_weight=0.5)
    seen = {}
    pipe.unet.register_forward_hook(lambda module, inputs, output: seen.update(inputs=inputs, output=output))
    terms = loss(samples)
    hr, lq = samples.hr * 2 - 1, samples.lr * 2 - 1
    y = pipe.encode(pipe.upsample(lq))
    t = seen["inputs"][1]
    tables = pipe.scheduler.train_tables
    eta = (tables.sqrt_etas.float() ** 2)[t].view(2, 1, 1, 1)
    x_t = seen["inputs"][0] * torch.sqrt(4.0 * eta + 1)
    x0 = resshift.predict_x0(seen["output"], x_t, y, t, tables, prediction_type)
    error = (pipe.vae.decode(x0) - hr).abs().mean()
    torch.testing.assert_close(terms["l1"], error, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(terms["loss"], 0.5 * error, rtol=1e-4, atol=1e-6)
    terms["loss"].backward()
    assert any(float(p.grad.abs().max()) > 0 for p in pipe.unet.parameters() if p.grad is not None)
    assert all(p.grad is None for p in pipe.vae.parameters())  # frozen


class FakeLpips(torch.nn.Module):
    """Mean absolute difference; NaN where told."""

    nan_at: int | None = None

    def __init__(self, weights: object = None):
        super().__init__()

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        assert float(image.abs().max()) <= 1 and float(target.abs().max()) <= 1
        distance = (image - target).abs().flatten(1).mean(dim=1)
        if self.nan_at is not None:
            distance = distance + torch.tensor([math.nan if i == self.nan_at else 0.0 for i in range(len(distance))])
        return distance


@pytest.fixture
def fake_lpips(monkeypatch):
    monkeypatch.setattr(resshift_loss, "Lpips", FakeLpips)
    monkeypatch.setattr(FakeLpips, "nan_at", None)
    return FakeLpips


def test_lpips_is_added_through_the_decoder(fake_lpips) -> None:
    pipe, samples = latent_pipeline(), batch([5, 6])
    plain = loss_of(pipe)(samples)
    alone = loss_of(pipe, loss_weight=0.0, lpips_weight=1.0)(samples)
    both = loss_of(pipe, loss_weight=2.0, lpips_weight=10.0)(samples)
    assert alone.keys() == both.keys() == {"loss", "mse", "lpips"}
    torch.testing.assert_close(alone["loss"], alone["lpips"])
    torch.testing.assert_close(both["loss"], 2 * plain["loss"] + 10 * alone["loss"])
    alone["loss"].backward()
    assert any(float(p.grad.abs().max()) > 0 for p in pipe.unet.parameters() if p.grad is not None)


def test_a_nan_of_lpips_leaves_the_mse_alone(fake_lpips, monkeypatch) -> None:
    pipe, samples = latent_pipeline(), batch([5, 6])
    monkeypatch.setattr(FakeLpips, "nan_at", 1)
    terms = loss_of(pipe, lpips_weight=1.0)(samples)
    torch.testing.assert_close(terms["loss"], loss_of(pipe)(samples)["loss"])
    assert float(terms["lpips"]) == 0.0
    terms["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in pipe.unet.parameters() if p.grad is not None)


def test_lpips_without_its_weights_is_said_before_anything_else(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"vgg16-397923af\.pth .* is missing"):
        loss_of(pixel_pipeline(), lpips_weight=1.0, lpips_weights=tmp_path / "missing.pth")


def test_what_is_drawn_for_a_sample_does_not_depend_on_its_batch() -> None:
    pipe = latent_pipeline()
    loss = loss_of(pipe)
    whole = loss(batch([3, 4, 5, 6]))["loss"]
    parts = [loss(batch(part))["loss"] for part in ([3, 4], [5, 6])]
    torch.testing.assert_close(whole, torch.stack(parts).mean())
    swapped = loss(batch([6, 5, 4, 3]))["loss"]
    torch.testing.assert_close(whole, swapped)


def test_draws_are_keyed_by_seed_and_index_and_differ_from_those_of_the_data() -> None:
    pipe, shape = pixel_pipeline(), torch.Size((3, 8, 8))
    first, again = loss_of(pipe, seed=1).draw(7, shape), loss_of(pipe, seed=1).draw(7, shape)
    assert first[0] == again[0] and torch.equal(first[1], again[1])
    for other in (loss_of(pipe, seed=2).draw(7, shape), loss_of(pipe, seed=1).draw(8, shape)):
        assert not torch.equal(first[1], other[1])
    data = torch.randn(shape, generator=sample_generator(1, 7))
    assert not torch.equal(first[1], data)


def test_timesteps_are_uniform_and_noise_is_normal() -> None:
    loss, shape = loss_of(pixel_pipeline()), torch.Size((3, 4, 4))
    draws = [loss.draw(i, shape) for i in range(2000)]
    counts = torch.bincount(torch.tensor([t for t, _ in draws]), minlength=4)
    assert (counts - 500).abs().max() < 5 * math.sqrt(2000 * 0.25 * 0.75)
    noise = torch.stack([x for _, x in draws])
    assert float(noise.mean()) == pytest.approx(0, abs=0.02) and float(noise.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.25), (0.4, 0.55), (1.0, 1.0)])
def test_a_share_of_the_draws_is_the_last_step(share, expected) -> None:
    loss = loss_of(pixel_pipeline(), last_step_share=share)
    found = sum(loss.draw(i, torch.Size((1,)))[0] == 3 for i in range(2000)) / 2000
    assert found == pytest.approx(expected, abs=0.05)


def test_each_timestep_has_its_weight() -> None:
    pipe, samples = latent_pipeline(), batch([3, 4, 5, 6, 7, 8])
    weights = (1.0, 0.5, 0.0, 3.0)
    loss, plain = loss_of(pipe, timestep_weights=weights), loss_of(pipe)
    single = [(plain.draw(i, torch.Size((1,)))[0], plain(batch([i]))["loss"]) for i in samples.index]
    assert len({t for t, _ in single}) >= 3
    expected = torch.stack([weights[t] * value for t, value in single]).mean()
    torch.testing.assert_close(loss(samples)["loss"], expected)
    with pytest.raises(ValueError, match="--timestep_weights has 3 values for 4 timesteps"):
        LossArguments(timestep_weights=(1.0, 1.0, 1.0)).check_loss(timesteps=4)


@pytest.mark.parametrize(
    "options",
    [{"last_step_share": 1.5}, {"loss_weight": -1.0}, {"lpips_weight": -1.0}, {"loss_weight": 0.0}],
)
def test_values_that_cannot_be_meant_are_refused(options) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(options))}"):
        LossArguments(**options).check_loss()


def raw(indices: list[int]) -> Batch:
    """Return samples that are still to be degraded."""
    draws = [PRESETS["light"].draw(32, 32, sample_generator(0, i)) for i in indices]
    return Batch(
        index=indices,
        hr=batch(indices).hr,
        lr=None,
        draws=draws,
        captions=[""] * len(indices),
        tags=[()] * len(indices),
    )


def test_prepared_batches_are_degraded_sample_by_sample() -> None:
    prepare = Prepare(PRESETS["light"], None, CPU)
    whole = prepare(raw([0, 1, 2]))
    assert whole.lr.shape == (3, 3, 8, 8)
    torch.testing.assert_close(whole.lr[1:2], prepare(raw([1])).lr, atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.hr, batch([0, 1, 2]).hr)


def test_pairs_that_were_read_stay_as_they_are() -> None:
    samples = batch([0, 1])
    prepared = Prepare(PRESETS["light"], None, CPU)(samples)
    assert torch.equal(prepared.lr, samples.lr) and torch.equal(prepared.hr, samples.hr)


def test_the_pool_mixes_pairs_and_keeps_them_together() -> None:
    pool = PairPool(4, torch.Generator().manual_seed(0))
    prepare, seen = Prepare(PRESETS["light"], pool, CPU), []
    for start in range(0, 40, 2):
        prepared = prepare(batch([start, start + 1]))
        for hr, lr in zip(prepared.hr, prepared.lr, strict=True):
            index = next(i for i in range(40) if torch.equal(hr, batch([i]).hr[0]))
            assert torch.equal(lr, batch([index]).lr[0])
            seen.append(index)
    assert seen[:4] == [0, 1, 2, 3] and seen[4:] != list(range(4, 40))


def test_a_sample_that_degrades_to_nan_is_made_harmless() -> None:
    def pair(hr: Tensor, draws: list[object]) -> tuple[Tensor, Tensor]:
        lr = torch.full((len(hr), 3, 8, 8), 0.25)
        lr[1, 0, 0, 0] = math.nan
        return hr, lr

    prepared = Prepare(SimpleNamespace(pair=pair), None, CPU)(raw([0, 1]))
    assert (prepared.lr[0] == 0.25).all() and (prepared.lr[1] == 0.5).all() and (prepared.hr[1] == 0.5).all()
    assert torch.equal(prepared.hr[0], raw([0]).hr[0])
