"""Conformance handler of AddSR's training step: kind addsr/distill_losses. The discriminator is not updated in it."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from addsr import discriminator_of, vision_transformer
from case import Case, check_mids
from diffusers import AutoencoderKL
from sampling import part
from seesr import MID_LIMIT, StubTagger, load
from torch import Tensor

from resdiff.diffusion.gaussian import predict_x0
from resdiff.losses.addsr import GAN_WEIGHT, distillation_loss, time_adaptive_weight
from resdiff.losses.adversarial import hinge_discriminator, hinge_generator
from resdiff.models.ram import tagger_input_bicubic
from resdiff.models.seesr import SeeSRControlNet, SeeSRUNet
from resdiff.pipelines.addsr import TIMESTEPS
from resdiff.schedulers.ddpm import DDPMScheduler

DRAWS = 4  # noise levels at which the teacher looks at a prediction
CONDITION = "controlnet_stu.controlnet_cond_embedding.conv_in.weight"


@dataclass(frozen=True)
class Step:
    """The networks of a case; `who` is "stu" or "tea"."""

    case: Case

    @cached_property
    def networks(self) -> dict[str, torch.nn.Module]:
        """The network of each name."""
        config, state = self.case.config, self.case.state
        made = {"vae": load(AutoencoderKL(**config["vae"]), part(state, "vae"))}
        for who in ("stu", "tea"):
            made[f"unet_{who}"] = load(SeeSRUNet(**config["unet"]), part(state, f"unet_{who}"))
            made[f"controlnet_{who}"] = load(SeeSRControlNet(**config["controlnet"]), part(state, f"controlnet_{who}"))
        return made

    @cached_property
    def scheduler(self) -> DDPMScheduler:
        """Its noise levels."""
        return DDPMScheduler(**self.case.config["scheduler"])

    @cached_property
    def tagger(self) -> StubTagger:
        """The stand-in for RAM."""
        return StubTagger(part(self.case.state, "ram_stub"))

    def tokens(self, image: Tensor, clamp: bool) -> Tensor:
        """Return the image tokens of a condition."""
        return self.tagger(tagger_input_bicubic(image, 384, clamp=clamp), with_logits=False).image_embeds

    def predicted(self, who: str, x: Tensor, t: Tensor, condition: Tensor, tokens: Tensor) -> Tensor:
        """Return z_0, from one pass of ControlNet and UNet."""
        text, seen = self.case.inputs["text_embeds"], {"image_encoder_hidden_states": tokens}
        residuals = self.networks[f"controlnet_{who}"](x, t, text, condition, **seen)
        eps = self.networks[f"unet_{who}"](
            x,
            t,
            text,
            down_block_additional_residuals=residuals.down_block_res_samples,
            mid_block_additional_residual=residuals.mid_block_res_sample,
            **seen,
        ).sample
        return predict_x0(eps, x, self.scheduler.alphas_cumprod[t].reshape(-1, 1, 1, 1))

    def decoded(self, z0: Tensor) -> Tensor:
        """Return the image, (B, 3, H, W) in [-1, 1]."""
        vae = self.networks["vae"]
        return vae.decode(z0 / vae.config.scaling_factor).sample.clamp(-1, 1)


def student(step: Step) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the student's z_0, in the refining branch that of its second pass, and what was on the way."""
    given = step.case.inputs
    t, condition, tokens, mids = given["timesteps_student"], given["lr"], step.tokens(given["lr"], clamp=True), {}
    if step.case.config["refine"]:
        with torch.no_grad():
            x = step.scheduler.add_noise(given["hr_latents"], given["noise"], t)
            condition = step.decoded(step.predicted("stu", x, t, condition, tokens))  # in [-1, 1], unlike inference's
            tokens = step.tokens(condition, clamp=False)
        t = torch.tensor([TIMESTEPS[TIMESTEPS.index(int(now)) + 1] for now in t])
        mids = {"x0_first_step": condition, "timesteps_second": t}
    x = step.scheduler.add_noise(given["hr_latents"], given["noise"], t)
    z0 = step.predicted("stu", x, t, condition, tokens)
    return z0, mids | {"z0_stu": z0}


@torch.no_grad()
def teacher(step: Step, z0: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the teacher's images (K, B, 3, H, W), their weights (K, B) and its z_0 by name."""
    given = step.case.inputs
    condition = given["hr"] / 2 + 0.5
    tokens = step.tokens(condition, clamp=True)
    timesteps = given["timesteps_teacher"].chunk(DRAWS)
    latents = [
        step.predicted("tea", step.scheduler.add_noise(z0, given["noise"], t), t, condition, tokens) for t in timesteps
    ]
    images = torch.stack([step.decoded(z) for z in latents])
    weights = step.scheduler.alphas_cumprod[torch.stack(timesteps)].sqrt()
    return images, weights, {f"z0_tea_{k}": z for k, z in enumerate(latents)}


def distill_losses(case: Case) -> dict[str, Tensor]:
    """Kind addsr/distill_losses: both losses and the student's gradients."""
    step, config, hr = Step(case), case.config, case.inputs["hr"]
    z0, mids = student(step)
    image = step.decoded(z0)
    images, weights, teacher_mids = teacher(step, z0)

    dinov2 = vision_transformer(part(case.state, "dinov2"), config["dinov2"]["num_heads"])
    size = (config["dinov2"]["resize"],) * 2
    with torch.no_grad():
        condition = dinov2(F.interpolate(case.inputs["lr"], size, mode="bilinear"))[:, 0]
    check_mids(case, mids | teacher_mids | {"x0_stu": image, "cls_lr": condition}, MID_LIMIT)

    critic = discriminator_of(config["discriminator"], part(case.state, "discriminator"))
    loss_d = hinge_discriminator(critic(hr, condition), critic(image.detach(), condition))
    gan_loss = hinge_generator(critic(image, condition))
    distillation = distillation_loss(image, images, weights, time_adaptive_weight(case.inputs["t_ta"]))
    loss = distillation.mean() + GAN_WEIGHT * gan_loss
    wanted = [
        step.networks[name].get_parameter(rest) for name, rest in map(split_name, (config["grad_param"], CONDITION))
    ]
    unet_grad, condition_grad = torch.autograd.grad(loss, wanted)
    return {
        "loss_D": loss_d,
        "gan_loss": gan_loss,
        "loss": loss,
        **{f"dis_loss{i + 1}": x for i, x in enumerate(distillation)},
        "grad_unet_first_image_attention": unet_grad,
        "grad_controlnet_cond_conv_in": condition_grad,
    }


def split_name(parameter: str) -> tuple[str, str]:
    """Return the network and the rest of a parameter's name."""
    network, _, rest = parameter.partition(".")
    return network, rest
