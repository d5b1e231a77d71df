"""Conformance handlers of whole chains: kinds resshift/pipeline, sinsr_sampling and sinsr_distill.

The pipelines themselves run, given the recorded noise; only what they do not show (the inverse chain, gradients) is
written out here.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from case import Case
from diffusion import DIFFUSION_DEFAULTS, input_scaling, scheduler_of
from networks import REFERENCE_DEFAULTS, VQ_UNUSED, load, swin_unet_config
from torch import Tensor

from resdiff.diffusion import resshift
from resdiff.losses.distillation import distillation_losses
from resdiff.models.swin_unet import SwinUNet
from resdiff.models.vq import VQAutoencoder
from resdiff.pipelines.guidance import UNGUIDED
from resdiff.pipelines.precision import Rescue
from resdiff.pipelines.resshift import ResShiftPipeline
from resdiff.pipelines.tiles import restored_bands
from resdiff.resize import pad_to_multiple
from resdiff.schedulers.resshift import ResShiftScheduler
from resdiff.tiling import Box, Chop, boxes

RESSHIFT_DEFAULTS = REFERENCE_DEFAULTS | {"cond_mask": False, "lq_size": 256}
SINSR_DEFAULTS = REFERENCE_DEFAULTS | {"lq_size": None}
PUBLISHED_TERMS = ("learn_xT", "finetune_use_gt", "loss_in_image_space")


class RecordedPipeline(ResShiftPipeline):
    """The pipeline, with a list of what its autoencoder made and the `scale_factor` that other configs may have."""

    scale_factor = 1.0
    decoded: list[Tensor]

    def encode(self, image: Tensor) -> Tensor:
        return super().encode(image) * self.scale_factor

    def decode(self, latents: Tensor, guidance: Any = UNGUIDED, lq: Tensor | None = None) -> Tensor:
        self.decoded.append(super().decode(latents / self.scale_factor))
        return self.decoded[-1]


def part(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights of one network, without its name."""
    return {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(f"{name}.")}


def build_unet(case: Case, name: str, defaults: dict[str, Any]) -> SwinUNet:
    """Build the UNet whose weights are called `name`."""
    return load(SwinUNet(**swin_unet_config(case.config["model"], defaults)), part(case.state, name))


def diffusion_config(case: Case) -> dict[str, Any]:
    """Return the arguments of `create_gaussian_diffusion`."""
    return DIFFUSION_DEFAULTS | case.config["diffusion"]


def build_pipeline(case: Case, unet: SwinUNet, scheduler: ResShiftScheduler) -> RecordedPipeline:
    """Build the pipeline of a case around its autoencoder."""
    config = case.config["autoencoder"]
    config = {k: v for k, v in (config | config["ddconfig"]).items() if k not in (*VQ_UNUSED, "ddconfig")}
    vae = load(VQAutoencoder(**config), part(case.state, "vq"))
    pipe = RecordedPipeline(
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        scale=diffusion_config(case)["sf"],
        padding_multiple=case.config.get("padding_offset", 1),
    )
    pipe.scale_factor = diffusion_config(case)["scale_factor"]
    pipe.decoded = []
    pipe.set_progress_bar_config(disable=True)
    return pipe


@dataclass
class Chain:
    """What a chain passed through, by the index of its step in the (respaced) schedule, which counts down."""

    steps: int
    x_after: dict[int, Tensor] = field(default_factory=dict)
    pred_x0: dict[int, Tensor] = field(default_factory=dict)

    def on_step(self, i: int, timestep: Tensor, x: Tensor, x0: Tensor) -> Tensor:
        """Record a step of `SRPipeline.restore`."""
        t = self.steps - 1 - i
        self.x_after[t], self.pred_x0[t] = x, x0
        return x


@dataclass(frozen=True)
class RecordedNoise:
    """The noise of a file as a `Noise`: draw 0 is the prior's, draw i that of step T - i."""

    in_order: ClassVar[bool] = True

    case: Case
    steps: int
    suffix: str = ""

    def __call__(self, draw: int, shape: torch.Size) -> Tensor:
        """Return what was drawn."""
        return self.case.inputs[f"noise_{self.steps - draw}{self.suffix}" if draw else f"noise_prior{self.suffix}"]


