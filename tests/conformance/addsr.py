"""Conformance handlers of AddSR's training: kinds addsr/time_adaptive_weights, diffaugment, dinov2, discriminator.

Whole steps of it are in `addsr_step.py`.
"""

import re
from typing import Any

import torch
from case import Case, check_mids
from seesr import MID_LIMIT, load
from torch import Tensor

from resdiff.checkpoints.dino import UNUSED, vit_config
from resdiff.data.diffaugment import CUTOUT, TRANSLATION, Draws, diff_augment, translation
from resdiff.losses.addsr import feature_gradient_penalty, time_adaptive_weight
from resdiff.losses.adversarial import hinge_discriminator, hinge_generator
from resdiff.models.dino_features import DinoFeatures
from resdiff.models.projected_discriminator import ProjectedDiscriminator
from resdiff.models.vision_transformer import VisionTransformer
from resdiff.schedulers.ddpm import DDPMScheduler

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
DINO = "dino.model.model."  # the reference's name of the frozen transformer


def time_adaptive_weights(case: Case) -> dict[str, Tensor]:
    """Kind addsr/time_adaptive_weights: weights of the student's timesteps and of the teacher's noise levels."""
    match = re.fullmatch(r"([\d.]+)\*([\d.]+)\*\*\(s-1\)", case.config["formula"])
    if match is None:
        raise ValueError(f"formula is {case.config['formula']}; known is mu*nu**(s-1)")
    steps = {int(t): s for t, s in case.config["s"].items() if t != "else"}
    alphas_cumprod = DDPMScheduler(**STABLE_DIFFUSION).alphas_cumprod
    return {
        "ta_weight": time_adaptive_weight(
            case.inputs["t_ta"], sorted(steps, key=steps.__getitem__), float(match[1]), float(match[2])
        ),
        "alphas_cumprod": alphas_cumprod,
        "sqrt_alphas_cumprod": alphas_cumprod.sqrt(),
    }


def diffaugment(case: Case) -> dict[str, Tensor]:
    """Kind addsr/diffaugment: the image after each augmentation, with the recorded draws; x are rows."""
    ratios = case.config["translation_ratio"], case.config["cutout_ratio"]
    if ratios != (TRANSLATION, CUTOUT):
        raise ValueError(f"ratios are {ratios}; resdiff has {(TRANSLATION, CUTOUT)}")
    shifts, centers = (
        torch.cat([case.inputs[f"{name}_{axis}"].flatten(1) for axis in "xy"], dim=1)
        for name in ("translation", "cutout_offset")
    )
    image, draws = case.inputs["x"], Draws(shifts, centers)
    return {"translated": translation(image, draws.shifts), "cutout": diff_augment(image, draws)}


def vision_transformer(state: dict[str, Tensor], num_heads: int) -> VisionTransformer:
    """Build a transformer from its weights, as from a published file."""
    used = {name: x for name, x in state.items() if name not in UNUSED}
    return load(VisionTransformer(**vit_config(state, num_heads)), used)


@torch.no_grad()
def dinov2(case: Case) -> dict[str, Tensor]:
    """Kind addsr/dinov2: the class token. Mids are the embedded patches and those behind the block of index 2."""
    vit, image = vision_transformer(case.state, case.config["num_heads"]), case.inputs["x"]
    embedded, *states = vit.hidden_states(image)
    mids = {f"feat_{i}": x[:, 1:].mT for i, x in enumerate([embedded, *states[2:3]])}
    check_mids(case, mids, MID_LIMIT)
    return {"cls": vit(image)[:, 0]}


def discriminator_of(config: dict[str, Any], state: dict[str, Tensor]) -> ProjectedDiscriminator:
    """Build the discriminator of a case in evaluation mode; the augmentation is not its own."""
    if config.get("diffaug") or config.get("p_crop"):
        raise ValueError("the case has augmentations, but no draws of them")
    vit = vision_transformer(
        {k.removeprefix(DINO): x for k, x in state.items() if k.startswith(DINO)}, config["vit"]["num_heads"]
    )
    features = DinoFeatures(vit, config["vit"].get("hooks", (2, 5, 8, 11)))
    heads = {k: x for k, x in state.items() if not k.startswith(DINO)}
    critic = ProjectedDiscriminator(features, features.dims, config["c_dim"], config.get("cmap_dim", 64))
    critic.heads.load_state_dict({k.removeprefix("heads."): x for k, x in heads.items()})
    return critic.eval()


def discriminator(case: Case) -> dict[str, Tensor]:
    """Kind addsr/discriminator: logits of each head; in training mode the spectral norms after it are mids."""
    critic = discriminator_of(case.config, case.state)
    training = str(case.config.get("mode", "eval")).startswith("train")
    critic.train(training)
    condition = case.inputs["c"]
    features = [x.detach().requires_grad_() for x in critic.features(case.inputs["x"])]
    check_mids(case, {f"feature_{i}": x for i, x in enumerate(features)}, MID_LIMIT)
    logits = critic.heads(features, condition)
    outputs = {f"logits_{i}": x for i, x in enumerate(logits)}
    check_mids(case, {f"after.{name}": x for name, x in critic.state_dict().items()}, MID_LIMIT)
    if training:
        return outputs
    fake = critic(case.inputs["x_fake"], condition)
    return outputs | {
        "hinge_d": hinge_discriminator(torch.cat(logits, dim=1), fake),
        "gan_g": hinge_generator(fake),
        "feature_gradient_penalty_lambda1": feature_gradient_penalty(logits, features),
    }
