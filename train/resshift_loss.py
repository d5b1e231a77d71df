"""What one step of `train/resshift.py` minimises: the loss of residual shifting."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from resdiff.data.training_set import Batch, device_generator, sample_generator
from resdiff.diffusion import resshift
from resdiff.losses.diffusion import error_per_sample
from resdiff.losses.perceptual import Lpips
from resdiff.metrics.trunks import VGG
from resdiff.metrics.weights import find_weights
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.train.arguments import option


@dataclass(frozen=True, kw_only=True)
class LossArguments:
    """What the network is trained for."""

    trained_part: Literal["all", "predictor", "denoiser"] = option(
        "all", "of a PixelUNet: the predictor for the mean alone, the denoiser for the chain, or all for the chain"
    )
    loss: Literal["mse", "l1"] = option("mse", "error of the prediction")
    loss_space: Literal["latent", "pixel"] = option("latent", "where it is measured; pixel: through the decoder")
    loss_weight: float = option(1.0, "of that error")
    lpips_weight: float = option(0.0, "of LPIPS (VGG) through the decoder")
    lpips_weights: Path | None = option(None, "torchvision's vgg16-397923af.pth [caches, else downloaded]")
    timestep_weights: tuple[float, ...] | None = option(None, "weight of each timestep's loss")
    last_step_share: float = option(0.0, "of the draws of t that are forced to T-1, which one-step sampling uses")

    def check_loss(self, timesteps: int | None = None) -> None:
        """Raise ValueError for values that cannot be meant, with a schedule of so many `timesteps` if that is known."""
        if timesteps is not None and self.timestep_weights is not None and len(self.timestep_weights) != timesteps:
            raise ValueError(f"--timestep_weights has {len(self.timestep_weights)} values for {timesteps} timesteps")
        if timesteps is not None and self.lpips_weight:
            find_weights(VGG.weights, self.lpips_weights)
        if not 0 <= self.last_step_share <= 1:
            raise ValueError(f"--last_step_share {self.last_step_share} must lie in [0, 1]")
        if self.trained_part == "predictor" and (self.lpips_weight or self.loss_space == "pixel"):
            raise ValueError("--trained_part predictor has no decoder; leave out --lpips_weight and --loss_space pixel")
        weights = (self.loss_weight, self.lpips_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(
                f"--loss_weight {self.loss_weight} and --lpips_weight {self.lpips_weight} must not be negative, nor both 0"
            )


class ResShiftLoss:
    """The loss of one micro-batch: Eq. (8) and (10) of ResShift, in latent or pixel space, with LPIPS if asked for.

    Noise and timesteps are drawn per sample, from its global index.
    """

    def __init__(
        self,
        args: LossArguments,
        pipe: ResShiftPipeline,
        unet: torch.nn.Module,  # the pipeline's network as accelerate prepared it
        device: torch.device,
        seed: int,
    ):
        self.args, self.pipe, self.unet, self.device, self.seed = args, pipe, unet, device, seed
        self.tables = pipe.scheduler.train_tables
        if args.trained_part == "predictor" and pipe.scheduler.config.prediction_type != "residual":
            found = pipe.scheduler.config.prediction_type
            raise ValueError(f"--trained_part predictor predicts the residual; the recipe's prediction_type is {found}")
        weights = args.timestep_weights or (1.0,) * len(pipe.scheduler)
        self.timestep_weights = torch.tensor(weights, device=device)
        self.lpips = Lpips(args.lpips_weights).to(device) if args.lpips_weight else None

    def draw(self, index: int, shape: torch.Size) -> tuple[int, Tensor]:
        """Draw timestep and noise (C, h, w) of a sample."""
        generator = sample_generator(self.seed, index, stream="diffusion")
        t_max = len(self.pipe.scheduler) - 1
        t = int(torch.randint(t_max + 1, (), generator=generator))
        forced = float(torch.rand((), generator=generator)) < self.args.last_step_share
        noise = torch.randn(shape, generator=device_generator(generator, self.device), device=self.device)
        return t_max if forced else t, noise

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Return the scalars "loss" and its parts of a batch with LR images, both in [0, 1]."""
        assert batch.lr is not None, "`Prepare` makes them"
        args, pipe, config = self.args, self.pipe, self.pipe.scheduler.config
        hr, lq = batch.hr * 2 - 1, batch.lr * 2 - 1
        with torch.no_grad():  # one call for both: the encoder is most of the cost
            x0, y = pipe.encode(torch.cat([hr, pipe.upsample(lq)])).chunk(2)
        if args.trained_part == "predictor":
            mean_error = error_per_sample(self.unet(None, None, lq).float(), y - x0, args.loss).mean()
            return {"loss": mean_error, args.loss: mean_error}
        draws = [self.draw(index, x0.shape[1:]) for index in batch.index]
        t = torch.tensor([step for step, _ in draws], device=self.device)
        noise = torch.stack([field for _, field in draws])

        x_t = resshift.q_sample(x0, y, t, noise, self.tables)
        model_input = resshift.scale_input(x_t, t, self.tables, config.input_scaling, config.data_var)
        output = self.unet(model_input, t, lq).float()

        image: Tensor | None = None
        if args.loss_space == "pixel" or self.lpips is not None:
            image = pipe.decode(resshift.predict_x0(output, x_t, y, t, self.tables, config.prediction_type))
        if args.loss_space == "pixel" and image is not None:
            error = error_per_sample(image, hr, args.loss)
        else:
            target = resshift.training_target(x0, y, noise, t, self.tables, config.prediction_type)
            error = error_per_sample(output, target, args.loss)
        loss = args.loss_weight * error
        parts: dict[str, Tensor] = {args.loss: error.mean()}
        if self.lpips is not None and image is not None:
            distance = self.lpips(image.clamp(-1, 1), hr)  # (B,)
            if not torch.isfinite(
                distance
            ).all():  # as the reference: the error alone then, and nothing to go back through
                distance = torch.zeros_like(distance)
            loss = loss + args.lpips_weight * distance
            parts["lpips"] = distance.mean()
        return {"loss": (self.timestep_weights[t] * loss).mean()} | parts