@torch.no_grad()
def pipeline(case: Case) -> dict[str, Tensor]:
    """Kind resshift/pipeline: LR image to SR image, tiled where the config has a chop size."""
    config, lq, mask = case.config, case.inputs["lq"], case.inputs.get("mask")
    pipe = build_pipeline(case, build_unet(case, "unet", RESSHIFT_DEFAULTS), scheduler_of(diffusion_config(case)))
    steps, scale = pipe.scheduler.num_inference_steps, pipe.native_scale
    chain, visited = Chain(steps), []

    def noise_of(boxes: list[Box]) -> RecordedNoise:
        suffix = f"_p{len(visited)}" if "noise_prior_p0" in case.inputs else ""
        visited.extend((box.top, box.left) for box in boxes)
        return RecordedNoise(case, steps, suffix)

    padded = partial(pipe.restore_padded, noise_of=noise_of, num_inference_steps=steps, on_step=chain.on_step)
    restore = partial(pipe.restore_tiles, chain=padded, rescue=Rescue(pipe.networks))
    tiling = Chop(config["chop_size"], config["chop_stride"]) if "chop_size" in config else None
    canvas = lq if mask is None else torch.cat([lq, mask / 2 + 0.5], dim=1)
    image = torch.cat(list(restored_bands(restore, canvas, tiling, scale, tile_batch=1)), dim=-2)

    if tiling is not None:
        tiles = [box.crop(lq).shape[-2:] for box in boxes(*lq.shape[-2:], tiling.size, tiling.step)]
        patches = (x[..., : h * scale, : w * scale].clamp(-1, 1) for x, (h, w) in zip(pipe.decoded, tiles, strict=True))
        return {
            "image": image * 0.5 + 0.5,
            "starts": torch.tensor(visited),
            **{f"patch_{k}": patch for k, patch in enumerate(patches)},
        }
    padded_lq, _ = pad_to_multiple(lq, pipe.padding_multiple)
    z_y = pipe.encode(pipe.upsample(padded_lq))
    return {
        "z_y": z_y,
        "x_T": pipe.scheduler.prior_sample(z_y, case.inputs["noise_prior"]),
        **{f"x_after_t{t}": x for t, x in chain.x_after.items()},
        **{f"pred_x0_t{t}": x for t, x in chain.pred_x0.items()},
        "decoded_unclamped": pipe.decoded[0],
        "image": image,
    }


def inverse_chain(pipe: ResShiftPipeline, z_x: Tensor, z_y: Tensor, lq: Tensor) -> dict[int, Tensor]:
    """Return the x_t, t = 1..T-1, that SinSR's inverse chain passes from x_0 = z_x; the network is asked at x_{t-1}."""
    scheduler, x, passed = pipe.scheduler, z_x, {}
    for t, timestep in enumerate(scheduler.timesteps.flip(0)):
        if t > 0:
            output = pipe.unet(scheduler.scale_model_input(x, timestep), timestep.expand(len(x)), lq)
            x0 = resshift.predict_x0(output, x, z_y, t, scheduler.tables, scheduler.config.prediction_type)
            x = passed[t] = resshift.inverse_step(x0, x, z_y, t, scheduler.tables)
    return passed


