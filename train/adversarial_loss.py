"""What one step of `train/adversarial.py` computes: images of the chain, and the losses of both players."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from resdiff.data.training_set import Batch, device_generator, sample_generator
from resdiff.diffusion import resshift
from resdiff.losses.adversarial import feature_matching, hinge_discriminator, hinge_generator, scaled_gradient
from resdiff.models.discriminator import PatchDiscriminator
from resdiff.models.prompt_encoder import Usual
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.train.arguments import option


@dataclass(frozen=True, kw_only=True)
class AdversarialArguments:
    """How far the discriminator and the prompt may pull, in shares of the pixel loss."""

    adversarial_weight: float = option(0.3, "norm of the discriminator's gradient at the image, over that of L1")
    feature_weight: float = option(0.1, "the same for the match of the discriminator's features")
    attribute_weight: float = option(0.1, "the same for the match of the photo's measured attributes")
    attribute_level: float = option(0.4, "target where nothing is unusual: 0 the mean's attributes, 1 a photo's")
    attribute_share: float = option(0.7, "how much of what is unusual about a photo the target has; above 1 more")
    last_step_share: float = option(0.25, "of the steps at t = T-1, which stays the mean: no discriminator there")
    discriminator_learning_rate: float = option(5e-4, "Adam, betas .5 and .9; follows the schedule of the other")
    discriminator_warmup_steps: int = option(200, "steps in which only the discriminator learns")

    def check_loss(self) -> None:
        """Raise ValueError for values that cannot be meant."""
        for name in ("adversarial_weight", "feature_weight", "attribute_weight", "attribute_share"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ValueError(f"--{name} {value} must not be negative")
        for name in ("attribute_level", "last_step_share"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"--{name} {value} must lie in [0, 1]")
        if not 0 < self.discriminator_learning_rate < math.inf:
            raise ValueError(f"--discriminator_learning_rate {self.discriminator_learning_rate} must be positive")
        if self.discriminator_warmup_steps < 0:
            raise ValueError(f"--discriminator_warmup_steps {self.discriminator_warmup_steps} must not be negative")


@dataclass(frozen=True)
class Said:
    """What is said of a batch of photos; None without a text encoder."""

    prompt: Tensor | None = None  # embeddings (B, prompt_dim), zeros where nothing is said
    measured: Tensor | None = None  # attributes (B, A) of the photos against the mean, NaN where undefined
    usual: Usual | None = None  # for such means


NOTHING = Said()


@dataclass(frozen=True)
class Made:
    """Images of a batch as the chain makes them; all in [-1, 1], (B, 3, H, W)."""

    hr: Tensor
    y: Tensor
    mean: Tensor  # the predictor's
    x0: Tensor  # predicted at `step`; carries the gradient
    said: Said
    step: int  # t, the same for the batch


def draw_step(seed: int, optimizer_step: int, timesteps: int, last_step_share: float) -> int:
    """Draw the t of an optimizer step, the same in all processes; `last_step_share` of them are the last, T-1."""
    generator = sample_generator(seed, optimizer_step, stream="chain step")
    if timesteps == 1 or float(torch.rand((), generator=generator)) < last_step_share:
        return timesteps - 1
    return int(torch.randint(timesteps - 1, (), generator=generator))


class Chain:
    """Runs the model's own chain down to a step, so that it learns from what it will see.

    Drawn from the photo, as residual shifting is trained, x_t would tell the network most of what it shall invent.
    """

    def __init__(
        self,
        pipe: ResShiftPipeline,
        unet: torch.nn.Module,  # the pipeline's network as accelerate prepared it
        say: Callable[[Batch, Tensor], Said],  # of the photos, beyond the predicted mean
        seed: int,
    ):
        self.pipe, self.unet, self.say, self.seed = pipe, unet, say, seed

    def __call__(self, batch: Batch, step: int) -> Made:
        """Return the prediction at t = `step`; noise is drawn per sample, from its global index."""
        assert batch.lr is not None, "`Prepare` makes them"
        pipe, tables = self.pipe, self.pipe.scheduler.train_tables
        hr, lq = batch.hr * 2 - 1, batch.lr * 2 - 1
        generators = [
            device_generator(sample_generator(self.seed, index, stream="chain"), hr.device) for index in batch.index
        ]

        def noise() -> Tensor:
            return torch.stack([torch.randn(hr.shape[1:], generator=g, device=hr.device) for g in generators])

        with torch.no_grad():
            y = pipe.upsample(lq)
            prediction = pipe.unet.predict(lq)
            mean = y - pipe.unet(None, None, lq, prediction=prediction).float()
            said = self.say(batch, mean)
            x_t = resshift.prior_sample(y, noise(), tables)
            for t in range(len(tables) - 1, step, -1):
                x0 = self._predict(pipe.unet, x_t, y, lq, t, prediction, said.prompt)
                x_t = resshift.posterior_step(x0, x_t, t, noise(), tables)
        x0 = self._predict(self.unet, x_t, y, lq, step, prediction, said.prompt)
        return Made(hr=hr, y=y, mean=mean, x0=x0, said=said, step=step)

    def _predict(
        self,
        unet: torch.nn.Module,
        x_t: Tensor,
        y: Tensor,
        lq: Tensor,
        t: int,
        prediction: Tensor,
        prompt: Tensor | None,
    ) -> Tensor:
        tables, config = self.pipe.scheduler.train_tables, self.pipe.scheduler.config
        model_input = resshift.scale_input(x_t, t, tables, config.input_scaling, config.data_var)
        steps = torch.full((len(x_t),), t, device=x_t.device)
        output = unet(model_input, steps, lq, prediction=prediction, prompt=prompt).float()
        return resshift.predict_x0(output, x_t, y, t, tables, config.prediction_type)


class GeneratorLoss:
    """L1 to the photo, which is the value; the other losses take part by gradients of fixed proportion to its own."""

    def __init__(
        self,
        args: AdversarialArguments,
        discriminator: PatchDiscriminator,
        attribute_distance: Callable[[Made, Tensor], Tensor] | None,  # of the image, which carries the gradient
        last: int,  # the step that stays the mean
    ):
        self.args, self.discriminator, self.last = args, discriminator, last
        self.attribute_distance = attribute_distance if args.attribute_weight else None

    def __call__(self, made: Made) -> dict[str, Tensor]:
        """Return the scalars "loss" and its parts."""
        args, x0 = self.args, made.x0
        image = x0.detach().requires_grad_()
        norm = (x0[0].numel() ** 0.5) / x0.numel()  # of the gradient of L1 at one sample
        parts: dict[str, tuple[Tensor, float]] = {}
        if made.step != self.last:
            logits, fake = self.discriminator(image, made.y, made.said.prompt)
            with torch.no_grad():
                _, real = self.discriminator(made.hr, made.y, made.said.prompt)
            parts["adversarial"] = hinge_generator(logits), args.adversarial_weight
            parts["features"] = feature_matching(fake, real), args.feature_weight
        if self.attribute_distance is not None:
            parts["attributes"] = self.attribute_distance(made, image), args.attribute_weight
        loss = l1 = (x0 - made.hr).abs().mean()
        for value, weight in parts.values():
            if value.requires_grad:  # nothing can be measured on some batches
                pull = (x0 * scaled_gradient(value, image, weight * norm)).sum()
                loss = loss + pull - pull.detach()
        return {"loss": loss, "l1": l1.detach()} | {name: value.detach() for name, (value, _) in parts.items()}


def discriminator_loss(discriminator: torch.nn.Module, made: Made) -> Tensor:
    """Return the hinge loss of the discriminator on a batch's photos and the images made for them; a scalar."""
    both = torch.cat([made.hr, made.x0.detach()])
    said = made.said.prompt
    prompt = None if said is None else torch.cat([said, said])
    logits, _ = discriminator(both, torch.cat([made.y, made.y]), prompt)
    real, fake = logits.float().chunk(2)
    return hinge_discriminator(real, fake)
