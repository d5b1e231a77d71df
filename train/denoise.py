"""A network of the residual-shifting family as the losses of distillation ask for it: (x_t, t, lq) -> x_0."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from resdiff.data.training_set import device_generator, sample_generator
from resdiff.diffusion import resshift
from resdiff.models.pixel_unet import PixelUNet
from resdiff.schedulers.resshift import ResShiftScheduler


class Denoise:
    """A network on one batch of LR images, whatever it predicts and however its input is scaled.

    Losses that call it pass x_t as it is (`scaling="none"`). What the network makes of the LR images alone is computed
    once for all calls, with its gradient.
    """

    def __init__(
        self,
        network: nn.Module,  # the bare one
        scheduler: ResShiftScheduler,
        lq: Tensor,  # (B, 3, h, w) in [-1, 1]
        y: Tensor,  # encoded, upsampled LR images (B, C, H, W)
        prepared: nn.Module | None = None,  # the network as accelerate prepared it, if it is trained
        of_lq: Mapping[str, Tensor] | None = None,  # of an earlier one on the same images
    ):
        self.network, self.scheduler, self.y = network if prepared is None else prepared, scheduler, y
        if of_lq is None:
            of_lq = {"prediction": network.predict(lq)} if isinstance(network, PixelUNet) else {}
        self.of_lq = of_lq

    def __call__(self, x_t: Tensor, t: Tensor, lq: Tensor, scaled_as: Tensor | None = None) -> Tensor:
        """Predict x_0, float32 (B, C, H, W), from x_t like it; t: int64 (B,), trained timesteps.

        scaled_as: the timesteps whose input scale is used, None: t.
        """
        tables, config = self.scheduler.train_tables, self.scheduler.config
        at = t if scaled_as is None else scaled_as
        model_input = resshift.scale_input(x_t, at, tables, config.input_scaling, config.data_var)
        output = self.network(model_input, t, lq, **self.of_lq).float()
        return resshift.predict_x0(output, x_t, self.y, t, tables, config.prediction_type)


def sample_generators(indices: Sequence[int], seed: int, stream: str) -> list[torch.Generator]:
    """Return a generator for each sample of a batch, from its global index."""
    return [sample_generator(seed, index, stream=stream) for index in indices]


def draw_timesteps(generators: Sequence[torch.Generator], timesteps: Sequence[int], device: torch.device) -> Tensor:
    """Draw one of `timesteps` for each sample from its own generator; int64 (B,)."""
    drawn = [timesteps[int(torch.randint(len(timesteps), (), generator=g))] for g in generators]
    return torch.tensor(drawn, device=device)


def draw_noise(generators: Sequence[torch.Generator], like: Tensor) -> Tensor:
    """Draw standard normal noise of the shape of `like`, (B, ...), each sample from its own generator."""
    device = like.device
    fields = [torch.randn(like.shape[1:], generator=device_generator(g, device), device=device) for g in generators]
    return torch.stack(fields)
