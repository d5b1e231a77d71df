"""Networks as the losses of distillation ask for them."""

import pytest
import torch

from resdiff.data.training_set import Batch
from resdiff.diffusion import resshift
from resdiff.models.pixel_unet import PixelUNet
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.train.denoise import Denoise, draw_noise, sample_generators


@pytest.fixture
def unet() -> PixelUNet:
    torch.manual_seed(0)
    unet = PixelUNet(channels=(8,), num_blocks=(1,))
    torch.nn.init.normal_(unet.predictor.conv_out.weight, std=0.1)
    torch.nn.init.normal_(unet.denoiser.conv_out.weight, std=0.1)
    return unet


GENERATOR = torch.Generator().manual_seed(0)
LQ = torch.randn(2, 3, 4, 4, generator=GENERATOR)
Y, X_T = torch.randn(2, 2, 3, 16, 16, generator=GENERATOR)
STEP = torch.tensor([2, 2])


@pytest.mark.parametrize("prediction_type", ["xstart", "residual", "epsilon", "epsilon_scale"])
@pytest.mark.parametrize("input_scaling", ["latent", "pixel", "none"])
def test_it_predicts_what_the_scheduler_would(unet, prediction_type, input_scaling) -> None:
    kinds = {"prediction_type": prediction_type, "input_scaling": input_scaling}
    scheduler = ResShiftScheduler(num_train_timesteps=4, kappa=0.25, data_var=0.25, etas_end=0.9, **kinds)
    output = unet(scheduler.scale_model_input(X_T, 2), STEP, LQ)
    expected = scheduler.step(output, 2, X_T, y=Y, noise=X_T).pred_original_sample
    torch.testing.assert_close(Denoise(unet, scheduler, LQ, Y)(X_T, STEP, LQ), expected)


def test_the_input_can_have_another_steps_scale(unet) -> None:
    scheduler = ResShiftScheduler(num_train_timesteps=4, prediction_type="residual")
    scaled = resshift.scale_input(X_T, 3, scheduler.train_tables)
    found = Denoise(unet, scheduler, LQ, Y)(X_T, STEP, LQ, scaled_as=STEP + 1)
    torch.testing.assert_close(found, Y - unet(scaled, STEP, LQ))


def test_the_lr_images_are_looked_at_once_with_their_gradient(unet) -> None:
    calls = []
    unet.predictor.register_forward_hook(lambda *_: calls.append(1))
    denoise = Denoise(unet, ResShiftScheduler(num_train_timesteps=4, prediction_type="residual"), LQ, Y)
    (denoise(X_T, STEP, LQ) + denoise(X_T, STEP - 1, LQ)).sum().backward()
    assert len(calls) == 1
    assert all(p.grad is not None for p in unet.predictor.parameters())


def test_noise_belongs_to_the_sample() -> None:
    def drawn(*index: int, stream: str = "a") -> torch.Tensor:
        batch = Batch(index=list(index), hr=LQ, lr=LQ, draws=[], captions=[], tags=[])
        return draw_noise(sample_generators(batch.index, 0, stream), X_T[: len(index)])

    assert torch.equal(drawn(3, 4)[1], drawn(4, 9)[0]) and not torch.equal(drawn(3), drawn(4))
    assert not torch.equal(drawn(3), drawn(3, stream="b")) and drawn(3, 4).shape == X_T.shape