@torch.no_grad()
def sinsr_sampling(case: Case) -> dict[str, Tensor]:
    """Kind resshift/sinsr_sampling: deterministic chain, its inverse, and one step."""
    config, lq = diffusion_config(case), case.inputs["lq"]
    scheduler = scheduler_of(config, cap_start=True, deterministic=True)
    pipe = build_pipeline(case, build_unet(case, "unet", SINSR_DEFAULTS), scheduler)
    tables, steps = scheduler.tables, scheduler.num_inference_steps
    noise = RecordedNoise(case, steps)
    z_y, z_x = pipe.encode(pipe.upsample(lq)), pipe.encode(case.inputs["hr"])

    chain = Chain(steps)
    x0 = pipe.restore(lq, noise, mask=None, num_inference_steps=steps, on_step=chain.on_step)
    inverse = inverse_chain(pipe, z_x, z_y, lq)
    onestep = chain.pred_x0[steps - 1]
    if steps == len(scheduler):  # the published way; a respaced chain of the reference starts at another eta
        single = Chain(1)
        onestep = pipe.restore(lq, noise, mask=None, num_inference_steps=1, on_step=single.on_step)

    # The coefficients of the step are formed from float32 lookups in use; the file has them in float64.
    product, ratio = tables.etas_prev * tables.etas, tables.etas_prev / tables.etas
    mixed, m = product.sqrt(), ratio.sqrt()
    return {
        "table/etas": tables.etas,
        "table/etas_prev": tables.etas_prev,
        "table/sqrt_etas": tables.sqrt_etas,
        "table/ddim_coef1": product,
        "table/ddim_coef2": ratio,
        "table/k": 1 - tables.etas_prev + mixed - m,
        "table/m": m,
        "table/j": tables.etas_prev - mixed,
        "z_y": z_y,
        "z_x": z_x,
        "x_T": resshift.prior_sample(z_y, case.inputs["noise_prior"], tables),
        **{f"ddim_x_after_t{t}": x for t, x in chain.x_after.items()},
        **{f"ddim_pred_x0_t{t}": x for t, x in chain.pred_x0.items()},
        **{f"inverse_x_after_t{t}": x for t, x in inverse.items()},
        "ddim_image": pipe.decode(x0),
        "onestep_latent": onestep,
        "onestep_image": pipe.decode(onestep),
    }


def sinsr_distill(case: Case) -> dict[str, Tensor]:
    """Kind resshift/sinsr_distill: the loss terms, what they compare, and the student's gradients."""
    config, given = diffusion_config(case), case.inputs
    options = case.config["loss_args"]
    others = [name for name, value in options.items() if value and name not in PUBLISHED_TERMS]
    others = [name for name in others if name != "uncertainty_num_aux"]  # without effect unless uncertainty_hyper is on
    if others:
        raise ValueError(f"loss_args has {', '.join(others)}; only the published terms exist")
    if config["predict_type"] != "xstart":
        raise ValueError(f"predict_type is {config['predict_type']}; SinSR's networks predict x_0 (xstart)")
    scheduler = scheduler_of(config, cap_start=True, deterministic=True)
    tables = scheduler.tables
    student, teacher = (build_unet(case, name, SINSR_DEFAULTS) for name in ("student", "teacher"))
    pipe = build_pipeline(case, teacher, scheduler)
    with torch.no_grad():
        z_y, z_gt = pipe.encode(pipe.upsample(given["lq"])), pipe.encode(given["hr"])

    def denoise(x_t: Tensor, t: int) -> Tensor:
        timestep = scheduler.timesteps.flip(0)[t]
        return teacher(scheduler.scale_model_input(x_t, timestep), timestep.expand(len(x_t)), given["lq"])

    in_image_space = options.get("loss_in_image_space", False)
    result = distillation_losses(
        student,
        lambda x_T: resshift.deterministic_sample(denoise, x_T, z_y, tables),
        tables,
        lq=given["lq"],
        z_y=z_y,
        z_gt=z_gt,
        noise=given["noise"],
        inverse_weight=float(options.get("learn_xT", False)),
        gt_weight=float(options.get("finetune_use_gt", 0)),
        t=given["t"],
        scaling=input_scaling(config),
        weighted=config["weighted_mse"],
        decode=pipe.decode if in_image_space else None,
        hr=given["hr"] if in_image_space else None,
    )
    prefix = "grad_mean_loss/"
    names = [name.removeprefix(prefix) for name in case.expected if name.startswith(prefix)]
    parameters = dict(student.named_parameters())
    gradients = torch.autograd.grad(result.terms["loss"].mean(), [parameters[name] for name in names])
    return {
        "z_T": result.x_T,
        "z_start_teacher": result.x0_teacher,
        "pred_zstart": result.x0_student,
        **{f"term/{name}": x for name, x in result.terms.items()},
        **{prefix + name: gradient for name, gradient in zip(names, gradients, strict=True)},
    }
